// Which recovery points are kept, and spans of time as people give them.
import type { RetentionTier } from '../api/schema'

export const units = { seconds: 1, minutes: 60, hours: 3600, days: 86400 } as const
export type Unit = keyof typeof units

/** The largest unit that gives a whole number. */
export function split(seconds: number): [n: number, unit: Unit] {
  const fits = (Object.keys(units) as Unit[]).filter(u => seconds % units[u] === 0 && (seconds > 0 || u === 'seconds'))
  const unit = fits.at(-1) ?? 'seconds'
  return [seconds / units[unit], unit]
}

/** Keys of the words of a tier: how often, and how long. */
export function said(t: RetentionTier) {
  const often = t.everySeconds === 0 ? 'all' : 'each'
  const long = t.forSeconds > 0 ? ((t.count ?? 0) > 0 ? 'forAtMost' : 'for') : 'newest'
  return { often, long } as const
}

export const presets = {
  short: [{ everySeconds: 0, forSeconds: 7200 }, { everySeconds: 3600, forSeconds: 86400 }],
  standard: [{ everySeconds: 0, forSeconds: 7200 }, { everySeconds: 3600, forSeconds: 2 * 86400 }, { everySeconds: 86400, forSeconds: 14 * 86400 }],
  long: [{ everySeconds: 0, forSeconds: 7200 }, { everySeconds: 3600, forSeconds: 2 * 86400 }, { everySeconds: 86400, forSeconds: 31 * 86400 }, { everySeconds: 7 * 86400, forSeconds: 364 * 86400 }],
} satisfies Record<string, RetentionTier[]>
export type Preset = keyof typeof presets | 'newest' | 'own'

/** Which preset the tiers are. None at all stands for the newest 24. */
export function presetOf(tiers: RetentionTier[] | null | undefined): Preset {
  if (!tiers?.length) return 'newest'
  const plain = (list: RetentionTier[]) => JSON.stringify(list.map(t => [t.everySeconds, t.forSeconds, t.count ?? 0]))
  return (Object.keys(presets) as (keyof typeof presets)[]).find(p => plain(presets[p]) === plain(tiers)) ?? 'own'
}
