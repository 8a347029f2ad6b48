import { expect, test } from 'vitest'
import { staged, wanted } from './stages'

test('stages are those of machines and of the runbook, in order', () => {
  const wish = { stage: 10, delaySeconds: 5 }
  expect(staged([{ stage: 3 }, {}, { stage: 0 }, { stage: 3 }], { stages: [wish] })).toEqual([{ stage: 1 }, { stage: 3 }, wish])
  expect(staged([], undefined)).toEqual([])
})

test.each([[{ stage: 1 }, false], [{ stage: 1, before: [], after: null, delaySeconds: 0, waitForChecks: false }, false], [{ stage: 1, waitForChecks: true }, true],
  [{ stage: 1, after: [{ name: 'a', kind: 'manual' as const }] }, true]])('%o is wanted: %s', (s, want) => expect(wanted(s)).toBe(want))
