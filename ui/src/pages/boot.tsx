// How machines come up: the checks that must pass before a start counts, for a new group and for one that stands.
import { Button, ExpandableSection } from '@patternfly/react-core'
import { useState, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import type { Check, GroupMachine } from '../api/schema'
import { NumberField, SelectField, TextField, useProblemBelow } from '../parts/forms'

interface ListProps {
  machines: GroupMachine[]
  name: (m: GroupMachine) => string
  /** In short, what is wished for a machine. */
  summary: (m: GroupMachine) => string
  /** Fields of which a problem opens the machine, such as checks. */
  fields: string[]
  children: (m: GroupMachine, path: string, set: (change: Partial<GroupMachine>) => void) => ReactNode
  onChange: (machines: GroupMachine[]) => void
}

/** Machines below each other, each opened to wish something for it. */
export function MachineWishes({ machines, onChange, ...rest }: ListProps) {
  return (
    <div className="wishes">
      {machines.map((m, i) => (
        <Wishes key={m.vm} machine={m} path={`machines[${i}]`} {...rest} set={change => onChange(machines.map((o, j) => (j === i ? { ...o, ...change } : o)))} />
      ))}
    </div>
  )
}

type OneProps = Omit<ListProps, 'machines' | 'onChange'> & { machine: GroupMachine; path: string; set: (change: Partial<GroupMachine>) => void }

function Wishes({ machine, path, name, summary, fields, children, set }: OneProps) {
  const wrong = fields.map(f => useProblemBelow(`${path}.${f}`)).some(Boolean)
  const [open, setOpen] = useState(wrong)
  return (
    <ExpandableSection toggleContent={<><strong>{name(machine)}</strong> · {summary(machine)}</>} isExpanded={open} onToggle={(_, o) => setOpen(o)} isIndented displaySize="default">
      {open && children(machine, path, set)}
    </ExpandableSection>
  )
}

export function useCheckWords() {
  const { t } = useTranslation()
  return (checks: Check[] | null | undefined) => (checks?.length ? checks.map(c => `${t(`boot.kind.${c.kind}`)}${c.address ? ` ${c.address}` : ''}`).join(', ') : t('group.onlyRuns'))
}

export function Checks({ checks, path, onChange }: { checks: Check[]; path: string; onChange: (checks: Check[]) => void }) {
  const { t } = useTranslation()
  const set = (i: number, change: Partial<Check>) => onChange(checks.map((c, j) => (j === i ? { ...c, ...change } : c)))
  return (
    <div className="checks">
      {checks.map((c, i) => {
        const at = `${path}[${i}]`
        return (
          <div key={i} className="row-of-fields" role="group" aria-label={t('boot.check', { n: i + 1 })}>
            <SelectField label={t('boot.what')} path={`${at}.kind`} value={c.kind} onChange={kind => onChange(checks.map((o, j) => (j === i ? { kind, timeoutSeconds: o.timeoutSeconds } : o)))}
              options={(['agent', 'tcp', 'http'] as const).map(k => [k, t(`boot.kind.${k}`)] as const)} />
            {c.kind !== 'agent' && (
              <TextField label={t(c.kind === 'http' ? 'boot.url' : 'boot.address')} path={`${at}.address`} value={c.address ?? ''} onChange={address => set(i, { address })}
                placeholder={c.kind === 'http' ? 'http://192.0.2.10/health' : '192.0.2.10:22'} required />
            )}
            {c.kind === 'http' && <TextField label={t('boot.contains')} path={`${at}.contains`} value={c.contains ?? ''} onChange={contains => set(i, { contains })} />}
            {c.kind !== 'agent' && <TextField label={t('boot.from')} path={`${at}.from`} value={c.from ?? ''} onChange={from => set(i, { from })} placeholder="192.0.2.253/24" />}
            <NumberField label={t('boot.timeout')} path={`${at}.timeoutSeconds`} value={c.timeoutSeconds || 300} min={1} max={3600} unit="s" onChange={timeoutSeconds => set(i, { timeoutSeconds })} />
            <Button variant="link" isDanger onClick={() => onChange(checks.filter((_, j) => j !== i))} aria-label={t('boot.removeCheck', { n: i + 1 })}>{t('common.remove')}</Button>
          </div>
        )
      })}
      <Button variant="link" isInline onClick={() => onChange([...checks, { kind: 'agent' }])}>{t('boot.add')}</Button>
    </div>
  )
}
