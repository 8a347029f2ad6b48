// The page for ten seconds a day: is everything protected, and if not, what is to be done next?
import { Alert, Card, CardBody, CardHeader, CardTitle, Grid, GridItem } from '@patternfly/react-core'
import ShieldIcon from '@patternfly/react-icons/dist/esm/icons/shield-alt-icon'
import type { ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router-dom'
import { api } from '../api/client'
import type { Overview } from '../api/schema'
import { colors, Donut, TimeChart } from '../parts/charts'
import { JobProgress, useJobWords } from '../parts/job'
import { SeverityLabel } from '../parts/labels'
import { Answer, Empty, Page, sentence } from '../parts/page'
import { Ago, useFormat } from '../parts/values'
import { useMe } from '../session'
import { useSaid } from '../words/codes'
import { AboutLink } from './alerts'
import { ButtonLink, StorageBar } from './hosts'

export function OverviewPage() {
  const { t } = useTranslation()
  const overview = api.useQuery('get', '/overview')
  return (
    <Page title={t('nav.overview')}>
      <Answer query={overview}>{o => (o.groups === 0 ? <Begin overview={o} /> : <State overview={o} />)}</Answer>
    </Page>
  )
}

/** The first steps of a new appliance, one at a time. */
function Begin({ overview }: { overview: Overview }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const hosts = overview.hosts.connected + overview.hosts.disconnected
  const next = hosts < 2
    ? <ButtonLink to="/hosts/new">{t(hosts === 0 ? 'overview.addHost' : 'overview.addSecondHost')}</ButtonLink>
    : <ButtonLink to="/groups/new">{t('overview.protect')}</ButtonLink>
  return (
    <Empty title={t('overview.welcome')} icon={ShieldIcon} action={may('administrator') && next}>
      {t(hosts === 0 ? 'overview.noHosts' : hosts === 1 ? 'overview.oneHost' : 'overview.noGroups')}
    </Empty>
  )
}

function State({ overview: o }: { overview: Overview }) {
  const { t } = useTranslation()
  return (
    <>
      <Verdict overview={o} />
      <Grid hasGutter>
        <GridItem md={12} lg={6}>
          <Panel title={t('overview.protection')}>
            <Donut title={String(o.machines)} subtitle={t('overview.machines', { count: o.machines })} slices={[
              { name: t('health.missed'), value: o.health.missed, color: colors.bad, to: '/machines?health=missed' },
              { name: t('health.at-risk'), value: o.health.atRisk, color: colors.warn, to: '/machines?health=at-risk' },
              { name: t('health.met'), value: o.health.met, color: colors.good, to: '/machines?health=met' },
              { name: t('health.off'), value: o.health.off, color: colors.off, to: '/machines?health=off' },
            ]} />
          </Panel>
        </GridItem>
        <GridItem md={12} lg={6}>
          <Panel title={t('overview.tests')}>
            <Donut title={String(o.groups)} subtitle={t('overview.groups', { count: o.groups })} slices={[
              { name: t('freshness.failed'), value: o.tests.failed, color: colors.bad, to: '/groups?sort=tested' },
              { name: t('freshness.never'), value: o.tests.never, color: colors.warn, to: '/groups?sort=tested' },
              { name: t('freshness.stale'), value: o.tests.stale, color: colors.warn, to: '/groups?sort=tested' },
              { name: t('freshness.fresh'), value: o.tests.fresh, color: colors.good, to: '/groups?sort=-tested' },
            ]} />
          </Panel>
        </GridItem>
        <GridItem md={12} lg={6}><Alerts overview={o} /></GridItem>
        <GridItem md={12} lg={6}><Jobs overview={o} /></GridItem>
        <GridItem><Throughput /></GridItem>
        {o.storage.length > 0 && <GridItem md={12} lg={6}><Storage overview={o} /></GridItem>}
      </Grid>
    </>
  )
}

/** The answer in one sentence. */
function Verdict({ overview: o }: { overview: Overview }) {
  const { t } = useTranslation()
  const { missed, atRisk } = o.health
  const [variant, title] =
    missed > 0 ? (['danger', t('overview.missed', { count: missed })] as const)
    : o.alerts.some(a => a.severity === 'critical') ? (['danger', t('overview.critical', { count: o.alertCount })] as const)
    : atRisk > 0 ? (['warning', t('overview.atRisk', { count: atRisk })] as const)
    : o.alertCount > 0 ? (['warning', t('overview.critical', { count: o.alertCount })] as const)
    : o.tests.never + o.tests.failed > 0 ? (['warning', t('overview.untested', { count: o.tests.never + o.tests.failed })] as const)
    : (['success', t('overview.good')] as const)
  const to = missed > 0 ? '/machines?health=missed' : o.alertCount > 0 ? '/alerts' : atRisk > 0 ? '/machines?health=at-risk' : o.tests.never + o.tests.failed > 0 ? '/groups?sort=tested' : undefined
  return <Alert variant={variant} isInline component="h2" className="verdict" title={title} actionLinks={to && <Link to={to}>{t('overview.look')}</Link>} />
}

function Panel({ title, more, children }: { title: string; more?: ReactNode; children: ReactNode }) {
  return (
    <Card isFullHeight>
      <CardHeader actions={more ? { actions: more } : undefined}><CardTitle component="h2">{title}</CardTitle></CardHeader>
      <CardBody>{children}</CardBody>
    </Card>
  )
}

const some = 5

function Alerts({ overview: o }: { overview: Overview }) {
  const { t } = useTranslation()
  const say = useSaid()
  return (
    <Panel title={t('nav.alerts')} more={o.alertCount > 0 && <Link to="/alerts">{t('overview.all', { count: o.alertCount })}</Link>}>
      {o.alerts.length === 0 ? <p className="none">{t('alerts.none')}</p> : (
        <ul className="lines">
          {o.alerts.slice(0, some).map(a => (
            <li key={a.id}>
              <SeverityLabel severity={a.severity} />
              <span>
                <AboutLink alert={a} />: {say('alert', a.kind, a.message).title}{' '}
                <small><Ago at={a.since} /></small>
              </span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  )
}

function Jobs({ overview: o }: { overview: Overview }) {
  const { t } = useTranslation()
  const words = useJobWords()
  return (
    <Panel title={t('overview.jobs')} more={o.activeJobs > 0 && <Link to="/jobs?state=active">{t('overview.all', { count: o.activeJobs })}</Link>}>
      {o.jobs.length === 0 ? <p className="none">{t('overview.noJobs')}</p> : (
        <ul className="lines">
          {o.jobs.slice(0, some).map(j => <li key={j.id}><Link to={`/jobs/${j.id}`} className="job-kind">{words.kind(j.kind)}</Link><JobProgress job={j} /></li>)}
        </ul>
      )}
    </Panel>
  )
}

function Storage({ overview: o }: { overview: Overview }) {
  const { t } = useTranslation()
  const f = useFormat()
  return (
    <Panel title={t('overview.storage')}>
      <ul className="lines">
        {o.storage.map(s => (
          <li key={s.host + s.storage}>
            <span className="job-kind"><Link to={`/hosts/${s.host}?tab=storage`}>{s.hostName}</Link>: {s.storage}<br /><small>{t('overview.replicas', { count: s.replicas, n: f.count(s.replicas) })}</small></span>
            <span className="fill"><StorageBar free={s.free} total={s.total} label={`${s.hostName}: ${sentence(s.storage)}`} /></span>
          </li>
        ))}
      </ul>
    </Panel>
  )
}

/** Bytes per second over the last day, as means of the slots that the appliance keeps. */
function Throughput() {
  const { t } = useTranslation()
  const f = useFormat()
  const history = api.useQuery('get', '/history', { params: { query: { hours: 24 } } })
  return (
    <Panel title={t('overview.throughput')}>
      <Answer query={history}>
        {h => (
          <TimeChart title={t('overview.throughput')} filled format={f.rate} series={[
            { name: t('overview.read'), points: h.samples.map(s => ({ x: new Date(s.time), y: s.bytesRead / s.seconds })) },
            { name: t('overview.written'), points: h.samples.map(s => ({ x: new Date(s.time), y: s.bytesWritten / s.seconds })) },
          ]} />
        )}
      </Answer>
    </Panel>
  )
}
