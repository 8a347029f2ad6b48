// One protection group: how it stands, what to do now, and everything about it.
import { Alert, AlertGroup, Flex } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { useParams } from 'react-router-dom'
import { api } from '../api/client'
import type { Group, GroupMember } from '../api/schema'
import { FreshnessLabel, HealthLabel, StateLabel } from '../parts/labels'
import { Answer, Page, PageTabs, sentence } from '../parts/page'
import { allRows, DataTable, type Column } from '../parts/table'
import { Age, Ago, Count, useFormat } from '../parts/values'
import { JobTable } from './jobs'
import { away } from './next'
import { NextStep } from './next-step'
import { Points } from './points'
import { Settings } from './group-settings'

export function GroupPage() {
  const { id = '' } = useParams()
  return <Answer query={api.useQuery('get', '/groups/{id}', { params: { path: { id } } })}>{g => <GroupView group={g} />}</Answer>
}

function GroupView({ group }: { group: Group }) {
  const { t } = useTranslation()
  return (
    <Page title={group.name} within={[['/groups', t('nav.groups')]]}
      labels={<Flex columnGap={{ default: 'columnGapSm' }}><StateLabel state={group.state} paused={group.paused} /><HealthLabel health={group.health} reason={group.healthReason} /><FreshnessLabel freshness={group.testFreshness} /></Flex>}>
      <Alerts group={group} />
      <NextStep group={group} />
      <Sum group={group} />
      <PageTabs label={group.name} tabs={[
        { key: 'machines', title: t('group.tab.machines'), content: () => <Machines group={group} /> },
        { key: 'points', title: t('group.tab.points'), content: () => <Points group={group} /> },
        { key: 'jobs', title: t('group.tab.jobs'), content: () => <JobTable group={group.id} /> },
        { key: 'settings', title: t('group.tab.settings'), content: () => <Settings group={group} /> },
      ]} />
    </Page>
  )
}

function Alerts({ group }: { group: Group }) {
  const alerts = group.alerts ?? []
  if (alerts.length === 0) return null
  return (
    <AlertGroup className="alerts">
      {alerts.map(a => <Alert key={a.kind + a.since} variant="danger" isInline component="h2" title={sentence(a.message)}><p>{a.hint} <Ago at={a.since} /></p></Alert>)}
    </AlertGroup>
  )
}

function Sum({ group }: { group: Group }) {
  const { t } = useTranslation()
  const f = useFormat()
  const { newestTaken, worstSeconds } = group.rpo
  return (
    <div className="sum" role="group" aria-label={t('group.now')}>
      <div className={group.health === 'missed' ? 'sum-loss' : undefined}>
        <span>{t('group.age')}</span><strong>{newestTaken ? <Age since={newestTaken} /> : '—'}</strong>
        <em>{t('group.target', { rpo: f.duration(group.policy.rpoSeconds) })}{worstSeconds > 0 && ` · ${t('group.worst', { age: f.duration(worstSeconds) })}`}</em>
      </div>
      <div><span>{t('group.runsOn')}</span><strong>{away(group) ? group.targetHost : group.sourceHost}</strong><em>{t('group.protectedTo', { host: away(group) ? group.sourceHost : group.targetHost })}</em></div>
      <div><span>{t('group.points')}</span><strong><Count of={group.points} /></strong></div>
      <div><span>{t('group.lastTest')}</span><strong>{group.tested ? <Ago at={group.tested} /> : t('freshness.never')}</strong></div>
    </div>
  )
}

function Machines({ group }: { group: Group }) {
  const { t } = useTranslation()
  const checks = (_: GroupMember, i: number) => (group.machines?.[i]?.checks ?? []).map(c => c.kind).join(', ') || t('group.onlyRuns')
  const columns: Column<GroupMember>[] = [
    { title: t('machine.name'), cell: m => <strong>{m.name}</strong> },
    { title: t('group.health'), cell: () => <HealthLabel health={group.health} reason={group.healthReason} /> },
    { title: t('group.age'), cell: () => (group.rpo.newestTaken ? <Age since={group.rpo.newestTaken} /> : '—') },
    { title: t('group.sourceVM'), cell: m => m.sourceVM },
    { title: t('group.replicaVM'), cell: m => m.targetVM ?? '—' },
    { title: t('group.checks'), cell: checks },
    { title: t('group.problem'), cell: m => m.problem ?? '' },
  ]
  return <DataTable flat label={t('group.machines')} columns={columns} rows={allRows(group.members ?? [])} rowKey={m => m.replicaId} />
}
