import { expect, test } from 'vitest'
import { ago, bytes, duration, percent } from './format'

test.each([
  [0, 'en', '0 bytes'], [1, 'en', '1 byte'], [999, 'en', '999 bytes'], [1000, 'en', '1 kB'], [1_500_000, 'en', '1.5 MB'], [999_999, 'en', '1 MB'],
  [64 * 2 ** 30, 'en', '68.7 GB'], [3e18, 'en', '3,000 PB'], [1_500_000, 'de', '1,5 MB'],
])('%d bytes in %s', (n, locale, want) => expect(bytes(n, locale)).toBe(want))

test.each([
  [0, '0 sec'], [1.26, '1.3 sec'], [9, '9 sec'], [59.6, '1 min'], [125, '2 min 5 sec'], [7200, '2 hr'], [7260, '2 hr 1 min'], [90000, '1 day 1 hr'], [-3, '0 sec'],
])('%d seconds', (n, want) => expect(duration(n, 'en')).toBe(want))

test('ages', () => {
  const now = new Date('2026-03-04T05:06:07Z')
  const at = (seconds: number) => new Date(now.getTime() + seconds * 1000)
  expect(ago(at(0), now, 'en')).toBe('now')
  expect(ago(at(-119), now, 'en')).toBe('1 minute ago')
  expect(ago(at(3 * 86400), now, 'de')).toBe('in 3 Tagen')
  expect(percent(0.256, 'de').replace(/\s/, ' ')).toBe('26 %')
})
