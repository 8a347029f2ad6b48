// Jobs: the list of what is and was done, and one job as it goes on.
import { Alert, Button, Card, CardBody, CardTitle, Grid, GridItem } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, useParams } from 'react-router-dom'
import { api, client } from '../api/client'
import type { Job } from '../api/schema'
import { Confirm } from '../parts/dialogs'
import { ended, JobProgress, JobSteps, useJobWords } from '../parts/job'
import { JobLabel } from '../parts/labels'
import { Empty, Facts, Page, PageAnswer, sentence } from '../parts/page'
import { DataTable, FilterBar, useFilter, usePages, type Column } from '../parts/table'
import { Age, Ago, Moment, useFormat } from '../parts/values'
import { useMe } from '../session'
import { GroupLink, useGroupName } from './group-link'
import { NextStep } from './next-step'
import { WaitingCard } from './waiting'

const kinds = ['mirror', 'cycle', 'verify', 'test', 'end-test', 'failover', 'commit', 'rollback', 'reprotect', 'failback', 'fence', 'drop-point', 'remove'] as const

/** All jobs of the appliance, or of one group. */
export function JobTable({ group }: { group?: string }) {
  const { t } = useTranslation()
  const words = useJobWords()
  const filter = useFilter('state', 'kind')
  const { state, kind } = filter.values
  const rows = usePages((offset, limit) =>
    api.queryOptions('get', '/jobs', { params: { query: { group, state: state as 'active' | undefined, kind, offset, limit } } }))
  const columns: Column<Job>[] = [
    { title: t('jobs.kind'), width: 15, cell: j => <Link to={`/jobs/${j.id}`}>{words.kind(j.kind)}</Link> },
    ...(group ? [] : [{ title: t('jobs.group'), width: 15, cell: (j: Job) => (j.group ? <GroupLink id={j.group} /> : '') } satisfies Column<Job>]),
    { title: t('jobs.state'), width: 10, cell: j => <JobLabel state={j.state} /> },
    { title: t('jobs.outcome'), width: 35, cell: j => <Outcome job={j} /> },
    { title: t('jobs.created'), width: 15, cell: j => <Ago at={j.created} /> },
    { title: t('jobs.took'), width: 10, cell: j => <Took job={j} /> },
  ]
  return (
    <>
      <FilterBar filter={filter} total={rows.pending ? undefined : rows.total} choices={[
        { name: 'state', label: t('jobs.state'), options: [['active', t('jobs.active')], ['ended', t('jobs.ended')]] },
        { name: 'kind', label: t('jobs.kind'), options: kinds.map(k => [k, words.kind(k)]) },
      ]} />
      <DataTable label={t('nav.jobs')} columns={columns} rows={rows} rowKey={j => j.id} empty={<Empty title={t('jobs.none')} />} />
    </>
  )
}

function Outcome({ job }: { job: Job }) {
  if (!ended(job) && job.state !== 'queued') return <JobProgress job={job} />
  return job.error ? <>{sentence(job.error)}</> : null
}

function Took({ job }: { job: Job }) {
  const f = useFormat()
  if (!job.started) return null
  return job.ended ? <>{f.duration((Date.parse(job.ended) - Date.parse(job.started)) / 1000)}</> : <Age since={job.started} />
}

export function Jobs() {
  const { t } = useTranslation()
  return <Page title={t('nav.jobs')} lead={t('jobs.lead')}><JobTable /></Page>
}

export function JobPage() {
  const { id = '' } = useParams()
  return <PageAnswer query={api.useQuery('get', '/jobs/{id}', { params: { path: { id } } })}>{job => <JobView job={job} />}</PageAnswer>
}

const reported = ['test', 'failover', 'commit', 'rollback', 'reprotect', 'failback', 'fence']

function JobView({ job }: { job: Job }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const words = useJobWords()
  const name = useGroupName(job.group)
  const [cancelling, setCancelling] = useState(false)
  const title = name ? t('jobs.title', { kind: words.kind(job.kind), group: name }) : words.kind(job.kind)
  const over = ended(job)
  return (
    <Page title={title} within={[['/jobs', t('nav.jobs')]]} labels={<JobLabel state={job.state} />}
      actions={!over && job.state !== 'undoing' && may('operator') && <Button variant="secondary" isDanger onClick={() => setCancelling(true)}>{t('jobs.cancel')}</Button>}>
      <Grid hasGutter>
        {job.waiting && <GridItem><WaitingCard job={job} waiting={job.waiting} /></GridItem>}
        {job.error && (
          <GridItem>
            <Alert variant={job.state === 'cancelled' ? 'warning' : 'danger'} isInline component="h2" title={sentence(job.error)}>{job.hint && <p>{job.hint}</p>}</Alert>
          </GridItem>
        )}
        {over && job.group && job.kind !== 'remove' && <GridItem><After group={job.group} /></GridItem>}
        <GridItem lg={8}>
          <Card isFullHeight>
            <CardTitle component="h2">{t('job.steps')}</CardTitle>
            <CardBody>
              {!over && <div className="job-progress"><JobProgress job={job} size="lg" /></div>}
              <JobSteps job={job} />
              <Spoken job={job} />
            </CardBody>
          </Card>
        </GridItem>
        <GridItem lg={4}>
          <Card isFullHeight>
            <CardTitle component="h2">{t('jobs.about')}</CardTitle>
            <CardBody>
              <Facts narrow of={[
                [t('jobs.group'), job.group && <GroupLink id={job.group} />], [t('jobs.created'), <Moment at={job.created} />],
                [t('jobs.took'), <Took job={job} />],
                [t('jobs.report'), over && reported.includes(job.kind) && <Link to={`/reports/${job.id}`}>{t('jobs.openReport')}</Link>],
                [t('jobs.finished'), job.ended && <Moment at={job.ended} />],
              ]} />
            </CardBody>
          </Card>
        </GridItem>
      </Grid>
      {cancelling && (
        <Confirm title={t('jobs.cancelTitle', { what: title })} confirm={t('jobs.cancel')} danger onClose={() => setCancelling(false)}
          onConfirm={() => client.POST('/jobs/{id}/cancel', { params: { path: { id: job.id } } })}>
          <p>{t('jobs.cancelText')}</p>
        </Confirm>
      )}
    </Page>
  )
}

/** What comes after the job: the next step of its group, as long as there is one. */
function After({ group }: { group: string }) {
  const { data } = api.useQuery('get', '/groups/{id}', { params: { path: { id: group } } })
  return data ? <NextStep group={data} /> : null
}

/** Tells each new step and the end to those who listen, and not every byte. */
function Spoken({ job }: { job: Job }) {
  const { t } = useTranslation()
  const words = useJobWords()
  return <p className="pf-v6-u-screen-reader" role="status">{ended(job) ? t(`jobState.${job.state as 'failed'}`) : words.step(job.step ?? '')}</p>
}
