import { expect, test } from 'vitest'
import { advise, changesDisks, possible, type Facts } from './next'

const group = (change: Partial<Facts> = {}): Facts => ({ state: 'protected', reversed: false, paused: false, points: 3, health: 'met', testFreshness: 'fresh', ...change })

test.each<[string, Partial<Facts>, string, string[]]>([
  ['all is well', {}, 'calm', []],
  ['a cycle at work changes nothing', { job: 'j1' }, 'calm', []],
  ['never tested', { testFreshness: 'never' }, 'testNow', ['test']],
  ['the last test failed', { testFreshness: 'failed' }, 'testFailed', ['test']],
  ['a test runs', { test: { state: 'running' }, testFreshness: 'never' }, 'testing', ['end-test']],
  ['first copy', { state: 'mirroring', points: 0 }, 'mirroring', []],
  ['paused', { paused: true, health: 'off' }, 'paused', ['resume']],
  ['too old', { health: 'missed', testFreshness: 'never' }, 'unhealthy', ['sync']],
  ['at risk for a while', { health: 'at-risk' }, 'calm', []],
  ['a failover is at work', { state: 'failing-over', job: 'j1' }, 'working', []],
  ['failed over', { state: 'failed-over' }, 'failedOver', ['commit', 'rollback']],
  ['a test beside a failover', { state: 'failed-over', test: { state: 'running' } }, 'failedOver', ['commit', 'rollback']],
  ['committed', { state: 'committed' }, 'committed', ['reprotect', 'failback']],
  ['committed at home', { state: 'committed', reversed: true }, 'committedHome', ['reprotect']],
  ['protected away from home', { reversed: true }, 'away', ['failback']],
  ['a rollback that failed', { state: 'rolling-back' }, 'again', ['rollback']],
  ['a failback that failed', { state: 'failing-back', reversed: true }, 'again', ['failback']],
  ['running on both sides comes first', { state: 'failed-over', alerts: [{ kind: 'split-brain' }] }, 'fence', ['fence']],
  ['other alerts do not', { state: 'failed-over', alerts: [{ kind: 'host-down' }] }, 'failedOver', ['commit', 'rollback']],
])('%s', (_, change, say, orders) => {
  const g = group(change)
  const advice = advise(g)
  expect(advice).toMatchObject({ say, orders })
  // What is proposed must be possible.
  for (const o of advice.orders) if (o !== 'resume' && o !== 'sync') expect(possible(g)).toContain(o)
})

test('nothing is ordered while an order is at work, but a test can be ended', () => {
  expect(possible(group({ state: 'failing-over', job: 'j1' }))).toEqual([])
  expect(possible(group({ state: 'failing-over', job: 'j1', test: { state: 'running' } }))).toEqual(['end-test'])
})

test('without a point nothing can be started', () => expect(possible(group({ state: 'mirroring', points: 0 }))).toEqual(['fence', 'remove']))

test.each<[Partial<Facts>, boolean]>([
  [{}, true], [{ state: 'mirroring' }, true], [{ reversed: true }, false], [{ state: 'failed-over' }, false], [{ state: 'committed', reversed: true }, false], [{ state: 'failing-over' }, false],
])('disks are changed while the machines are at home: %j', (change, may) => expect(changesDisks(group(change))).toBe(may))
