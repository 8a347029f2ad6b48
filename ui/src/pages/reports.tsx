// Reports of test failovers, failovers and what follows them: the list, and one with the screens of its machines.
import { Alert, Button, Card, CardBody, CardTitle, Grid, GridItem } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { Link, useParams } from 'react-router-dom'
import { api } from '../api/client'
import type { paths, Report, ReportAction, ReportMachine } from '../api/schema'
import { useJobWords } from '../parts/job'
import { ResultLabel } from '../parts/labels'
import { Empty, Facts, Page, PageAnswer, sentence } from '../parts/page'
import { allRows, DataTable, FilterBar, useFilter, usePages, type Column } from '../parts/table'
import { Moment, useFormat } from '../parts/values'
import { GroupLink } from './group-link'

type Query = paths['/api/v1/reports']['get']['parameters']['query']
const kinds = ['test', 'failover', 'commit', 'rollback', 'reprotect', 'failback', 'fence'] as const

/** All reports, or those of one group. */
export function ReportTable({ group }: { group?: string }) {
  const { t } = useTranslation()
  const f = useFormat()
  const words = useJobWords()
  const filter = useFilter('kind')
  const rows = usePages((offset, limit) => api.queryOptions('get', '/reports', { params: { query: { group, ...filter.values, offset, limit } as Query } }))
  const columns: Column<Report>[] = [
    { title: t('reports.kind'), width: 20, cell: r => <Link to={`/reports/${r.id}`}>{words.kind(r.kind)}</Link> },
    ...(group ? [] : [{ title: t('group.name'), cell: (r: Report) => <GroupLink id={r.group} name={r.groupName} /> } satisfies Column<Report>]),
    { title: t('reports.outcome'), cell: r => <ResultLabel result={r.outcome} /> },
    { title: t('reports.started'), width: 20, cell: r => <Moment at={r.started} /> },
    { title: t('reports.rto'), cell: r => (r.seconds > 0 ? f.duration(r.seconds) : '—') },
    { title: t('reports.problem'), width: 30, cell: r => sentence(r.problem ?? '') },
  ]
  return (
    <>
      <FilterBar filter={filter} total={rows.pending ? undefined : rows.total} choices={[{ name: 'kind', label: t('reports.kind'), options: kinds.map(k => [k, words.kind(k)]) }]} />
      <DataTable label={t('nav.reports')} columns={columns} rows={rows} rowKey={r => r.id} empty={<Empty title={t('reports.none')}>{t('reports.noneHint')}</Empty>} />
    </>
  )
}

export function Reports() {
  const { t } = useTranslation()
  return <Page title={t('nav.reports')} lead={t('reports.lead')}><ReportTable /></Page>
}

export function ReportPage() {
  const { id = '' } = useParams()
  return <PageAnswer query={api.useQuery('get', '/reports/{id}', { params: { path: { id } } })}>{r => <ReportView report={r} />}</PageAnswer>
}

const under = (r: Report) => `/api/v1/reports/${encodeURIComponent(r.id)}`

function ReportView({ report: r }: { report: Report }) {
  const { t, i18n } = useTranslation()
  const f = useFormat()
  const words = useJobWords()
  return (
    <Page title={t('jobs.title', { kind: words.kind(r.kind), group: r.groupName })} within={[['/reports', t('nav.reports')]]} labels={<ResultLabel result={r.outcome} />}
      actions={<Button variant="secondary" component="a" href={`${under(r)}/html?lang=${i18n.language}`} target="_blank" rel="noreferrer">{t('reports.print')}</Button>}>
      {r.problem && <Alert variant={r.outcome === 'failed' ? 'danger' : 'warning'} isInline component="h2" title={sentence(r.problem)}>{r.hint && <p>{r.hint}</p>}</Alert>}
      <div className="sum" role="group" aria-label={t('preview.sum')}>
        <div><span>{t('reports.rto')}</span><strong>{r.seconds > 0 ? f.duration(r.seconds) : '—'}</strong><em>{t('reports.rtoHint')}</em></div>
        <div><span>{t('preview.way')}</span><strong>{r.from === r.to ? r.to : `${r.from} → ${r.to}`}</strong></div>
        {r.pointTaken && <div><span>{t('preview.point')}</span><strong>{f.moment(r.pointTaken)}</strong><em>{r.point}</em></div>}
        {r.kind === 'failover' && <div className={r.lossSeconds > 0 ? 'sum-loss' : 'sum-none'}><span>{t('reports.loss')}</span><strong>{r.lossSeconds > 0 ? f.duration(r.lossSeconds) : t('preview.lossNone')}</strong></div>}
      </div>
      <Grid hasGutter>
        <GridItem>
          <Grid hasGutter>{r.machines.map(m => <GridItem key={m.name} md={6} xl={4}><Machine report={r} machine={m} /></GridItem>)}</Grid>
        </GridItem>
        {r.actions.length > 0 && <GridItem><Actions actions={r.actions} /></GridItem>}
        <GridItem lg={6}><Steps report={r} /></GridItem>
        <GridItem lg={6}>
          <Card isFullHeight>
            <CardTitle component="h2">{t('jobs.about')}</CardTitle>
            <CardBody>
              <Facts narrow of={[
                [t('group.name'), <GroupLink id={r.group} name={r.groupName} />], [t('reports.started'), <Moment at={r.started} />], [t('jobs.finished'), r.ended && <Moment at={r.ended} />],
                [t('reports.job'), <Link to={`/jobs/${r.job}`}>{words.kind(r.kind)}</Link>],
                [t('reports.cleanUp'), r.cleanUp && <Link to={`/jobs/${r.cleanUp}`}>{words.kind('end-test')}</Link>],
                [t('preview.kind'), r.kind === 'failover' && t(r.planned ? 'preview.planned' : 'preview.unplanned')],
              ]} />
            </CardBody>
          </Card>
        </GridItem>
      </Grid>
    </Page>
  )
}

function Machine({ report, machine: m }: { report: Report; machine: ReportMachine }) {
  const { t } = useTranslation()
  const f = useFormat()
  const screen = `${under(report)}/screens/${encodeURIComponent(m.name)}`
  return (
    <Card isFullHeight>
      <CardTitle component="h2">{m.name}</CardTitle>
      <CardBody>
        {m.screen
          ? <a href={screen} target="_blank" rel="noreferrer"><img className="screen" src={screen} alt={t('reports.screen', { name: m.name })} loading="lazy" /></a>
          : <p className="screen screen-none">{m.screenProblem ? sentence(m.screenProblem) : t('reports.noScreen')}</p>}
        <ul className="report-checks">
          {m.checks.map((c, i) => (
            <li key={i}><ResultLabel result={c.passed ? 'passed' : 'failed'} /> <span>{c.message ? sentence(c.message) : t(`boot.kind.${c.kind as 'agent'}`)} · {f.duration(c.seconds)}</span></li>
          ))}
        </ul>
        <p className="report-where">{m.host}{m.stage > 0 && ` · ${t('boot.stage', { n: m.stage })}`}{m.started && <> · <Moment at={m.started} /></>}</p>
      </CardBody>
    </Card>
  )
}

function Actions({ actions }: { actions: ReportAction[] }) {
  const { t } = useTranslation()
  const f = useFormat()
  const columns: Column<ReportAction>[] = [
    { title: t('runbook.action'), cell: a => <strong>{a.name}</strong> },
    { title: t('runbook.kind'), cell: a => t(`runbook.kinds.${a.kind}`) },
    { title: t('runbook.when'), cell: a => `${t('boot.stage', { n: a.stage })}, ${t(`runbook.${a.when}`)}` },
    { title: t('reports.outcome'), cell: a => <ResultLabel result={a.outcome} /> },
    { title: t('jobs.took'), cell: a => f.duration((Date.parse(a.ended) - Date.parse(a.started)) / 1000) },
    { title: t('reports.output'), width: 40, cell: a => <>{a.by && <div>{t('reports.by', { name: a.by })}</div>}{a.error && <div>{sentence(a.error)}</div>}{a.output && <pre className="output">{a.output}</pre>}</> },
  ]
  return (
    <Card>
      <CardTitle component="h2">{t('runbook.title')}</CardTitle>
      <CardBody><DataTable flat label={t('runbook.title')} columns={columns} rows={allRows(actions)} rowKey={a => a.name + a.started} /></CardBody>
    </Card>
  )
}

function Steps({ report }: { report: Report }) {
  const { t } = useTranslation()
  const f = useFormat()
  const words = useJobWords()
  return (
    <Card isFullHeight>
      <CardTitle component="h2">{t('job.steps')}</CardTitle>
      <CardBody>
        <Facts of={report.steps.filter(s => !s.part).map(s => [words.step(s.step), s.ended && f.duration((Date.parse(s.ended) - Date.parse(s.started)) / 1000)])} />
      </CardBody>
    </Card>
  )
}
