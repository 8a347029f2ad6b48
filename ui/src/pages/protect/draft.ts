// What somebody typed into the wizard, kept in the window's own storage: a reload, an expired session or a look at
// another page loses none of it.
import { key } from '../../api/client'
import type { GroupMachine, GroupSpec, Violation } from '../../api/schema'
import { presets } from '../retention'

export const steps = ['host', 'machines', 'target', 'policy', 'boot', 'review'] as const
export type Step = (typeof steps)[number]

export interface Draft {
  step: Step
  spec: GroupSpec & { machines: GroupMachine[] }
  /** Names of the machines by what the specification calls them. */
  names: Record<string, string>
  /** However often it is sent, it makes one group. Another one as soon as the specification is another one. */
  once: string
}

export const empty = (): Draft => ({
  step: 'host', names: {}, once: key(),
  spec: { name: '', sourceHost: '', targetHost: '', storage: '', machines: [], networks: [], policy: { rpoSeconds: 900, consistency: 'crash', retention: [...presets.standard] } },
})

const place = 'protect'
type Store = Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>

export function load(store: Store): Draft {
  try {
    const kept = JSON.parse(store.getItem(place) ?? 'null') as Draft | null
    // What an older version of the console has kept may have another shape.
    if (kept && steps.includes(kept.step) && Array.isArray(kept.spec.machines) && kept.spec.policy && kept.once) return { ...empty(), ...kept }
  } catch {
    // It is not worth a word: one begins anew.
  }
  return empty()
}

export const save = (store: Store, draft: Draft) => store.setItem(place, JSON.stringify(draft))
export const clear = (store: Store) => store.removeItem(place)

export const change = (d: Draft, spec: Partial<Draft['spec']>): Draft => ({ ...d, spec: { ...d.spec, ...spec }, once: key() })

/** Another host has other machines and networks. */
export const from = (d: Draft, sourceHost: string): Draft =>
  sourceHost === d.spec.sourceHost ? d : { ...change(d, { sourceHost, machines: [], networks: [], targetHost: d.spec.targetHost === sourceHost ? '' : d.spec.targetHost }), names: {} }

/** Another target has other storage and networks. */
export const to = (d: Draft, targetHost: string): Draft => (targetHost === d.spec.targetHost ? d : change(d, { targetHost, storage: '', networks: [] }))

export function toggle(d: Draft, machines: { id: string; name: string }[], on: boolean): Draft {
  const ids = machines.map(m => m.id)
  const kept = d.spec.machines.filter(m => !ids.includes(m.vm))
  // What was wished for a machine that is already chosen stays.
  const added = on ? machines.map(m => d.spec.machines.find(o => o.vm === m.id) ?? { vm: m.id }) : []
  return { ...change(d, { machines: [...kept, ...added] }), names: { ...d.names, ...Object.fromEntries(machines.map(m => [m.id, m.name])) } }
}

/** The page of the wizard that has a field. */
export function stepOf(field: string): Step {
  if (/^machines\[\d+]\.(checks|stage)/.test(field) || field.startsWith('runbook')) return 'boot'
  if (/^machines\[\d+]\.(cpus|memory|nicModel|replicaName|disks)/.test(field)) return 'target'
  if (field.startsWith('machines')) return 'machines'
  if (field.startsWith('policy')) return 'policy'
  if (/^(targetHost|storage|networks)/.test(field)) return 'target'
  return 'host'
}

/** Whether one may go on from a page. The appliance looks at everything else. */
export function complete(d: Draft, step: Step): boolean {
  switch (step) {
    case 'host':
      return d.spec.name !== '' && d.spec.sourceHost !== ''
    case 'machines':
      return d.spec.machines.length > 0
    case 'target':
      return d.spec.targetHost !== ''
    default:
      return true
  }
}

/** The furthest page that may be shown: all before it are complete. */
export const furthest = (d: Draft): Step => steps.find(s => !complete(d, s)) ?? 'review'

export const violations = (checks: { level: string; field?: string; message: string }[]): Violation[] =>
  checks.filter(c => c.level === 'error' && c.field).map(c => ({ field: c.field!, message: c.message }))
