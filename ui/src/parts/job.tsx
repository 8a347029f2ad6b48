// A job at work: its steps, how far it is, and what went wrong.
import { Progress, ProgressMeasureLocation, ProgressStep, ProgressStepper } from '@patternfly/react-core'
import type { ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import type { Job } from '../api/schema'
import { Age, useFormat } from './values'

/** Kinds and steps are words of the appliance; those without a translation are shown as they are. */
export function useJobWords() {
  const { t, i18n } = useTranslation()
  const word = (key: string, fallback: string) => (i18n.exists(key) ? t(key as never) : fallback)
  const step = (s: string): string => (s.startsWith('undo ') ? t('job.undo', { what: word(`jobUndo.${s.slice(5)}`, s.slice(5)) }) : word(`jobStep.${s}`, s))
  return { kind: (k: string) => word(`jobKind.${k}`, k), step }
}

export const ended = (j: Pick<Job, 'state'>) => ['succeeded', 'failed', 'cancelled'].includes(j.state)

/** One bar: the step and its bytes. */
export function JobProgress({ job, size = 'sm' }: { job: Job; size?: 'sm' | 'lg' }) {
  const f = useFormat()
  const words = useJobWords()
  const { done, total } = job.progress
  const at = Math.max(0, (job.steps ?? []).indexOf(job.step ?? ''))
  const steps = Math.max(1, (job.steps ?? []).length)
  const part = total > 0 ? done / total : 0
  const text = total > 0 ? `${f.bytes(done)} / ${f.bytes(total)}` : `${at + 1} / ${steps}`
  return (
    <Progress title={words.step(job.step ?? job.state)} size={size} value={total > 0 ? part * 100 : (at / steps) * 100} label={text} valueText={text}
      measureLocation={ProgressMeasureLocation.top} variant={job.state === 'failed' ? 'danger' : job.state === 'succeeded' ? 'success' : undefined} />
  )
}

/** All steps in order, with the time each took and what of it is at work; afterwards what is undone. */
export function JobSteps({ job }: { job: Job }) {
  const { t } = useTranslation()
  const f = useFormat()
  const words = useJobWords()
  const timeline = job.timeline ?? []
  const entry = (step: string) => timeline.findLast(e => e.step === step && !e.part)
  const steps = job.steps ?? []
  const undone = [...new Set(timeline.filter(e => e.step.startsWith('undo ')).map(e => e.step))]
  const over = job.state === 'succeeded'
  // A job that undoes stopped at the last step that it began.
  const at = undone.length > 0 || job.state === 'undoing' ? steps.findLastIndex(s => entry(s)) : steps.indexOf(job.step ?? '')
  const broken = !over && (ended(job) || job.state === 'undoing')

  const row = (step: string, state: 'done' | 'current' | 'failed' | 'pending', key: string) => {
    const e = entry(step)
    const parts = timeline.filter(p => p.step === step && p.part && !p.ended).map(p => p.part)
    const about: ReactNode[] = []
    if (state === 'current' && parts.length > 0) about.push(parts.join(', '))
    if (state === 'current' && job.progress.total > 0) about.push(`${f.bytes(job.progress.done)} / ${f.bytes(job.progress.total)}`)
    if (e?.ended) about.push(f.duration((Date.parse(e.ended) - Date.parse(e.started)) / 1000))
    else if (e && state === 'current') about.push(<Age key="age" since={e.started} />)
    const variant = ({ done: 'success', current: 'info', failed: 'danger', pending: 'pending' } as const)[state]
    return (
      <ProgressStep key={key} id={`step-${key}`} titleId={`step-${key}-title`} variant={variant} isCurrent={state === 'current'} aria-label={t(`job.step.${state}`)}
        description={about.length > 0 ? <>{about.map((a, i) => <span key={i}>{i > 0 && ' · '}{a}</span>)}</> : undefined}>
        {words.step(step)}
      </ProgressStep>
    )
  }
  return (
    <ProgressStepper isVertical aria-label={t('job.steps')}>
      {steps.map((step, i) => row(step, over || i < at ? 'done' : i > at ? 'pending' : broken ? 'failed' : 'current', String(i)))}
      {undone.map(step => row(step, entry(step)?.ended ? 'done' : ended(job) ? 'failed' : 'current', step.replaceAll(' ', '-')))}
    </ProgressStepper>
  )
}
