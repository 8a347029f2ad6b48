// Numbers and moments as people of a language write them. Pure: the time and the language are given.

/** To make a formatter takes longer than to format; there are few of them. */
function kept<O, F>(make: (locale: string, options: O) => F): (locale: string, options: O) => F {
  const made = new Map<string, F>()
  return (locale, options) => {
    const key = locale + JSON.stringify(options)
    const one = made.get(key) ?? make(locale, options)
    made.set(key, one)
    return one
  }
}

const numbers = kept((locale, o: Intl.NumberFormatOptions) => new Intl.NumberFormat(locale, o))
const moments = kept((locale, o: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat(locale, o))
const distances = kept((locale, o: Intl.RelativeTimeFormatOptions) => new Intl.RelativeTimeFormat(locale, o))

/** "3.2 GB", in powers of 1000 as storage is sold. */
export function bytes(n: number, locale: string): string {
  const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte', 'petabyte']
  let unit = 0
  while (Math.abs(n) >= 999.5 && unit < units.length - 1) {
    n /= 1000
    unit++
  }
  const digits = unit === 0 || Math.abs(n) >= 100 ? 0 : 1
  return numbers(locale, { style: 'unit', unit: units[unit], unitDisplay: unit === 0 ? 'long' : 'short', maximumFractionDigits: digits }).format(n)
}

/** Bytes per second: "12 MB/s". */
export const rate = (bytesPerSecond: number, locale: string) => `${bytes(bytesPerSecond, locale)}/s`

const spans = [
  ['day', 86400],
  ['hour', 3600],
  ['minute', 60],
  ['second', 1],
] as const

/** The two largest units of a duration: "2 h 5 min"; below ten seconds with one decimal place. */
export function duration(seconds: number, locale: string): string {
  const unit = (n: number, name: string, digits = 0) =>
    numbers(locale, { style: 'unit', unit: name, unitDisplay: 'short', maximumFractionDigits: digits }).format(n)
  if (seconds < 10) return unit(Math.max(0, seconds), 'second', Number.isInteger(seconds) ? 0 : 1)
  let rest = Math.round(seconds)
  const first = spans.findIndex(([, length]) => rest >= length)
  const [name, length] = spans[first]!
  const text = unit(Math.floor(rest / length), name)
  rest %= length
  const next = spans[first + 1]
  if (!next) return text
  const more = Math.floor(rest / next[1])
  return more === 0 ? text : `${text} ${unit(more, next[0])}`
}

/** "3 minutes ago", "in 2 days". */
export function ago(then: Date, now: Date, locale: string): string {
  const seconds = (then.getTime() - now.getTime()) / 1000
  const [name, length] = spans.find(([, l]) => Math.abs(seconds) >= l) ?? spans[3]
  return distances(locale, { numeric: 'auto' }).format(Math.trunc(seconds / length), name)
}

/** A moment in the time zone of the browser. */
export const moment = (t: Date | string, locale: string) =>
  moments(locale, { dateStyle: 'medium', timeStyle: 'medium' }).format(new Date(t))

export const count = (n: number, locale: string) => numbers(locale, {}).format(n)

export const percent = (part: number, locale: string) =>
  numbers(locale, { style: 'percent', maximumFractionDigits: 0 }).format(part)
