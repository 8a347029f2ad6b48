// States as coloured labels. Colour never tells alone: each has an icon and a word.
import { Label, type LabelProps } from '@patternfly/react-core'
import BanIcon from '@patternfly/react-icons/dist/esm/icons/ban-icon'
import CheckCircleIcon from '@patternfly/react-icons/dist/esm/icons/check-circle-icon'
import ExclamationCircleIcon from '@patternfly/react-icons/dist/esm/icons/exclamation-circle-icon'
import ExclamationTriangleIcon from '@patternfly/react-icons/dist/esm/icons/exclamation-triangle-icon'
import InProgressIcon from '@patternfly/react-icons/dist/esm/icons/in-progress-icon'
import PauseCircleIcon from '@patternfly/react-icons/dist/esm/icons/pause-circle-icon'
import PendingIcon from '@patternfly/react-icons/dist/esm/icons/pending-icon'
import { useTranslation } from 'react-i18next'
import type { Group } from '../api/schema'
import { useSaid } from '../words/codes'

// What is as it should be is drawn quietly, so that what is not stands out.
type Look = Pick<LabelProps, 'color' | 'status' | 'icon' | 'variant'>
const good: Look = { status: 'success', icon: <CheckCircleIcon />, variant: 'outline' }
const warn: Look = { status: 'warning', icon: <ExclamationTriangleIcon /> }
const bad: Look = { status: 'danger', icon: <ExclamationCircleIcon /> }
const busy: Look = { color: 'blue', icon: <InProgressIcon /> }
const idle: Look = { color: 'grey', icon: <PendingIcon />, variant: 'outline' }
const off: Look = { color: 'grey', icon: <BanIcon />, variant: 'outline' }

export type Health = 'met' | 'at-risk' | 'missed' | 'off'
export const healths: Health[] = ['missed', 'at-risk', 'met', 'off']
const healthLooks: Record<Health, Look> = { met: good, 'at-risk': warn, missed: bad, off }

export function HealthLabel({ of }: { of: Pick<Group, 'health' | 'healthCode' | 'healthReason'> }) {
  const { t } = useTranslation()
  const say = useSaid()
  const { health, healthCode = '', healthReason = '' } = of
  return <Label {...healthLooks[health]} title={say('health', healthCode, healthReason).title || undefined}>{t(`health.${health}`)}</Label>
}

export const groupStates = ['mirroring', 'protected', 'failing-over', 'failed-over', 'committed', 'rolling-back', 'reversing', 'failing-back', 'removing'] as const
export type GroupState = (typeof groupStates)[number]
const groupLooks: Record<GroupState, Look> = {
  mirroring: busy, protected: good, 'failing-over': busy, 'failed-over': warn, committed: warn, 'rolling-back': busy, reversing: busy,
  'failing-back': busy, removing: busy,
}

export function StateLabel({ state, paused }: { state: string; paused?: boolean }) {
  const { t } = useTranslation()
  if (paused) return <Label color="grey" icon={<PauseCircleIcon />}>{t('state.paused')}</Label>
  return <Label {...groupLooks[state as GroupState]}>{t(`state.${state as GroupState}`)}</Label>
}

export type JobState = 'queued' | 'running' | 'undoing' | 'succeeded' | 'failed' | 'cancelled'
const jobLooks: Record<JobState, Look> = { queued: idle, running: busy, undoing: warn, succeeded: good, failed: bad, cancelled: off }

export function JobLabel({ state }: { state: string }) {
  const { t } = useTranslation()
  return <Label {...jobLooks[state as JobState]}>{t(`jobState.${state as JobState}`)}</Label>
}

export type Freshness = 'fresh' | 'stale' | 'never' | 'failed'
const freshLooks: Record<Freshness, Look> = { fresh: good, stale: warn, never: warn, failed: bad }

export function FreshnessLabel({ freshness }: { freshness: Freshness }) {
  const { t } = useTranslation()
  return <Label {...freshLooks[freshness]}>{t(`freshness.${freshness}`)}</Label>
}

export function SeverityLabel({ severity }: { severity: 'critical' | 'warning' }) {
  const { t } = useTranslation()
  return <Label {...(severity === 'critical' ? bad : warn)}>{t(`severity.${severity}`)}</Label>
}

export function ConnectedLabel({ connected }: { connected: boolean }) {
  const { t } = useTranslation()
  return <Label {...(connected ? good : bad)}>{t(connected ? 'hosts.connected' : 'hosts.disconnected')}</Label>
}

/** Passed, failed or left out: checks of the doctor, of boots and of preflights. */
export function ResultLabel({ result }: { result: 'passed' | 'failed' | 'skipped' | 'warning' | 'running' | 'cancelled' }) {
  const { t } = useTranslation()
  return <Label {...{ passed: good, failed: bad, skipped: off, warning: warn, running: busy, cancelled: off }[result]}>{t(`result.${result}`)}</Label>
}

export function OutcomeLabel({ outcome }: { outcome: 'done' | 'refused' | 'failed' | 'unknown' }) {
  const { t } = useTranslation()
  return <Label {...{ done: good, refused: warn, failed: bad, unknown: warn }[outcome]}>{t(`outcome.${outcome}`)}</Label>
}
