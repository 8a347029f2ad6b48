import { expect, test } from 'vitest'
import { presetOf, presets, said, split } from './retention'

test.each([[0, 0, 'seconds'], [30, 30, 'seconds'], [90, 90, 'seconds'], [120, 2, 'minutes'], [3600, 1, 'hours'], [86400, 1, 'days'], [604800, 7, 'days'], [5400, 90, 'minutes']])(
  '%d seconds', (seconds, n, unit) => expect(split(seconds)).toEqual([n, unit]))

test.each([
  [{ everySeconds: 0, forSeconds: 7200 }, { often: 'all', long: 'for' }],
  [{ everySeconds: 3600, forSeconds: 86400, count: 5 }, { often: 'each', long: 'forAtMost' }],
  [{ everySeconds: 0, forSeconds: 0, count: 24 }, { often: 'all', long: 'newest' }],
])('what a tier keeps: %o', (tier, words) => expect(said(tier)).toEqual(words))

test('presets are recognised, also as the appliance gives them back', () => {
  expect(presetOf(null)).toBe('newest')
  expect(presetOf([])).toBe('newest')
  for (const [name, tiers] of Object.entries(presets)) expect(presetOf(tiers.map(t => ({ ...t, count: 0 })))).toBe(name)
  expect(presetOf([{ everySeconds: 0, forSeconds: 60 }])).toBe('own')
})
