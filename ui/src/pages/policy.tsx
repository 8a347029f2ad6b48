// Fields of a policy: for a new group, and for one that stands.
import { Button, Flex, FlexItem, FormFieldGroup, FormFieldGroupHeader, FormSelect, FormSelectOption, NumberInput } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { api } from '../api/client'
import type { Policy, RetentionTier, Window } from '../api/schema'
import { CheckField, Field, NumberField, SelectField, TextField } from '../parts/forms'
import { useFormat } from '../parts/values'
import { presetOf, presets, said, split, units, type Preset, type Unit } from './retention'

interface SpanProps {
  label: string
  path: string
  seconds: number
  onChange: (seconds: number) => void
  hint?: string
  min?: number
}

/** A number and its unit. */
export function SpanField({ label, path, seconds, onChange, hint, min = 0 }: SpanProps) {
  const { t } = useTranslation()
  const [n, unit] = split(seconds)
  const set = (n: number, u: Unit) => onChange(Math.max(min, Math.round(Number.isFinite(n) ? n : min) * units[u]))
  return (
    <Field label={label} path={path} hint={hint}>
      {({ validated, ...inner }) => (
        <Flex columnGap={{ default: 'columnGapSm' }} flexWrap={{ default: 'nowrap' }}>
          <NumberInput value={n} min={0} validated={validated} inputAriaLabel={label} inputProps={inner} widthChars={6} minusBtnAriaLabel="−" plusBtnAriaLabel="+"
            onMinus={() => set(n - 1, unit)} onPlus={() => set(n + 1, unit)} onChange={e => set(Number(e.currentTarget.value), unit)} />
          <FlexItem className="unit">
            <FormSelect aria-label={t('policy.unit', { what: label })} value={unit} onChange={(_, u) => set(n, u as Unit)}>
              {(Object.keys(units) as Unit[]).map(u => <FormSelectOption key={u} value={u} label={t(`unit.${u}`)} />)}
            </FormSelect>
          </FlexItem>
        </Flex>
      )}
    </Field>
  )
}

export function useRetentionWords() {
  const { t } = useTranslation()
  const f = useFormat()
  return (tier: RetentionTier) => {
    const { often, long } = said(tier)
    return t(`retention.said.${long}`, { often: t(`retention.often.${often}`, { span: f.duration(tier.everySeconds) }), span: f.duration(tier.forSeconds), count: tier.count ?? 0 })
  }
}

interface PolicyFieldsProps {
  policy: Policy
  onChange: (change: Partial<Policy>) => void
  /** The host that holds the replicas. */
  target: string
}

export function PolicyFields({ policy, onChange, target }: PolicyFieldsProps) {
  const { t } = useTranslation()
  return (
    <>
      <SpanField label={t('policy.rpo')} path="policy.rpoSeconds" hint={t('policy.rpoHint')} seconds={policy.rpoSeconds} min={5} onChange={rpoSeconds => onChange({ rpoSeconds })} />
      <Retention tiers={policy.retention ?? []} onChange={retention => onChange({ retention })} />
      <SelectField label={t('policy.consistency')} path="policy.consistency" hint={t('policy.consistencyHint')} value={policy.consistency || 'crash'} onChange={consistency => onChange({ consistency })}
        options={[['crash', t('consistency.crash')], ['application', t('consistency.application')]]} />
      <CheckField label={t('policy.groupMoment')} hint={t('policy.groupMomentHint')} value={!!policy.groupMoment} onChange={groupMoment => onChange({ groupMoment })} />
      <Windows windows={policy.windows ?? []} zone={policy.timeZone ?? ''} onChange={onChange} />
      <NumberField label={t('policy.bandwidth')} path="policy.bandwidthMbit" hint={t('policy.bandwidthHint')} unit="Mbit/s" max={1_000_000} value={policy.bandwidthMbit ?? 0} onChange={bandwidthMbit => onChange({ bandwidthMbit })} />
      <Compression on={policy.compression === 'zstd'} target={target} onChange={on => onChange({ compression: on ? 'zstd' : 'none' })} />
      <SpanField label={t('policy.verifyEvery')} path="policy.verifyEverySeconds" hint={t('policy.verifyEveryHint')} seconds={policy.verifyEverySeconds ?? 0} onChange={verifyEverySeconds => onChange({ verifyEverySeconds })} />
      <CheckField label={t('policy.verifyCycles')} hint={t('policy.verifyCyclesHint')} value={!!policy.verifyCycles} onChange={verifyCycles => onChange({ verifyCycles })} />
    </>
  )
}

/** Whether a target answers that it cannot do something. Of one that does not answer nobody knows. */
export function useUnable(target: string, what: 'compression' | 'convert') {
  const host = api.useQuery('get', '/hosts').data?.find(h => h.name === target)
  return !!host?.connected && !host.capabilities[what]
}

/** Can always be switched off, and on where the target can. */
function Compression({ on, target, onChange }: { on: boolean; target: string; onChange: (on: boolean) => void }) {
  const { t } = useTranslation()
  const unable = useUnable(target, 'compression')
  return <CheckField label={t('policy.compression')} hint={unable ? t('policy.compressionUnable', { host: target }) : t('policy.compressionHint')} disabled={unable && !on} value={on} onChange={onChange} />
}

function Retention({ tiers, onChange }: { tiers: RetentionTier[]; onChange: (tiers: RetentionTier[]) => void }) {
  const { t } = useTranslation()
  const words = useRetentionWords()
  const preset = presetOf(tiers)
  const set = (i: number, change: Partial<RetentionTier>) => onChange(tiers.map((tier, j) => (j === i ? { ...tier, ...change } : tier)))
  const take = (p: Preset) => onChange(p === 'newest' ? [] : p === 'own' ? [...tiers, { everySeconds: 0, forSeconds: 0, count: 24 }] : [...presets[p]])
  return (
    <>
      <SelectField label={t('policy.retention')} path="policy.retention" value={preset} onChange={take}
        hint={<>{tiers.length === 0 ? t('retention.default') : tiers.map((tier, i) => <span key={i} className="retention-said">{words(tier)}</span>)}</>}
        options={(['newest', 'short', 'standard', 'long', 'own'] as const).map(p => [p, t(`retention.preset.${p}`)] as const)} />
      {preset === 'own' && (
        <FormFieldGroup header={<FormFieldGroupHeader titleText={{ text: t('retention.tiers'), id: 'retention-tiers' }}
          actions={<Button variant="link" onClick={() => onChange([...tiers, { everySeconds: 86400, forSeconds: 7 * 86400 }])}>{t('retention.add')}</Button>} />}>
          {tiers.map((tier, i) => (
            <div key={i} className="row-of-fields" role="group" aria-label={words(tier)}>
              <SpanField label={t('retention.every')} path={`policy.retention[${i}].everySeconds`} seconds={tier.everySeconds} onChange={everySeconds => set(i, { everySeconds })} />
              <SpanField label={t('retention.long')} path={`policy.retention[${i}].forSeconds`} seconds={tier.forSeconds} onChange={forSeconds => set(i, { forSeconds })} />
              <NumberField label={t('retention.count')} path={`policy.retention[${i}].count`} value={tier.count ?? 0} onChange={count => set(i, { count })} />
              <Button variant="link" isDanger onClick={() => onChange(tiers.filter((_, j) => j !== i))} aria-label={`${t('common.remove')}: ${words(tier)}`}>{t('common.remove')}</Button>
            </div>
          ))}
        </FormFieldGroup>
      )}
    </>
  )
}

const days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const

function Windows({ windows, zone, onChange }: { windows: Window[]; zone: string; onChange: (change: Partial<Policy>) => void }) {
  const { t } = useTranslation()
  const set = (i: number, change: Partial<Window>) => onChange({ windows: windows.map((w, j) => (j === i ? { ...w, ...change } : w)) })
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone
  return (
    <FormFieldGroup header={<FormFieldGroupHeader titleText={{ text: t('policy.windows'), id: 'policy-windows' }} titleDescription={t(windows.length ? 'policy.windowsHint' : 'policy.windowsNone')}
      actions={<Button variant="link" onClick={() => onChange({ windows: [...windows, { days: [], from: '18:00', to: '06:00' }], timeZone: zone || here })}>{t('policy.addWindow')}</Button>} />}>
      {windows.map((w, i) => (
        <div key={i} className="row-of-fields" role="group" aria-label={`${t('policy.windows')} ${i + 1}`}>
          <Field label={t('policy.days')} path={`policy.windows[${i}].days`}>
            {() => (
              <Flex columnGap={{ default: 'columnGapXs' }}>
                {days.map(d => {
                  const on = !w.days?.length || w.days.includes(d)
                  const next = on ? (w.days?.length ? w.days : [...days]).filter(x => x !== d) : [...(w.days ?? []), d]
                  return <FlexItem key={d}><Button size="sm" variant={on ? 'primary' : 'tertiary'} aria-pressed={on} onClick={() => set(i, { days: next.length === 7 ? [] : next })}>{t(`day.${d}`)}</Button></FlexItem>
                })}
              </Flex>
            )}
          </Field>
          <TextField label={t('policy.from')} path={`policy.windows[${i}].from`} type="time" value={w.from} onChange={from => set(i, { from })} />
          <TextField label={t('policy.to')} path={`policy.windows[${i}].to`} type="time" value={w.to} onChange={to => set(i, { to })} />
          <Button variant="link" isDanger onClick={() => onChange({ windows: windows.filter((_, j) => j !== i) })} aria-label={`${t('common.remove')}: ${w.from}–${w.to}`}>{t('common.remove')}</Button>
        </div>
      ))}
      {windows.length > 0 && <TextField label={t('policy.timeZone')} path="policy.timeZone" value={zone} placeholder="UTC" onChange={timeZone => onChange({ timeZone })} />}
    </FormFieldGroup>
  )
}
