import { expect, test } from 'vitest'
import { change, clear, complete, empty, from, furthest, load, save, stepOf, to, toggle } from './draft'

function memory() {
  const kept = new Map<string, string>()
  return { getItem: (k: string) => kept.get(k) ?? null, setItem: (k: string, v: string) => void kept.set(k, v), removeItem: (k: string) => void kept.delete(k) }
}
const db = { id: 'vm-1', name: 'db' }
const web = { id: 'vm-2', name: 'web' }

test('nothing typed is lost by a reload', () => {
  const store = memory()
  const d = { ...change(toggle(from(empty(), 'berlin'), [db, web], true), { name: 'shop' }), step: 'policy' as const }
  save(store, d)
  expect(load(store)).toEqual(d)
  clear(store)
  expect(load(store).spec.name).toBe('')
})

test.each(['', 'no JSON', '{}', '[]', '{"step":"gone"}', '{"step":"host","spec":{}}', 'null'])('what cannot be read begins anew: %s', kept => {
  const store = memory()
  store.setItem('protect', kept)
  expect(load(store)).toMatchObject({ step: 'host', spec: { name: '', machines: [] } })
})

test('the same draft is sent with the same key, another one with another', () => {
  const d = empty()
  expect({ ...d, step: 'policy' as const }.once).toBe(d.once)
  expect(change(d, { name: 'x' }).once).not.toBe(d.once)
})

test('what belongs to a host goes when another is chosen', () => {
  const d = change(to(toggle(from(empty(), 'berlin'), [db], true), 'hamburg'), { storage: 'ssd', networks: [{ from: 'lan', to: 'lan2' }] })
  expect(from(d, 'berlin')).toBe(d)
  expect(from(d, 'hamburg').spec).toMatchObject({ sourceHost: 'hamburg', targetHost: '', machines: [], networks: [] })
  expect(to(d, 'bremen').spec).toMatchObject({ storage: '', networks: [], machines: [{ vm: 'vm-1' }] })
})

test('wishes for a machine stay when others are chosen', () => {
  let d = toggle(empty(), [db], true)
  d = change(d, { machines: [{ vm: 'vm-1', cpus: 4 }] })
  d = toggle(d, [db, web], true)
  expect(d.spec.machines).toEqual([{ vm: 'vm-1', cpus: 4 }, { vm: 'vm-2' }])
  expect(toggle(d, [db], false).spec.machines).toEqual([{ vm: 'vm-2' }])
})

test.each([
  ['name', 'host'], ['sourceHost', 'host'], ['targetHost', 'target'], ['storage', 'target'], ['networks[0].to', 'target'], ['machines', 'machines'],
  ['machines[3].vm', 'machines'], ['machines[0].memory', 'target'], ['machines[0].replicaName', 'target'], ['machines[0].disks[1].id', 'target'], ['machines[12].checks[0].address', 'boot'],
  ['machines[0].stage', 'boot'], ['runbook.stages[0].before[1].script', 'boot'], ['policy.rpoSeconds', 'policy'], ['policy.retention[0]', 'policy'],
])('%s is on the page %s', (field, step) => expect(stepOf(field)).toBe(step))

test('one goes on when a page is complete', () => {
  let d = empty()
  expect(furthest(d)).toBe('host')
  d = from(change(d, { name: 'shop' }), 'berlin')
  expect(furthest(d)).toBe('machines')
  d = to(toggle(d, [db], true), 'hamburg')
  expect(furthest(d)).toBe('review')
  expect(complete(toggle(d, [db], false), 'machines')).toBe(false)
})
