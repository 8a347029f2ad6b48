// One protection group: how it stands, what to do now, and everything about it.
import { Alert, AlertGroup, Flex } from '@patternfly/react-core'
import { lazy, Suspense } from 'react'
import { useTranslation } from 'react-i18next'
import { useParams } from 'react-router-dom'
import { api } from '../api/client'
import type { Group } from '../api/schema'
import { FreshnessLabel, HealthLabel, StateLabel } from '../parts/labels'
import { Loading, Page, PageAnswer, PageTabs, sentence } from '../parts/page'
import { Age, Ago, Count, useFormat } from '../parts/values'
import { useSaid } from '../words/codes'
import { DiskSettings } from './disk-fields'
import { Settings } from './group-settings'
import { JobTable } from './jobs'
import { MachineTable } from './machines'
import { away } from './next'
import { NextStep } from './next-step'
import { Points } from './points'
import { ReportTable } from './reports'
import { Boot } from './runbook'

// Charts are large, and few look at them.
const History = lazy(() => import('./history').then(m => ({ default: m.History })))

export function GroupPage() {
  const { id = '' } = useParams()
  return <PageAnswer query={api.useQuery('get', '/groups/{id}', { params: { path: { id } } })}>{g => <GroupView group={g} />}</PageAnswer>
}

function GroupView({ group }: { group: Group }) {
  const { t } = useTranslation()
  return (
    <Page title={group.name} within={[['/groups', t('nav.groups')]]}
      labels={<Flex columnGap={{ default: 'columnGapSm' }}><StateLabel state={group.state} paused={group.paused} /><HealthLabel of={group} /><FreshnessLabel freshness={group.testFreshness} /></Flex>}>
      <Alerts group={group} />
      <NextStep group={group} />
      <PageTabs label={group.name} tabs={[
        { key: 'machines', title: t('group.tab.machines'), content: () => <><Sum group={group} /><MachineTable group={group.id} /></> },
        { key: 'points', title: t('group.tab.points'), content: () => <Points group={group} /> },
        { key: 'history', title: t('group.tab.history'), content: () => <Suspense fallback={<Loading />}><History group={group} /></Suspense> },
        { key: 'jobs', title: t('group.tab.jobs'), content: () => <JobTable group={group.id} /> },
        { key: 'reports', title: t('group.tab.reports'), content: () => <ReportTable group={group.id} /> },
        { key: 'boot', title: t('group.tab.boot'), content: () => <Boot group={group} /> },
        { key: 'settings', title: t('group.tab.settings'), content: () => <><Settings group={group} /><DiskSettings group={group} /></> },
      ]} />
    </Page>
  )
}

function Alerts({ group }: { group: Group }) {
  const say = useSaid()
  const alerts = group.alerts ?? []
  if (alerts.length === 0) return null
  return (
    <AlertGroup className="alerts">
      {alerts.map(a => {
        const { title, detail } = say('alert', a.kind, sentence(a.message))
        return <Alert key={a.kind + a.since} variant="danger" isInline component="h2" title={title}>{detail && <p>{detail}</p>}<p>{a.hint} <Ago at={a.since} /></p></Alert>
      })}
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
      <div><span>{t('group.runsOn')}</span><strong>{away(group) ? group.targetHost : group.sourceHost}</strong><em>{['failed-over', 'committed'].includes(group.state) ? t('health.off') : t('group.protectedTo', { host: away(group) ? group.sourceHost : group.targetHost })}</em></div>
      <div><span>{t('group.points')}</span><strong><Count of={group.points} /></strong></div>
      <div><span>{t('group.lastTest')}</span><strong>{group.tested ? <Ago at={group.tested} /> : t('freshness.never')}</strong></div>
    </div>
  )
}
