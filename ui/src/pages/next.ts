// What can be done with a group, and the one thing that should be done next. It only proposes: the appliance decides.
import type { Group } from '../api/schema'

/** Orders that are looked at before they are given. */
export const orders = ['test', 'end-test', 'failover', 'commit', 'rollback', 'reprotect', 'failback', 'fence', 'drop-point', 'remove'] as const
export type Order = (typeof orders)[number]

export type Facts = Pick<Group, 'state' | 'reversed' | 'paused' | 'points' | 'job' | 'health' | 'testFreshness'> & {
  test?: Pick<NonNullable<Group['test']>, 'state'>
  alerts?: { kind: string }[] | null
  problem?: string
}

export const testing = (g: Pick<Facts, 'test'>) => g.test?.state === 'starting' || g.test?.state === 'running'

/** Somebody ordered something, and it is being done. */
export const working = (g: Pick<Facts, 'state' | 'job'>) =>
  g.job !== undefined && ['failing-over', 'rolling-back', 'reversing', 'failing-back', 'removing'].includes(g.state)

/** Where production runs: swapped by a failover, and for good by reprotect. */
export const away = (g: Pick<Facts, 'state' | 'reversed'>) => ['failed-over', 'committed'].includes(g.state) !== g.reversed

/** Which disks are protected is changed while production is at home and no order is at work. */
export const changesDisks = (g: Pick<Facts, 'state' | 'reversed'>) => !g.reversed && (g.state === 'mirroring' || g.state === 'protected')

/** Orders that the state allows, the most likely first. */
export function possible(g: Facts): Order[] {
  if (working(g)) return testing(g) ? ['end-test'] : []
  const cycling = g.state === 'mirroring' || g.state === 'protected'
  const can: Record<Order, boolean> = {
    'end-test': testing(g),
    commit: g.state === 'failed-over',
    rollback: g.state === 'failed-over' || g.state === 'rolling-back',
    reprotect: g.state === 'committed' && !testing(g),
    failback: !testing(g) && ((g.state === 'protected' && g.reversed) || (g.state === 'committed' && !g.reversed) || g.state === 'failing-back'),
    test: cycling && g.points > 0 && !testing(g),
    failover: cycling && g.points > 0,
    fence: cycling || g.state === 'failed-over' || g.state === 'committed',
    'drop-point': false, // is ordered where the point is chosen
    remove: g.state !== 'failed-over' && !testing(g),
  }
  return (Object.keys(can) as Order[]).filter(o => can[o])
}

export interface Advice {
  /** Key of its words below "next". */
  say: 'working' | 'fence' | 'failedOver' | 'committed' | 'committedHome' | 'again' | 'testing' | 'mirroring' | 'paused' | 'away' | 'unhealthy' | 'testFailed' | 'testNow' | 'calm'
  tone: 'success' | 'info' | 'warning' | 'danger'
  /** What should be done: one order, or a choice of two. */
  orders: (Order | 'resume' | 'sync')[]
}

const both = ['split-brain', 'diverged', 'stray']

export function advise(g: Facts): Advice {
  if (working(g)) return { say: 'working', tone: 'info', orders: [] }
  if ((g.alerts ?? []).some(a => both.includes(a.kind))) return { say: 'fence', tone: 'danger', orders: ['fence'] }
  switch (g.state) {
    case 'failed-over':
      return { say: 'failedOver', tone: 'warning', orders: ['commit', 'rollback'] }
    case 'committed':
      return g.reversed ? { say: 'committedHome', tone: 'warning', orders: ['reprotect'] } : { say: 'committed', tone: 'warning', orders: ['reprotect', 'failback'] }
    case 'rolling-back':
      return { say: 'again', tone: 'danger', orders: ['rollback'] }
    case 'failing-back':
      return { say: 'again', tone: 'danger', orders: ['failback'] }
    case 'removing':
      return { say: 'again', tone: 'danger', orders: ['remove'] }
  }
  if (testing(g)) return { say: 'testing', tone: 'info', orders: ['end-test'] }
  if (g.paused) return { say: 'paused', tone: 'warning', orders: ['resume'] }
  if (g.state !== 'protected') return { say: 'mirroring', tone: 'info', orders: [] }
  if (g.health === 'missed' || (g.health === 'at-risk' && g.problem)) return { say: 'unhealthy', tone: g.health === 'missed' ? 'danger' : 'warning', orders: ['sync'] }
  if (away(g)) return { say: 'away', tone: 'info', orders: ['failback'] }
  if (g.testFreshness === 'failed') return { say: 'testFailed', tone: 'warning', orders: ['test'] }
  if (g.testFreshness !== 'fresh') return { say: 'testNow', tone: 'warning', orders: ['test'] }
  return { say: 'calm', tone: 'success', orders: [] }
}
