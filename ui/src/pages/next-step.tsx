// The card that says how a group stands and what to do now, with a button for each order.
import { Button, Card, CardBody, Dropdown, DropdownItem, DropdownList, Flex, FlexItem, Icon, MenuToggle } from '@patternfly/react-core'
import CheckCircleIcon from '@patternfly/react-icons/dist/esm/icons/check-circle-icon'
import ExclamationCircleIcon from '@patternfly/react-icons/dist/esm/icons/exclamation-circle-icon'
import ExclamationTriangleIcon from '@patternfly/react-icons/dist/esm/icons/exclamation-triangle-icon'
import InfoCircleIcon from '@patternfly/react-icons/dist/esm/icons/info-circle-icon'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, useNavigate } from 'react-router-dom'
import { api } from '../api/client'
import type { Group } from '../api/schema'
import { useSay } from '../parts/dialogs'
import { ended, JobProgress, useJobWords } from '../parts/job'
import { ProblemAlert, sentence } from '../parts/page'
import { useMe } from '../session'
import { advise, away, possible, testing, type Advice, type Order } from './next'
import { WaitingCard } from './waiting'

const icons = { success: CheckCircleIcon, info: InfoCircleIcon, warning: ExclamationTriangleIcon, danger: ExclamationCircleIcon }

// Orders that have a button of their own; the others are in the menu unless they are what should be done.
const prominent: Order[] = ['test', 'end-test', 'failover', 'commit', 'rollback', 'reprotect', 'failback']

export function NextStep({ group }: { group: Group }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const advice = advise(group)
  const Sign = icons[advice.tone]
  const hosts = away(group) ? { from: group.targetHost, to: group.sourceHost } : { from: group.sourceHost, to: group.targetHost }
  return (
    <Card className={`next next-${advice.tone}`}>
      <CardBody>
        <Flex columnGap={{ default: 'columnGapLg' }} alignItems={{ default: 'alignItemsFlexStart' }} flexWrap={{ default: 'nowrap' }}>
          <Icon status={advice.tone} size="xl" className="next-icon"><Sign /></Icon>
          <FlexItem grow={{ default: 'grow' }}>
            <h2 className="pf-v6-c-title pf-m-xl">{t(`next.${advice.say}.title`, hosts)}</h2>
            <p className="next-text">{t(`next.${advice.say}.text`, { ...hosts, group: group.name })}</p>
            {group.problem && advice.say !== 'working' && <p className="next-text"><strong>{sentence(group.problem)}</strong> {group.hint}</p>}
            {testing(group) && <p className="next-text"><Link to={`/groups/${group.id}?tab=reports`}>{t('next.look')}</Link></p>}
            <AtWork group={group} />
            {may('operator') && <Orders group={group} advice={advice} />}
          </FlexItem>
        </Flex>
      </CardBody>
    </Card>
  )
}

/** The jobs that somebody waits for: all but cycles, which come and go. */
function AtWork({ group }: { group: Group }) {
  const { t } = useTranslation()
  const words = useJobWords()
  const { data } = api.useQuery('get', '/jobs', { params: { query: { group: group.id, state: 'active' } } })
  const jobs = (data?.items ?? []).filter(j => j.kind !== 'cycle' && !ended(j))
  return jobs.map(job => (
    <div key={job.id} className="next-job">
      {job.waiting && <WaitingCard job={job} waiting={job.waiting} />}
      <JobProgress job={job} size="lg" />
      <Link to={`/jobs/${job.id}`}>{t('next.watch', { what: words.kind(job.kind) })}</Link>
    </div>
  ))
}

function Orders({ group, advice }: { group: Group; advice: Advice }) {
  const { t } = useTranslation()
  const go = useNavigate()
  const can = possible(group)
  const first = advice.orders
  const open = (o: Order) => void go(`/groups/${group.id}/order/${o}`)
  const at = useAtOnce(group)
  const others = can.filter(o => prominent.includes(o) && !first.includes(o))
  return (
    <>
      {at.error ? <ProblemAlert error={at.error} /> : null}
      <Flex className="next-orders" columnGap={{ default: 'columnGapMd' }} rowGap={{ default: 'rowGapSm' }}>
        {first.map((o, i) => (
          <Button key={o} size="lg" variant={i === 0 ? 'primary' : 'secondary'} isDanger={o === 'fence'} isLoading={at.busy === o} isDisabled={at.busy !== undefined}
            onClick={() => (o === 'resume' || o === 'sync' ? at.order(o) : open(o))}>{t(`order.${o}`)}</Button>
        ))}
        {others.map(o => <Button key={o} size="lg" variant="secondary" onClick={() => open(o)}>{t(`order.${o}`)}</Button>)}
        <More group={group} orders={can.filter(o => !prominent.includes(o) && !first.includes(o))} open={open} at={at} />
      </Flex>
    </>
  )
}

type AtOnce = 'sync' | 'verify' | 'pause' | 'resume'

/** Orders that change nothing that matters are given at once. */
function useAtOnce(group: Group) {
  const { t } = useTranslation()
  const say = useSay()
  const calls = {
    sync: api.useMutation('post', '/groups/{id}/sync'), verify: api.useMutation('post', '/groups/{id}/verify'),
    pause: api.useMutation('post', '/groups/{id}/pause'), resume: api.useMutation('post', '/groups/{id}/resume'),
  }
  const names = Object.keys(calls) as AtOnce[]
  return {
    busy: names.find(o => calls[o].isPending),
    error: names.map(o => calls[o].error).find(e => e),
    order: (o: AtOnce) => {
      names.forEach(n => calls[n].reset())
      calls[o].mutate({ params: { path: { id: group.id } } }, { onSuccess: () => say(t(`order.given.${o}`, { group: group.name })) })
    },
  }
}

function More({ group, orders, open, at }: { group: Group; orders: Order[]; open: (o: Order) => void; at: ReturnType<typeof useAtOnce> }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const [shown, setShown] = useState(false)
  const atOnce: AtOnce[] = group.state === 'protected' ? ['sync', 'verify', group.paused ? 'resume' : 'pause'] : group.state === 'mirroring' ? [group.paused ? 'resume' : 'pause'] : []
  const allowed = orders.filter(o => o !== 'remove' || may('administrator'))
  if (atOnce.length + allowed.length === 0) return null
  return (
    <Dropdown isOpen={shown} onOpenChange={setShown} onSelect={() => setShown(false)}
      toggle={ref => <MenuToggle ref={ref} size="default" isExpanded={shown} onClick={() => setShown(!shown)}>{t('order.more')}</MenuToggle>}>
      <DropdownList>
        {atOnce.map(o => <DropdownItem key={o} onClick={() => at.order(o)}>{t(`order.${o}`)}</DropdownItem>)}
        {allowed.map(o => <DropdownItem key={o} isDanger onClick={() => open(o)}>{t(`order.${o}`)}</DropdownItem>)}
      </DropdownList>
    </Dropdown>
  )
}
