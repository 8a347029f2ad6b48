// The event stream: one connection for the whole page. It resumes after the last event it saw, and its events patch
// what is cached or have it asked for again, at most once a second however many there are.
import type { QueryClient } from '@tanstack/react-query'
import type { Event, Job } from './schema'

export type Connection = 'connecting' | 'live' | 'lost'

/** Answers that an event of a kind makes stale, by the beginning of their path. */
const stale: Record<string, string[]> = {
  host: ['/hosts', '/overview'],
  group: ['/groups', '/machines', '/overview'],
  point: ['/groups', '/machines', '/history'],
  job: ['/jobs', '/overview', '/reports'],
  alert: ['/alerts', '/groups', '/machines', '/overview'],
}

/** Nobody sees more than one state of a thing in a second, in milliseconds. */
const interval = 1000

/** Too expensive to ask for whenever something happens: they make the host look. */
const costly = /\/(inventory|doctor)$/

/** Grows by one slot in this time, in milliseconds; to ask more often would show nothing new. */
const slot = 300_000
const slow = /\/history$/

const ended = (j: Job) => ['succeeded', 'failed', 'cancelled'].includes(j.state)

/** Replaces the job wherever it is shown: alone, in a page of jobs, in the overview. Answers may be of any shape. */
export function withJob<T>(data: T, job: Job): T {
  if (data === null || typeof data !== 'object') return data
  if (Array.isArray(data)) {
    const at = data.findIndex(item => item?.id === job.id)
    return at < 0 ? data : (data.with(at, job) as T)
  }
  if ((data as unknown as Job).id === job.id && 'steps' in data) return job as unknown as T
  for (const field of ['items', 'jobs'] as const) {
    const list = (data as Record<string, unknown>)[field]
    if (Array.isArray(list)) {
      const changed = withJob(list, job)
      if (changed !== list) return { ...data, [field]: changed }
    }
  }
  return data
}

/** Collects what became stale, and asks again at once the first time and then at most once in each interval. */
export class Cache {
  private waiting = new Set<string>()
  private busy = false
  private last = -Infinity

  constructor(
    private readonly queries: QueryClient,
    private readonly interval = 1000,
    private readonly now: () => number = Date.now,
  ) {}

  take(e: Event) {
    if (e.job) {
      const job = e.job
      this.queries.setQueriesData({ predicate: q => /\/(jobs|overview)/.test(String(q.queryKey[1])) }, (old: unknown) => withJob(old, job))
    }
    // A job that goes on changes nothing but itself, which is patched by now. Where much happens, jobs are left out.
    if (e.kind === 'job' && e.job && !ended(e.job) && (e.action === 'progress' || e.action === 'updated')) return
    for (const path of stale[e.kind] ?? []) this.waiting.add(path)
    this.schedule()
  }

  /** Something was missed: everything on the screen is asked for again. */
  all() {
    this.waiting.add('/')
    this.schedule()
  }

  private schedule() {
    if (this.busy || this.waiting.size === 0) return
    this.busy = true
    setTimeout(() => void this.flush(), Math.max(0, this.last + this.interval - this.now()))
  }

  private async flush() {
    const paths = [...this.waiting]
    this.waiting.clear()
    this.last = this.now()
    const everything = paths.includes('/')
    await this.queries.invalidateQueries({
      predicate: q => {
        const path = String(q.queryKey[1])
        if (everything) return true
        if (costly.test(path) || (slow.test(path) && this.last - q.state.dataUpdatedAt < slot)) return false
        return paths.some(p => path.startsWith(p))
      },
    })
    // Only now: to ask again cuts off an answer that is under way, and a slow one would never come.
    this.busy = false
    this.schedule()
  }
}

type Source = Pick<EventSource, 'close' | 'readyState'> & {
  onopen: ((e: any) => void) | null
  onerror: ((e: any) => void) | null
  onmessage: ((e: any) => void) | null
}

interface Options {
  cache: Pick<Cache, 'take' | 'all'>
  /** Tells how the connection stands. */
  report: (c: Connection) => void
  /** Comes back when somebody is signed in, or fails when that cannot be known. */
  check: () => Promise<unknown>
  open?: (url: string) => Source
}

/** Listens until the function it returns is called. */
export function listen({ cache, report, check, open = url => new EventSource(url) }: Options): () => void {
  let last = 0
  let failures = 0
  let timer: ReturnType<typeof setTimeout> | undefined
  let source: Source
  let resumed = false // the next event shows whether others were missed
  let stopped = false

  const connect = () => {
    source = open(`/api/v1/events?intervalMs=${interval}` + (last > 0 ? `&after=${last}` : ''))
    source.onopen = () => {
      failures = 0
      report('live')
      // Without a last event nobody knows what happened between the first answers and now.
      if (last === 0) cache.all()
      else resumed = true
    }
    source.onmessage = (m: MessageEvent<string>) => {
      const event = JSON.parse(m.data) as Event
      const missed = resumed && (event.id > last + 1 || event.id < last)
      resumed = false
      last = event.id
      if (missed) cache.all()
      cache.take(event)
    }
    source.onerror = () => {
      report('lost')
      // A browser connects again by itself, but not when it was refused: the session may have expired.
      source.close()
      clearTimeout(timer)
      timer = setTimeout(again, Math.min(10_000, 500 * 2 ** failures++))
    }
  }
  const again = async () => {
    await check().catch(() => {})
    if (!stopped) connect()
  }
  report('connecting')
  connect()
  return () => {
    stopped = true
    clearTimeout(timer)
    source.close()
  }
}
