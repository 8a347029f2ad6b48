import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import de from './de.json'
import en from './en.json'

function leaves(words: object, before = ''): [string, string][] {
  return Object.entries(words).flatMap(([key, value]) => (typeof value === 'string' ? [[before + key, value] as [string, string]] : leaves(value, `${before}${key}.`)))
}

const placeholders = (s: string) => [...s.matchAll(/{{\w+}}/g)].map(m => m[0]).sort()

test('both languages say the same things', () => {
  const german = new Map(leaves(de))
  expect([...german.keys()].sort()).toEqual(leaves(en).map(([key]) => key).sort())
  for (const [key, text] of leaves(en)) {
    expect(placeholders(german.get(key)!), key).toEqual(placeholders(text))
    expect(german.get(key)!.trim(), key).not.toBe('')
  }
})

test('every word is used', () => {
  const sources = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter(f => /\.tsx?$/.test(f) && !f.endsWith('.test.ts'))
  const source = sources.map(f => readFileSync(join('src', f), 'utf8')).join('\n')
  // t(`state.${state}`) uses every word below state.
  const made = [...source.matchAll(/`([a-zA-Z.]+\.)\$\{/g)].map(m => m[1]!)
  const unused = leaves(en).map(([key]) => key.replace(/_(one|other)$/, '')).filter(key => !source.includes(`'${key}'`) && !made.some(m => key.startsWith(m)))
  expect(unused).toEqual([])
})
