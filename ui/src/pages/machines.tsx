// All protected machines, or those of a group.
import { Label, ToolbarItem } from '@patternfly/react-core'
import { useMemo } from 'react'
import { useTranslation } from 'react-i18next'
import { api } from '../api/client'
import type { paths, ProtectedMachine } from '../api/schema'
import { HealthLabel, healths, StateLabel } from '../parts/labels'
import { Empty, Page } from '../parts/page'
import { DataTable, FilterBar, useFilter, usePages, type Column } from '../parts/table'
import { Age } from '../parts/values'
import { GroupLink, useGroupName } from './group-link'

type Query = paths['/api/v1/machines']['get']['parameters']['query']

/** The replica is production: there is none beside it. */
const replaced = (m: ProtectedMachine) => m.groupState === 'failed-over' || m.groupState === 'committed'

export function MachineTable({ group }: { group?: string }) {
  const { t } = useTranslation()
  const filter = useFilter('q', 'health', 'group', 'host', 'sort')
  const { sort = 'name', ...values } = filter.values
  const narrowed = useGroupName(group ? undefined : values.group)
  const rows = usePages((offset, limit) => api.queryOptions('get', '/machines', { params: { query: { ...values, ...(group && { group }), sort, offset, limit } as Query } }))
  const filtered = Object.values(values).some(v => v)
  const columns = useMemo<Column<ProtectedMachine>[]>(() => [
    { title: t('machine.name'), sort: 'name', width: 20, cell: m => <strong>{m.name}</strong> },
    ...(group ? [] : [{ title: t('group.name'), sort: 'group', cell: (m: ProtectedMachine) => <GroupLink id={m.group} name={m.groupName} /> } satisfies Column<ProtectedMachine>]),
    { title: t('group.health'), sort: 'health', cell: m => <HealthLabel of={m} /> },
    ...(group ? [] : [{ title: t('group.state'), cell: (m: ProtectedMachine) => <StateLabel state={m.groupState} /> } satisfies Column<ProtectedMachine>]),
    { title: t('group.age'), sort: 'age', cell: m => (m.rpo.newestTaken ? <Age since={m.rpo.newestTaken} /> : '—') },
    { title: t('group.runsOn'), cell: m => (replaced(m) ? m.targetHost : m.sourceHost) },
    { title: t('machines.replica'), cell: m => (m.replicaVM && !replaced(m) ? m.targetHost : '—') },
    { title: t('group.problem'), width: 25, cell: m => m.problem ?? '' },
  ], [t, group])
  const narrowing = (name: 'group' | 'host', text?: string) =>
    text && <ToolbarItem key={name} alignSelf="center"><Label color="blue" onClose={() => filter.set(name, '')} closeBtnAriaLabel={t('machines.noFilter', { what: text })}>{t(`machines.of.${name}`, { name: text })}</Label></ToolbarItem>
  return (
    <>
      <FilterBar filter={filter} total={rows.pending ? undefined : rows.total} search={{ name: 'q', label: t('machine.search') }}
        choices={[{ name: 'health', label: t('group.health'), options: healths.map(h => [h, t(`health.${h}`)]) }]}>
        {!group && narrowing('group', values.group && (narrowed ?? values.group))}
        {narrowing('host', values.host)}
      </FilterBar>
      <DataTable label={t('nav.machines')} columns={columns} rows={rows} rowKey={m => `${m.group}/${m.sourceVM}`} sort={sort} onSort={s => filter.set('sort', s)}
        empty={<Empty title={t(filtered ? 'machines.noMatch' : 'machines.none')} />} />
    </>
  )
}

export function Machines() {
  const { t } = useTranslation()
  return <Page title={t('nav.machines')} lead={t('machines.lead')}><MachineTable /></Page>
}
