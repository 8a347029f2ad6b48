// The list of protection groups.
import { Button } from '@patternfly/react-core'
import { useMemo } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, useNavigate } from 'react-router-dom'
import { api } from '../api/client'
import type { Group, paths } from '../api/schema'
import { FreshnessLabel, groupStates, HealthLabel, healths, StateLabel } from '../parts/labels'
import { Empty, Page } from '../parts/page'
import { DataTable, FilterBar, useFilter, usePages, type Column } from '../parts/table'
import { Age, Count } from '../parts/values'
import { useMe } from '../session'

type Query = paths['/api/v1/groups']['get']['parameters']['query']

export function Groups() {
  const { t } = useTranslation()
  const { may } = useMe()
  const go = useNavigate()
  const filter = useFilter('q', 'state', 'health', 'host', 'sort')
  const { sort = 'name', ...values } = filter.values
  const rows = usePages((offset, limit) => api.queryOptions('get', '/groups', { params: { query: { ...values, sort, offset, limit } as Query } }))
  const filtered = Object.values(values).some(v => v)
  const protect = may('administrator') && <Button key="protect" onClick={() => void go('/groups/new')}>{t('protect.button')}</Button>
  const columns = useMemo<Column<Group>[]>(() => [
    { title: t('group.name'), sort: 'name', width: 20, cell: g => <Link to={`/groups/${g.id}`}>{g.name}</Link> },
    { title: t('group.health'), sort: 'health', cell: g => <HealthLabel of={g} /> },
    { title: t('group.state'), sort: 'state', cell: g => <StateLabel state={g.state} paused={g.paused} /> },
    { title: t('group.age'), sort: 'age', cell: g => (g.rpo.newestTaken ? <Age since={g.rpo.newestTaken} /> : '—') },
    { title: t('group.machines'), cell: g => <Count of={(g.members ?? []).length} /> },
    { title: t('group.points'), sort: 'points', cell: g => <Count of={g.points} /> },
    { title: t('group.way'), cell: g => (g.reversed ? `${g.targetHost} → ${g.sourceHost}` : `${g.sourceHost} → ${g.targetHost}`) },
    { title: t('group.test'), sort: 'tested', cell: g => <FreshnessLabel freshness={g.testFreshness} /> },
  ], [t])
  return (
    <Page title={t('nav.groups')} lead={t('group.lead')} actions={protect}>
      <FilterBar filter={filter} total={rows.pending ? undefined : rows.total} search={{ name: 'q', label: t('group.search') }} choices={[
        { name: 'health', label: t('group.health'), options: healths.map(h => [h, t(`health.${h}`)]) },
        { name: 'state', label: t('group.state'), options: groupStates.map(s => [s, t(`state.${s}`)]) },
      ]} />
      <DataTable label={t('nav.groups')} columns={columns} rows={rows} rowKey={g => g.id} sort={sort} onSort={s => filter.set('sort', s)}
        empty={filtered ? <Empty title={t('group.noMatch')} /> : <Empty title={t('group.none')} action={protect}>{t('group.noneHint')}</Empty>} />
    </Page>
  )
}
