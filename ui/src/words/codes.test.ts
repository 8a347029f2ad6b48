import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { said } from './codes'
import { de } from './codes.de'

test('in English the appliance speaks for itself', () => {
  expect(said('en', 'alert', 'host-down', 'host a does not answer')).toEqual({ title: 'host a does not answer' })
})

test('elsewhere the words for the code come first', () => {
  expect(said('de', 'alert', 'host-down', 'host a does not answer')).toEqual({ title: 'Der Host antwortet nicht', detail: 'host a does not answer' })
  expect(said('de', 'change', 'source-off', 'web is shut down.', { machine: 'web', host: 'berlin' }).title).toBe('web wird auf berlin ausgeschaltet.')
  expect(said('de', 'preflight', 'brand-new', 'what nobody has words for')).toEqual({ title: 'what nobody has words for' })
})

// Codes that the types do not list stand in the documentation of the API.
test('every code of a preflight and of a problem has words', () => {
  const schema = readFileSync('src/api/schema.d.ts', 'utf8')
  const preflight = /What was looked at: ([a-z, -]+)/.exec(schema)![1]!.trim().split(', ')
  expect(Object.keys(de.preflight)).toEqual(expect.arrayContaining(preflight))
  const codes = [...readFileSync('../api/errors.go', 'utf8').matchAll(/Code = "([a-z-]+)"/g)].map(m => m[1])
  expect(codes.length).toBeGreaterThan(5)
  expect(Object.keys(de.problem).sort()).toEqual(codes.sort())
})
