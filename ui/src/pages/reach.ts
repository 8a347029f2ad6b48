// Addresses of hosts, as a person fills them in and as drivers want them.

export interface Reach {
  way: 'ssh' | 'local' | 'other'
  address: string
  user: string
  keyFile: string
  knownHosts: string
  uri: string
}

export const nowhere: Reach = {
  way: 'ssh', address: '', user: 'root', keyFile: '/etc/understudy/id_ed25519', knownHosts: '/etc/understudy/known_hosts', uri: '',
}

const local = 'qemu:///system'

export function uriOf(r: Reach): string {
  if (r.way === 'local') return local
  if (r.way === 'other') return r.uri.trim()
  // Slashes may stay as they are in a query, and are easier to read.
  const part = (s: string) => encodeURIComponent(s.trim()).replaceAll('%2F', '/')
  return `qemu+ssh://${part(r.user)}@${r.address.trim()}/system?keyfile=${part(r.keyFile)}&known_hosts=${part(r.knownHosts)}`
}

/** What a person would have filled in; an address that is made otherwise is shown as it is. */
export function reachOf(uri: string): Reach {
  if (uri === local) return { ...nowhere, way: 'local' }
  const [, user, address, query] = uri.match(/^qemu\+ssh:\/\/([^@/]+)@([^/]+)\/system\?(.+)$/) ?? []
  const params = new URLSearchParams(query)
  const ssh: Reach = {
    ...nowhere, user: decodeURIComponent(user ?? ''), address: address ?? '', keyFile: params.get('keyfile') ?? '', knownHosts: params.get('known_hosts') ?? '',
  }
  return uriOf(ssh) === uri ? ssh : { ...nowhere, way: 'other', uri }
}
