// Boot order and runbook: in which stages machines start, what is waited for, and what is done before and after.
import { Button, Card, CardBody, CardTitle } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { api, client } from '../api/client'
import type { Action, Group, GroupMachine, Runbook, RunbookStage } from '../api/schema'
import { CheckField, NumberField, SelectField, TextField } from '../parts/forms'
import { useMe } from '../session'
import { Checks, MachineWishes, useCheckWords } from './boot'
import { GroupForm } from './group-settings'
import { SpanField } from './policy'
import { staged, wanted } from './stages'

interface Props {
  machines: GroupMachine[]
  runbook: Runbook
  name: (m: GroupMachine) => string
  onChange: (change: { machines?: GroupMachine[]; runbook?: Runbook }) => void
}

export function RunbookFields({ machines, runbook, name, onChange }: Props) {
  const { t } = useTranslation()
  const checks = useCheckWords()
  const stages = staged(machines, runbook)
  const put = (s: RunbookStage) => onChange({ runbook: { stages: stages.map(o => (o.stage === s.stage ? s : o)).filter(wanted) } })
  return (
    <>
      <p>{t('boot.lead')}</p>
      <MachineWishes machines={machines} onChange={machines => onChange({ machines })} name={name} summary={m => `${t('boot.stage', { n: m.stage || 1 })} · ${checks(m.checks)}`} fields={['checks', 'stage']}>
        {(m, path, set) => (
          <div className="checks">
            <NumberField label={t('boot.stageOf')} path={`${path}.stage`} hint={t('boot.stageHint')} value={m.stage || 1} min={1} max={20} onChange={stage => set({ stage })} />
            <Checks checks={m.checks ?? []} path={`${path}.checks`} onChange={list => set({ checks: list })} />
          </div>
        )}
      </MachineWishes>
      {stages.map((s, i) => <Stage key={s.stage} stage={s} last={i === stages.length - 1} path={`runbook.stages[${(runbook.stages ?? []).findIndex(o => o.stage === s.stage)}]`}
        machines={machines.filter(m => (m.stage || 1) === s.stage).map(name)} onChange={put} />)}
    </>
  )
}

function Stage({ stage, machines, last, path, onChange }: { stage: RunbookStage; machines: string[]; last: boolean; path: string; onChange: (s: RunbookStage) => void }) {
  const { t } = useTranslation()
  return (
    <Card isCompact>
      <CardTitle component="h3">{t('boot.stage', { n: stage.stage })}</CardTitle>
      <CardBody>
        <div className="stage">
          <Actions label={t('runbook.beforeStart')} path={`${path}.before`} actions={stage.before ?? []} onChange={before => onChange({ ...stage, before })} />
          <p><strong>{t('runbook.starts')}</strong> {machines.join(', ') || t('runbook.nobody')}</p>
          <CheckField label={t('runbook.wait')} hint={t('runbook.waitHint')} value={!!stage.waitForChecks} onChange={waitForChecks => onChange({ ...stage, waitForChecks })} />
          <Actions label={t('runbook.afterStart')} path={`${path}.after`} actions={stage.after ?? []} onChange={after => onChange({ ...stage, after })} />
          {!last && <SpanField label={t('runbook.delay')} path={`${path}.delaySeconds`} seconds={stage.delaySeconds ?? 0} onChange={delaySeconds => onChange({ ...stage, delaySeconds })} />}
        </div>
      </CardBody>
    </Card>
  )
}

function Actions({ label, path, actions, onChange }: { label: string; path: string; actions: Action[]; onChange: (a: Action[]) => void }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const scripts = api.useQuery('get', '/scripts', {}, { enabled: may('administrator') })
  const names = (scripts.data ?? []).map(s => s.name)
  const set = (i: number, change: Partial<Action>) => onChange(actions.map((a, j) => (j === i ? { ...a, ...change } : a)))
  return (
    <div className="actions" role="group" aria-label={label}>
      <strong>{label}</strong>
      {actions.map((a, i) => (
        <div key={i} className="action" role="group" aria-label={a.name || t('runbook.new', { n: i + 1 })}>
          <div className="row-of-fields">
            <TextField label={t('runbook.action')} path={`${path}[${i}].name`} required maxLength={63} value={a.name} onChange={name => set(i, { name })} />
            {a.kind === 'script' && (
              <>
                <SelectField label={t('runbook.script')} path={`${path}[${i}].script`} value={a.script ?? ''} onChange={script => set(i, { script })}
                  options={[['', t(names.length ? 'runbook.choose' : 'runbook.noScripts')], ...[...new Set([...names, ...(a.script ? [a.script] : [])])].map(n => [n, n] as const)]} />
                <TextField label={t('runbook.args')} path={`${path}[${i}].args`} lines={1} value={(a.args ?? []).join('\n')} onChange={v => set(i, { args: v ? v.split('\n') : [] })} />
                <NumberField label={t('boot.timeout')} path={`${path}[${i}].timeoutSeconds`} unit="s" min={1} max={86400} value={a.timeoutSeconds || 300} onChange={timeoutSeconds => set(i, { timeoutSeconds })} />
                <SelectField label={t('runbook.onFailure')} path={`${path}[${i}].onFailure`} value={a.onFailure ?? 'stop'} onChange={onFailure => set(i, { onFailure })} options={[['stop', t('runbook.stop')], ['continue', t('runbook.continue')]]} />
              </>
            )}
            <Button variant="link" isDanger onClick={() => onChange(actions.filter((_, j) => j !== i))} aria-label={`${t('common.remove')}: ${a.name || i + 1}`}>{t('common.remove')}</Button>
          </div>
          {a.kind === 'manual' && <TextField label={t('runbook.text')} path={`${path}[${i}].text`} required lines={2} maxLength={2000} value={a.text ?? ''} onChange={text => set(i, { text })} />}
          <CheckField label={t('runbook.inTests')} value={!!a.inTests} onChange={inTests => set(i, { inTests })} />
        </div>
      ))}
      <div>
        <Button variant="link" isInline onClick={() => onChange([...actions, { name: '', kind: 'script', inTests: true }])}>{t('runbook.addScript')}</Button>{' · '}
        <Button variant="link" isInline onClick={() => onChange([...actions, { name: '', kind: 'manual', text: '' }])}>{t('runbook.addManual')}</Button>
      </div>
    </div>
  )
}

/** Boot order and runbook of a group that stands. */
export function Boot({ group }: { group: Group }) {
  const { t } = useTranslation()
  const value = (g: Group) => ({ machines: g.machines ?? [], runbook: g.runbook ?? { stages: [] } })
  const names = new Map((group.machines ?? []).map((m, i) => [m.vm, group.members?.[i]?.name ?? m.vm]))
  return (
    <GroupForm group={group} value={value} names={{ machines: t('group.machines'), runbook: t('runbook.title') }}
      save={async (draft, ifMatch) => (await client.PUT('/groups/{id}', {
        params: { path: { id: group.id }, header: { 'If-Match': ifMatch } },
        body: { policy: group.policy, runbook: draft.runbook, machines: draft.machines.map(({ vm, stage, checks }) => ({ vm, stage, checks })) },
      })).data}>
      {(draft, set) => <RunbookFields {...draft} name={m => names.get(m.vm) ?? m.vm} onChange={set} />}
    </GroupForm>
  )
}
