// How much all copies together may take, by the hour of the week.
import { ActionGroup, Button, Checkbox, FormGroup, Grid, GridItem } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { api, refresh } from '../../api/client'
import type { BandwidthCalendar, BandwidthRule } from '../../api/schema'
import { useSay } from '../../parts/dialogs'
import { Conflict, NumberField, ProblemForm, TextField, useDraft } from '../../parts/forms'
import { Answer } from '../../parts/page'
import { Section } from './section'

export function Bandwidth() {
  const { t } = useTranslation()
  const calendar = api.useQuery('get', '/settings/bandwidth')
  return <Section lead={t('bandwidth.lead')}><Answer query={calendar}>{c => <Calendar calendar={c} />}</Answer></Section>
}

const days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const
const businessHours: BandwidthRule = { days: ['mon', 'tue', 'wed', 'thu', 'fri'], from: '08:00', to: '18:00', mbit: 100 }

function Calendar({ calendar }: { calendar: BandwidthCalendar }) {
  const { t } = useTranslation()
  const say = useSay()
  const edit = useDraft(calendar)
  const save = api.useMutation('put', '/settings/bandwidth', {
    onSuccess: saved => {
      edit.take(saved)
      say(t('common.saved'))
    },
    onSettled: () => refresh('/settings/bandwidth'),
  })
  const { timeZone, mbit, rules } = edit.draft
  const setRule = (at: number, rule: BandwidthRule) => edit.set({ rules: rules.with(at, rule) })
  return (
    <ProblemForm error={save.error} onSubmit={() => save.mutate({ params: { header: { 'If-Match': edit.ifMatch } }, body: edit.draft })}>
      <Conflict edit={edit} names={{ mbit: t('bandwidth.otherwise'), timeZone: t('bandwidth.timeZone'), rules: t('bandwidth.rules') }} />
      <NumberField label={t('bandwidth.otherwise')} path="mbit" hint={t('bandwidth.unbounded')} max={1_000_000} unit="Mbit/s" value={mbit} onChange={v => edit.set({ mbit: v })} />
      <TextField label={t('bandwidth.timeZone')} path="timeZone" hint={t('bandwidth.timeZoneHint', { zone: Intl.DateTimeFormat().resolvedOptions().timeZone })} maxLength={64} value={timeZone ?? ''} onChange={v => edit.set({ timeZone: v })} />
      {rules.map((rule, i) => <Rule key={i} at={i} rule={rule} onChange={r => setRule(i, r)} onRemove={() => edit.set({ rules: rules.toSpliced(i, 1) })} />)}
      <div><Button variant="secondary" onClick={() => edit.set({ rules: [...rules, businessHours] })}>{t('bandwidth.add')}</Button></div>
      <ActionGroup>
        <Button type="submit" isLoading={save.isPending} isDisabled={!edit.dirty || save.isPending}>{t('common.save')}</Button>
        {edit.dirty && <Button variant="link" onClick={() => edit.take()}>{t('common.undo')}</Button>}
      </ActionGroup>
    </ProblemForm>
  )
}

function Rule({ at, rule, onChange, onRemove }: { at: number; rule: BandwidthRule; onChange: (r: BandwidthRule) => void; onRemove: () => void }) {
  const { t } = useTranslation()
  const chosen = rule.days ?? []
  const toggle = (day: string, on: boolean) => onChange({ ...rule, days: days.filter(d => (d === day ? on : chosen.includes(d))) })
  return (
    <fieldset className="rule">
      <legend>{t('bandwidth.rule', { n: at + 1 })}</legend>
      <FormGroup role="group" label={t('bandwidth.days')} fieldId={`days-${at}`}>
        <div className="days">{days.map(d => <Checkbox key={d} id={`day-${at}-${d}`} label={t(`day.${d}`)} isChecked={chosen.includes(d)} onChange={(_, on) => toggle(d, on)} />)}</div>
      </FormGroup>
      <Grid hasGutter md={4}>
        <GridItem><TextField label={t('bandwidth.from')} path={`rules[${at}].from`} type="time" value={rule.from} onChange={from => onChange({ ...rule, from })} /></GridItem>
        <GridItem><TextField label={t('bandwidth.to')} path={`rules[${at}].to`} type="time" value={rule.to} onChange={to => onChange({ ...rule, to })} /></GridItem>
        <GridItem><NumberField label={t('bandwidth.mbit')} path={`rules[${at}].mbit`} max={1_000_000} unit="Mbit/s" value={rule.mbit} onChange={mbit => onChange({ ...rule, mbit })} /></GridItem>
      </Grid>
      <Button variant="link" isInline isDanger onClick={onRemove}>{t('bandwidth.remove')}</Button>
    </fieldset>
  )
}
