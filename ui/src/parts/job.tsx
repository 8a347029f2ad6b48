// A job at work: its steps, how far it is, and what went wrong.
import { Progress, ProgressMeasureLocation, ProgressStep, ProgressStepper } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import type { Job } from '../api/schema'
import { useFormat } from './values'

/** Kinds and steps are words of the appliance; those without a translation are shown as they are. */
export function useJobWords() {
  const { t, i18n } = useTranslation()
  const word = (key: string, fallback: string) => (i18n.exists(key) ? t(key as never) : fallback)
  return { kind: (k: string) => word(`jobKind.${k}`, k), step: (s: string) => word(`jobStep.${s}`, s) }
}

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

/** All steps in order, with the time each took. */
export function JobSteps({ job }: { job: Job }) {
  const { t } = useTranslation()
  const f = useFormat()
  const words = useJobWords()
  const steps = job.steps ?? []
  const at = steps.indexOf(job.step ?? '')
  const over = job.state === 'succeeded'
  const broken = job.state === 'failed' || job.state === 'cancelled'
  return (
    <ProgressStepper isVertical aria-label={t('job.steps')}>
      {steps.map((step, i) => {
        const done = over || i < at
        const here = i === at && !over
        const variant = done ? 'success' : here ? (broken ? 'danger' : 'info') : 'pending'
        const heard = t(`job.step.${done ? 'done' : here ? (broken ? 'failed' : 'current') : 'pending'}`)
        const bytes = here && job.progress.total > 0 ? `${f.bytes(job.progress.done)} / ${f.bytes(job.progress.total)}` : undefined
        return <ProgressStep key={step} id={`step-${i}`} titleId={`step-${i}-title`} variant={variant} isCurrent={here} aria-label={heard} description={bytes}>{words.step(step)}</ProgressStep>
      })}
    </ProgressStepper>
  )
}
