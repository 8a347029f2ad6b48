import { QueryClient } from '@tanstack/react-query'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Cache, listen, withJob, type Connection } from './events'
import type { Event, Job } from './schema'

const job = (change: Partial<Job> = {}): Job => ({
  id: 'j1', kind: 'cycle', state: 'running', step: 'copy', steps: ['checkpoint', 'copy'], progress: { done: 1, total: 9 }, created: '2026-03-04T05:06:07Z', timeline: [], ...change,
})
let id = 0
const event = (kind: string, action: Event['action'], change: Partial<Event> = {}): Event => ({
  id: ++id, time: '2026-03-04T05:06:07Z', kind, action, subject: 'x', ...change,
})

beforeEach(() => vi.useFakeTimers())
afterEach(() => vi.useRealTimers())

/** A cache with a list on the screen; asked counts how often it was asked for. */
async function shown(path: string, answer: () => Promise<unknown> = async () => []) {
  const queries = new QueryClient({ defaultOptions: { queries: { staleTime: Infinity, gcTime: 0 } } })
  const { QueryObserver } = await import('@tanstack/react-query')
  const asked = vi.fn(answer)
  const observer = new QueryObserver(queries, { queryKey: ['get', path], queryFn: asked })
  observer.subscribe(() => {})
  await vi.advanceTimersByTimeAsync(0)
  asked.mockClear()
  return { queries, asked, cache: new Cache(queries), data: () => queries.getQueryData(['get', path]) }
}

test('a storm of events asks once a second', async () => {
  const { asked, cache } = await shown('/groups')
  for (let i = 0; i < 50; i++) {
    for (let n = 0; n < 10; n++) cache.take(event('group', 'updated'))
    await vi.advanceTimersByTimeAsync(100)
  }
  expect(asked.mock.calls.length).toBeGreaterThanOrEqual(5)
  expect(asked.mock.calls.length).toBeLessThanOrEqual(6)
})

test('the first event is shown at once, and the last one is not forgotten', async () => {
  const { asked, cache } = await shown('/groups/{id}')
  cache.take(event('group', 'updated'))
  await vi.advanceTimersByTimeAsync(1)
  expect(asked).toHaveBeenCalledTimes(1)
  cache.take(event('group', 'updated'))
  await vi.advanceTimersByTimeAsync(500)
  expect(asked).toHaveBeenCalledTimes(1)
  await vi.advanceTimersByTimeAsync(600)
  expect(asked).toHaveBeenCalledTimes(2)
  await vi.advanceTimersByTimeAsync(9000)
  expect(asked).toHaveBeenCalledTimes(2)
})

test('a slow answer is waited for', async () => {
  const { asked, cache } = await shown('/groups', () => new Promise(done => setTimeout(done, 5000, [])))
  await vi.advanceTimersByTimeAsync(5000)
  for (let i = 0; i < 40; i++) {
    cache.take(event('group', 'updated'))
    await vi.advanceTimersByTimeAsync(100)
  }
  expect(asked).toHaveBeenCalledTimes(1)
})

test('events of other kinds ask for nothing, nor does what makes a host look', async () => {
  const hosts = await shown('/hosts/{id}/inventory')
  hosts.cache.take(event('host', 'updated'))
  const groups = await shown('/groups')
  groups.cache.take(event('host', 'updated'))
  groups.cache.take(event('something-new', 'created'))
  await vi.advanceTimersByTimeAsync(5000)
  expect(hosts.asked).not.toHaveBeenCalled()
  expect(groups.asked).not.toHaveBeenCalled()
})

test('history is asked for once in a slot', async () => {
  const { asked, cache } = await shown('/history')
  for (let minute = 0; minute < 11; minute++) {
    cache.take(event('point', 'created'))
    await vi.advanceTimersByTimeAsync(60_000)
  }
  expect(asked).toHaveBeenCalledTimes(2)
})

test('progress is patched and asks for nothing', async () => {
  const { asked, cache, data } = await shown('/jobs', async () => ({ items: [job({ id: 'j0' }), job()], total: 2 }))
  cache.take(event('job', 'progress', { job: job({ progress: { done: 5, total: 9 } }) }))
  await vi.advanceTimersByTimeAsync(5000)
  expect(asked).not.toHaveBeenCalled()
  expect(data()).toEqual({ items: [job({ id: 'j0' }), job({ progress: { done: 5, total: 9 } })], total: 2 })
  cache.take(event('job', 'updated', { job: job({ state: 'succeeded' }) }))
  await vi.advanceTimersByTimeAsync(1)
  expect(asked).toHaveBeenCalledTimes(1)
})

test('a job that is not told, because many are at work, is asked for', async () => {
  const { asked, cache } = await shown('/jobs')
  cache.take(event('job', 'progress'))
  await vi.advanceTimersByTimeAsync(1)
  expect(asked).toHaveBeenCalledTimes(1)
})

test('a job is found wherever it is, and other answers stay the same', () => {
  const changed = job({ step: 'checkpoint' })
  expect(withJob(job(), changed)).toBe(changed)
  expect(withJob({ activeJobs: 1, jobs: [job()] }, changed)).toEqual({ activeJobs: 1, jobs: [changed] })
  for (const other of [null, 'j1', [job({ id: 'j2' })], { items: null, total: 0 }, { id: 'j1', name: 'a host' }]) expect(withJob(other, changed)).toBe(other)
})

/** Connections that the test opens and breaks. */
function wire() {
  const urls: string[] = []
  const sources: { onopen: any; onmessage: any; onerror: any; readyState: number; close: () => void }[] = []
  const cache = { take: vi.fn(), all: vi.fn() }
  const states: Connection[] = []
  const check = vi.fn(async () => {})
  const stop = listen({
    cache, check, report: c => states.push(c),
    open: url => {
      urls.push(url)
      const source = { onopen: null, onmessage: null, onerror: null, readyState: 0, close: vi.fn() }
      sources.push(source)
      return source
    },
  })
  const last = () => sources.at(-1)!
  return { urls, sources, cache, states, check, stop, open: () => last().onopen({}), say: (e: Event) => last().onmessage({ data: JSON.stringify(e) }), drop: () => last().onerror({}) }
}

test('a stream that dropped goes on after the last event', async () => {
  const w = wire()
  w.open()
  expect(w.cache.all).toHaveBeenCalledTimes(1) // what happened while the first answers were under way
  w.say({ ...event('group', 'updated'), id: 7 })
  w.drop()
  expect(w.states.at(-1)).toBe('lost')
  await vi.advanceTimersByTimeAsync(500)
  expect(w.urls).toEqual(['/api/v1/events?intervalMs=1000', '/api/v1/events?intervalMs=1000&after=7'])
  w.open()
  expect(w.states.at(-1)).toBe('live')
  w.say({ ...event('job', 'progress'), id: 7 })
  w.say({ ...event('group', 'updated'), id: 8 })
  expect(w.cache.all).toHaveBeenCalledTimes(1)
  expect(w.cache.take).toHaveBeenCalledTimes(3)
})

test.each([[12, 'events were dropped meanwhile'], [3, 'the appliance was restored to an earlier time']])('event %i after 7: %s', async next => {
  const w = wire()
  w.open()
  w.say({ ...event('group', 'updated'), id: 7 })
  w.drop()
  await vi.advanceTimersByTimeAsync(500)
  w.open()
  w.say({ ...event('group', 'updated'), id: next })
  expect(w.cache.all).toHaveBeenCalledTimes(2)
})

test('it is tried again ever more rarely, after asking whether somebody is signed in', async () => {
  const w = wire()
  for (let i = 0; i < 4; i++) {
    w.drop()
    await vi.advanceTimersByTimeAsync(500 * 2 ** i - 1)
    expect(w.urls).toHaveLength(i + 1)
    await vi.advanceTimersByTimeAsync(1)
    expect(w.urls).toHaveLength(i + 2)
  }
  expect(w.check).toHaveBeenCalledTimes(4)
  w.drop()
  w.stop()
  await vi.advanceTimersByTimeAsync(60_000)
  expect(w.urls).toHaveLength(5)
})
