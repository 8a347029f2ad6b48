// Names of groups, where only their ids are known.
import { useQuery } from '@tanstack/react-query'
import { Link } from 'react-router-dom'
import { client, Problem } from '../api/client'

/** Asked for once: the name of a group does not change. Groups that are gone have none. */
export function useGroupName(id?: string): string | undefined {
  const { data } = useQuery({
    queryKey: ['get', '/name-of-group', id], enabled: !!id, gcTime: Infinity,
    queryFn: async () => {
      try {
        return (await client.GET('/groups/{id}', { params: { path: { id: id! } } })).data?.name ?? ''
      } catch (e) {
        if (e instanceof Problem && e.status === 404) return ''
        throw e
      }
    },
  })
  return data || undefined
}

export function GroupLink({ id, name }: { id: string; name?: string }) {
  return name ? <Link to={`/groups/${id}`}>{name}</Link> : <AskedLink id={id} />
}

function AskedLink({ id }: { id: string }) {
  const name = useGroupName(id)
  return name ? <Link to={`/groups/${id}`}>{name}</Link> : <span>{id}</span>
}
