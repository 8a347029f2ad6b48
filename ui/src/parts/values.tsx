// Moments, ages, sizes and numbers as text.
import { useSyncExternalStore } from 'react'
import { useTranslation } from 'react-i18next'
import { clock } from '../api/client'
import * as format from './format'

const watchers = new Set<() => void>()
let ticking: ReturnType<typeof setInterval> | undefined

function watch(tell: () => void) {
  watchers.add(tell)
  ticking ??= setInterval(() => watchers.forEach(t => t()), 1000)
  return () => {
    watchers.delete(tell)
    if (watchers.size === 0) {
      clearInterval(ticking)
      ticking = undefined
    }
  }
}

/** The time at the appliance, in steps of so many seconds; one clock for the whole page. */
export function useNow(step = 1): Date {
  const now = useSyncExternalStore(watch, () => Math.floor((Date.now() + clock.ahead) / 1000 / step))
  return new Date(now * 1000 * step)
}

export function useFormat() {
  const locale = useTranslation().i18n.language
  return {
    bytes: (n: number) => format.bytes(n, locale),
    rate: (n: number) => format.rate(n, locale),
    duration: (n: number) => format.duration(n, locale),
    moment: (t: string | Date) => format.moment(t, locale),
    count: (n: number) => format.count(n, locale),
    percent: (n: number) => format.percent(n, locale),
    ago: (then: string, now: Date) => format.ago(new Date(then), now, locale),
  }
}

export const Bytes = ({ of }: { of: number }) => <>{useFormat().bytes(of)}</>
export const Count = ({ of }: { of: number }) => <>{useFormat().count(of)}</>
export const Duration = ({ seconds }: { seconds: number }) => <>{useFormat().duration(seconds)}</>

/** A moment; hovering tells its distance from now. */
export function Moment({ at }: { at: string }) {
  const f = useFormat()
  return <time dateTime={at}>{f.moment(at)}</time>
}

/** "3 minutes ago", going on by itself; the title tells the moment. */
export function Ago({ at }: { at: string }) {
  const f = useFormat()
  return <time dateTime={at} title={f.moment(at)}>{f.ago(at, useNow())}</time>
}

/** The time since a moment: "12 min 4 s". */
export function Age({ since }: { since: string }) {
  const f = useFormat()
  const seconds = Math.max(0, Math.round((useNow().getTime() - Date.parse(since)) / 1000))
  return <time dateTime={since} title={f.moment(since)}>{f.duration(seconds)}</time>
}
