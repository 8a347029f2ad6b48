// The page before an order: what will happen, what will be lost, and the button that does it.
import {
  Alert, Button, Card, CardBody, CardTitle, Checkbox, Flex, Form, FormGroup, FormSelect, FormSelectOption, Grid, GridItem, Label, Radio, TextInput,
} from '@patternfly/react-core'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useId, useRef, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { useNavigate, useParams, useSearchParams } from 'react-router-dom'
import { api, client, key, Problem } from '../api/client'
import type { Group, Job, Plan, PlanChange, PlanMachine, PlanOrder, Point } from '../api/schema'
import { Answer, Empty, Page, PageAnswer, ProblemAlert, sentence } from '../parts/page'
import { allRows, DataTable, type Column } from '../parts/table'
import { Age, Moment, useFormat } from '../parts/values'
import { useMe } from '../session'
import { useSaid } from '../words/codes'
import { alike } from './alike'
import { orders, type Order } from './next'

export function OrderPage() {
  const { id = '', order = '' } = useParams()
  const { t } = useTranslation()
  const group = api.useQuery('get', '/groups/{id}', { params: { path: { id } } })
  if (!orders.includes(order as Order)) return <Empty title={t('app.nowhere')} />
  return <PageAnswer query={group}>{g => <Preview key={order} group={g} order={order as Order} />}</PageAnswer>
}

const choosesPoint = (order: Order, planned: boolean) => order === 'test' || (order === 'failover' && !planned)

function Preview({ group, order }: { group: Group; order: Order }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const say = useSaid()
  const go = useNavigate()
  const [params, setParams] = useSearchParams()
  const [force, setForce] = useState(false)
  const [deleteReplicas, setDelete] = useState(false)
  const [typed, setTyped] = useState('')
  const point = params.get('point') ?? ''
  const sourceAnswers = useSourceAnswers(group, order)
  const chosen = params.get('planned')
  // Nothing is lost in a planned failover, as long as the source is there to be shut down.
  const planned = order === 'failover' && (chosen ? chosen === 'true' : point === '' && sourceAnswers !== false)
  const wish: PlanOrder = { order, planned, force: force && !planned, point: order === 'drop-point' || choosesPoint(order, planned) ? point : '', deleteReplicas }
  const plan = usePlan(group, wish, order !== 'failover' || chosen !== null || point !== '' || sourceAnswers !== undefined)
  // One page gives one order, however often the button is pressed or the request is sent again.
  const once = useRef(key())
  const sending = useRef(false)
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>()
  const name = useId()

  const set = (changes: Record<string, string>) => setParams(old => {
    for (const [k, v] of Object.entries(changes)) v ? old.set(k, v) : old.delete(k)
    return old
  }, { replace: true })
  const give = async () => {
    if (sending.current) return // a second click comes before the button is drawn anew
    sending.current = true
    setBusy(true)
    setError(undefined)
    try {
      const job = await orderOf(group, wish, once.current)
      void go(`/jobs/${job.id}`, { replace: true })
    } catch (e) {
      setError(e)
      setBusy(false)
      sending.current = false
      // It was refused: the next attempt is another order. When nobody answered, it is the same one.
      if (e instanceof Problem) once.current = key()
    }
  }
  return (
    <Page title={t(`preview.${order}.title`, { group: group.name })} lead={t(`preview.${order}.lead`)} within={[['/groups', t('nav.groups')], [`/groups/${group.id}`, group.name]]}>
      <div className="preview">
        {order === 'failover' && <FailoverKind planned={planned} away={sourceAnswers === false} onChange={p => set({ planned: String(p), point: p ? '' : point })} />}
        {(choosesPoint(order, planned) || order === 'remove') && (
          <Form isHorizontal className="preview-choices" onSubmit={e => e.preventDefault()}>
            {choosesPoint(order, planned) && <PointChoice group={group} point={point} onChange={p => set({ point: p })} />}
            {order === 'failover' && <Checkbox id={`${name}-force`} label={t('preview.force')} description={t('preview.forceHint')} isChecked={force} onChange={(_, v) => setForce(v)} />}
            {order === 'remove' && <Checkbox id={`${name}-delete`} label={t('preview.deleteReplicas')} description={t('preview.deleteReplicasHint')} isChecked={deleteReplicas} onChange={(_, v) => setDelete(v)} />}
          </Form>
        )}
        <Answer query={plan}>
          {p => (
            <>
              <Sum plan={p} />
              <Warnings plan={p} />
              {error ? <ProblemAlert error={error} /> : null}
              <Card className={p.irreversible ? 'give give-irreversible' : 'give'}>
                <CardBody>
                  <p className="give-undo"><strong>{t(p.irreversible ? 'preview.irreversible' : 'preview.reversible')}</strong> {say('undo', order, p.undo ?? '').title}</p>
                  <Form onSubmit={e => { e.preventDefault(); if (ready(p)) void give() }}>
                    {p.irreversible && p.allowed && (
                      <FormGroup label={t('confirm.type', { name: group.name })} fieldId={`${name}-typed`}>
                        <TextInput id={`${name}-typed`} value={typed} onChange={(_, v) => setTyped(v)} autoComplete="off" spellCheck={false} className="give-name" />
                      </FormGroup>
                    )}
                    <Flex columnGap={{ default: 'columnGapMd' }}>
                      <Button type="submit" size="lg" variant={p.irreversible || order === 'failover' ? 'danger' : 'primary'} isLoading={busy} isDisabled={!ready(p) || busy}>{t(`preview.${order}.go`)}</Button>
                      <Button size="lg" variant="link" isDisabled={busy} onClick={() => void go(`/groups/${group.id}`)}>{t('preview.back')}</Button>
                    </Flex>
                  </Form>
                </CardBody>
              </Card>
              <Grid hasGutter>
                <GridItem lg={7}><Changes changes={p.changes ?? []} /></GridItem>
                <GridItem lg={5}><Steps plan={p} /></GridItem>
                <GridItem><Machines plan={p} /></GridItem>
              </Grid>
            </>
          )}
        </Answer>
      </div>
    </Page>
  )
  function ready(p: Plan) {
    return p.allowed && may(order === 'remove' || order === 'drop-point' ? 'administrator' : 'operator') && (!p.irreversible || typed === group.name)
  }
}

/** What the appliance would do now. It is asked again when the group has changed, and what was there stays until then. */
function usePlan(group: Group, wish: PlanOrder, enabled: boolean) {
  return useQuery({
    queryKey: ['post', '/plan', group.id, wish, group.state, group.job, group.rpo.newestTaken], enabled, placeholderData: keepPreviousData,
    queryFn: async () => (await client.POST('/groups/{id}/plan', { params: { path: { id: group.id } }, body: wish })).data!,
  })
}

/** Whether the machines to be failed over can be shut down, as far as that is known; undefined while it is asked. */
function useSourceAnswers(group: Group, order: Order): boolean | undefined {
  const { data, error } = useQuery({
    queryKey: ['post', '/plan', group.id, 'source'], enabled: order === 'failover',
    queryFn: async () => (await client.POST('/groups/{id}/plan', { params: { path: { id: group.id } }, body: { order: 'failover', planned: true } })).data!,
  })
  if (error) return true
  return data && !(data.warnings ?? []).some(w => w.stops && (w.code === 'source-unreachable' || w.code === 'source-gone'))
}

async function orderOf(group: Group, wish: PlanOrder, once: string): Promise<Job> {
  const params = { path: { id: group.id } }
  const headers = { 'Idempotency-Key': once }
  const { order, planned, point, force } = wish
  switch (order) {
    case 'test':
      return (await client.POST('/groups/{id}/test', { params, headers, body: { point } })).data!
    case 'failover':
      return (await client.POST('/groups/{id}/failover', { params, headers, body: { planned, point, force } })).data!
    case 'remove':
      return (await client.DELETE('/groups/{id}', { params: { ...params, query: { deleteReplicas: wish.deleteReplicas } }, headers })).data!
    case 'drop-point':
      return (await client.DELETE('/groups/{id}/points/{point}', { params: { path: { id: group.id, point: point! } }, headers })).data!
    default:
      return (await client.POST(`/groups/{id}/${order}`, { params, headers })).data!
  }
}

function FailoverKind({ planned, away, onChange }: { planned: boolean; away: boolean; onChange: (planned: boolean) => void }) {
  const { t } = useTranslation()
  const id = useId()
  return (
    <fieldset className="tiles">
      <legend>{t('preview.kind')}</legend>
      {away && <Alert variant="info" isInline isPlain title={t('preview.sourceAway')} />}
      <div className="tiles-row">
        {([true, false] as const).map(p => (
          <Card key={String(p)} className={planned === p ? 'tile tile-chosen' : 'tile'}>
            <CardBody>
              <Radio id={`${id}-${p}`} name={id} isChecked={planned === p} onChange={() => onChange(p)} label={t(p ? 'preview.planned' : 'preview.unplanned')}
                description={t(p ? 'preview.plannedHint' : 'preview.unplannedHint')} />
            </CardBody>
          </Card>
        ))}
      </div>
    </fieldset>
  )
}

function PointChoice({ group, point, onChange }: { group: Group; point: string; onChange: (id: string) => void }) {
  const { t } = useTranslation()
  const f = useFormat()
  const id = useId()
  const { data } = api.useQuery('get', '/groups/{id}/points', { params: { path: { id: group.id } } })
  const points = [...(data ?? [])].sort((a, b) => b.taken.localeCompare(a.taken))
  const text = (p: Point) => `${f.moment(p.taken)} · ${t(`consistency.${p.consistency as 'crash'}`)}${p.suspect ? ` · ${t('point.suspect')}` : ''}`
  return (
    <FormGroup label={t('preview.point')} fieldId={id}>
      <FormSelect id={id} value={point} onChange={(_, v) => onChange(v)}>
        <FormSelectOption value="" label={t('preview.newest')} />
        {points.map(p => <FormSelectOption key={p.id} value={p.id} label={text(p)} />)}
      </FormSelect>
    </FormGroup>
  )
}

/** In one glance: from where to where, from which moment, and what that costs. */
function Sum({ plan }: { plan: Plan }) {
  const { t } = useTranslation()
  const f = useFormat()
  const loss = plan.lossSeconds
  return (
    <div className="sum" role="group" aria-label={t('preview.sum')}>
      <div><span>{t('preview.machines', { count: (plan.machines ?? []).length })}</span><strong>{(plan.machines ?? []).length}</strong></div>
      <div><span>{t('preview.way')}</span><strong>{plan.from === plan.to ? plan.to : `${plan.from} → ${plan.to}`}</strong></div>
      {plan.point && <div><span>{t('preview.moment')}</span><strong><Age since={plan.point.taken} /></strong><em><Moment at={plan.point.taken} /> · {t(`consistency.${plan.point.consistency as 'crash'}`)}</em></div>}
      {loss !== undefined && plan.order !== 'test' && (
        <div className={loss > 0 ? 'sum-loss' : 'sum-none'}><span>{t('preview.loss')}</span><strong>{loss > 0 ? f.duration(loss) : t('preview.lossNone')}</strong>{loss > 0 && <em>{t(`preview.lossOf.${plan.order === 'rollback' ? 'rollback' : 'point'}`)}</em>}</div>
      )}
      {plan.order === 'test' && <div className="sum-none"><span>{t('preview.production')}</span><strong>{t('preview.untouched')}</strong></div>}
    </div>
  )
}

function Warnings({ plan }: { plan: Plan }) {
  const { t } = useTranslation()
  const say = useSaid()
  const refusal = say('problem', plan.code ?? '', sentence(plan.refusal ?? ''))
  const all = alike(plan.warnings ?? [], w => w.text).sort((a, b) => Number(b.stops ?? false) - Number(a.stops ?? false))
  return (
    <div className="warnings">
      {!plan.allowed && <Alert variant="danger" isInline component="h2" title={t('preview.refused')}><p>{refusal.title}</p>{refusal.detail && <p>{refusal.detail}</p>}{plan.hint && <p>{plan.hint}</p>}</Alert>}
      {all.map(w => {
        const { title, detail } = say('warning', w.code, w.text, w)
        return (
          <Alert key={w.code + w.text} variant={w.stops ? 'danger' : 'warning'} isInline component="h2" title={title}>
            {detail && <p>{detail}</p>}
            {w.stops && <p>{t('preview.stops')}</p>}
            {w.others.length > 0 && <p>{t('preview.alike', { machines: w.others.join(', ') })}</p>}
            {w.hint && <p>{w.hint}</p>}
          </Alert>
        )
      })}
    </div>
  )
}

const destroys = ['source-off', 'source-writes-given-up', 'replica-writes-discarded', 'no-way-back', 'points-dropped', 'replicas-deleted', 'protection-ends', 'stray-off']

function Changes({ changes }: { changes: PlanChange[] }) {
  const { t } = useTranslation()
  const say = useSaid()
  return (
    <Card isFullHeight>
      <CardTitle component="h2">{t('preview.changes')}</CardTitle>
      <CardBody>
        {changes.length === 0 && <p className="none">{t('preview.nothing')}</p>}
        <ol className="changes">
          {alike(changes, c => c.text).map((c, i) => {
            const { title, detail } = say('change', c.code, c.text, c)
            return (
              <li key={i}>
                <span className={destroys.includes(c.code) ? 'change-takes' : undefined}>{title}</span>
                {detail && <div className="change-others">{detail}</div>}
                {c.others.length > 0 && <div className="change-others">{t('preview.alike', { machines: c.others.join(', ') })}</div>}
              </li>
            )
          })}
        </ol>
      </CardBody>
    </Card>
  )
}

function Steps({ plan }: { plan: Plan }) {
  const { t, i18n } = useTranslation()
  const word = (s: string) => (i18n.exists(`jobStep.${s}`) ? t(`jobStep.${s}` as never) : s)
  return (
    <Card isFullHeight>
      <CardTitle component="h2">{t('preview.steps')}</CardTitle>
      <CardBody><ol className="steps">{(plan.steps ?? []).map(s => <li key={s}>{word(s)}</li>)}</ol></CardBody>
    </Card>
  )
}

const starts = ['test', 'failover', 'failback']

function Machines({ plan }: { plan: Plan }) {
  const { t } = useTranslation()
  const power = (s: PlanMachine['source']) => <Label variant="outline" color={s === 'running' ? 'green' : 'grey'}>{t(`power.${s}`)}</Label>
  const columns: Column<PlanMachine>[] = [
    { title: t('machine.name'), cell: m => m.name },
    { title: t('preview.atSource'), cell: m => power(m.source) },
    { title: t('preview.atTarget'), cell: m => power(m.replica) },
    { title: t('preview.networks'), cell: m => (m.networks ?? []).map((n, i) => <div key={i}>{!n.from || n.from === n.to ? n.to : `${n.from} → ${n.to}`}</div>) },
    { title: t('preview.checks'), cell: m => (m.checks > 0 ? m.checks : starts.includes(plan.order) ? t('group.onlyRuns') : '—') },
  ]
  return (
    <Card>
      <CardTitle component="h2">{t('group.machines')}</CardTitle>
      <CardBody><DataTable flat label={t('group.machines')} columns={columns} rows={allRows(plan.machines ?? [])} rowKey={m => m.name} /></CardBody>
    </Card>
  )
}

export const toOrder = (group: string, order: Order, point?: string) => `/groups/${group}/order/${order}${point ? `?point=${encodeURIComponent(point)}` : ''}`
