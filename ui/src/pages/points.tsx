// Recovery points of a group on a line of time, to choose one.
import { Alert, Button, Card, CardBody, Flex } from '@patternfly/react-core'
import { useRef, useState, type KeyboardEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { useNavigate } from 'react-router-dom'
import { api } from '../api/client'
import type { Group, Point } from '../api/schema'
import { Answer, Empty, Facts, Heading } from '../parts/page'
import { Ago, Bytes, Duration, Moment, useFormat, useNow } from '../parts/values'
import { useMe } from '../session'
import { possible, type Order } from './next'
import { toOrder } from './order'

export function Points({ group }: { group: Group }) {
  const { t } = useTranslation()
  const points = api.useQuery('get', '/groups/{id}/points', { params: { path: { id: group.id } } })
  return (
    <Answer query={points}>
      {all => (all?.length ? <Timeline group={group} points={[...all].sort((a, b) => b.taken.localeCompare(a.taken))} /> : <Empty title={t('point.none')}>{t('point.noneHint')}</Empty>)}
    </Answer>
  )
}

const looks = ['crash', 'application', 'suspect'] as const
const look = (p: Point) => (p.suspect ? 'suspect' : (p.consistency as 'crash' | 'application'))

/** Where an age lies on the line, 0 to 1: the younger ones, of which there are many, get more room. */
export const place = (age: number, oldest: number) => Math.log1p(Math.max(0, age) / 60) / Math.log1p(Math.max(oldest, 60) / 60)

const ticks = [60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400, 365 * 86400]

/** Newest first. */
function Timeline({ group, points }: { group: Group; points: Point[] }) {
  const { t } = useTranslation()
  const f = useFormat()
  const now = useNow(5).getTime()
  const [chosen, choose] = useState<string>()
  const line = useRef<HTMLDivElement>(null)
  const point = points.find(p => p.id === chosen) ?? points[0]!
  const age = (p: Point) => (now - Date.parse(p.taken)) / 1000
  const oldest = age(points.at(-1)!) * 1.03
  const marks = ticks.filter(s => s < oldest * 0.97)
  const move = (e: KeyboardEvent) => {
    const at = points.indexOf(point)
    const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: points.length - 1 }[e.key]
    if (to === undefined || !points[to]) return
    e.preventDefault()
    choose(points[to].id)
    line.current?.querySelector<HTMLElement>(`[data-point="${CSS.escape(points[to].id)}"]`)?.focus()
  }
  return (
    <>
      <Flex className="points-legend" columnGap={{ default: 'columnGapLg' }}>
        {looks.map(l => <span key={l}><span className={`point point-${l}`} aria-hidden="true" />{t(`point.look.${l}`)}</span>)}
      </Flex>
      <div className="points" ref={line} role="radiogroup" aria-label={t('point.line')} onKeyDown={move}>
        <span className="points-now">{t('point.now')}</span>
        {marks.map(s => <span key={s} className="points-tick" style={{ insetInlineStart: `${place(s, oldest) * 100}%` }}>{f.duration(s)}</span>)}
        {points.map(p => (
          <button key={p.id} type="button" role="radio" aria-checked={p === point} tabIndex={p === point ? 0 : -1} data-point={p.id} title={f.moment(p.taken)}
            className={`point point-${look(p)}`} style={{ insetInlineStart: `${place(age(p), oldest) * 100}%` }} onClick={() => choose(p.id)}
            aria-label={`${f.moment(p.taken)}, ${t(`point.look.${look(p)}`)}`} />
        ))}
      </div>
      {chosen && point.id !== chosen && <Alert variant="warning" isInline component="h3" className="points-gone" title={t('point.gone')} />}
      <Chosen group={group} point={point} newest={point === points[0]} />
    </>
  )
}

function Chosen({ group, point, newest }: { group: Group; point: Point; newest: boolean }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const go = useNavigate()
  const can = possible(group)
  const open = (o: Order) => void go(toOrder(group.id, o, point.id))
  return (
    <Card>
      <CardBody>
        <Heading><Moment at={point.taken} /> {newest && `(${t('point.newest')})`}</Heading>
        {may('operator') && (
          <Flex className="point-orders" columnGap={{ default: 'columnGapMd' }}>
            <Button variant="secondary" isDisabled={!can.includes('test')} onClick={() => open('test')}>{t('point.test')}</Button>
            <Button variant="secondary" isDisabled={!can.includes('failover')} onClick={() => open('failover')}>{t('point.failover')}</Button>
            {may('administrator') && <Button variant="link" isDanger isDisabled={group.points < 2} onClick={() => open('drop-point')}>{t('point.drop')}</Button>}
          </Flex>
        )}
        <Facts label={t('point.chosen')} of={[
          [t('point.age'), <Ago at={point.taken} />],
          [t('point.consistency'), t(`consistency.${point.consistency as 'crash'}`)],
          [t('point.kind'), t(`point.kinds.${point.kind as 'full'}`)],
          [t('point.copied'), <><Bytes of={point.bytesWritten} /> · <Duration seconds={point.seconds} /></>],
          [t('point.verified'), point.verified && t('point.verifiedYes')],
          [t('point.suspect'), point.suspect && <strong>{point.suspect}</strong>],
          [t('point.id'), point.id],
        ]} />
      </CardBody>
    </Card>
  )
}
