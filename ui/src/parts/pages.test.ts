import { expect, test } from 'vitest'
import { Pages, pageSize, type Page } from './pages'

const page = (at: number, total: number, name = 'row'): [number, Page<string>] => [
  at, { total, items: Array.from({ length: Math.max(0, Math.min(pageSize, total - at * pageSize)) }, (_, i) => `${name} ${at * pageSize + i}`) },
]
const known = (...pages: [number, Page<string>][]) => new Map(pages)

test('nothing is known before the first answer', () => {
  const list = new Pages<string>().take('all', known())
  expect(list.total).toBeUndefined()
  expect(list.row(0)).toBeUndefined()
})

test('rows are found on their pages', () => {
  const list = new Pages<string>().take('all', known(page(2, 1000), page(3, 1000)))
  expect(list.total).toBe(1000)
  expect(list.row(299)).toBe('row 299')
  expect(list.row(300)).toBe('row 300')
  expect(list.row(400)).toBeUndefined()
})

test('a list keeps its length while rows further down are awaited', () => {
  const list = new Pages<string>().take('all', known(page(0, 1000)))
  list.take('all', known())
  expect(list.total).toBe(1000)
  expect(list.row(500)).toBeUndefined()
})

test('another list takes the place of the old one when it is known, not before', () => {
  const list = new Pages<string>().take('all', known(page(0, 1000)))
  list.take('some', known())
  expect([list.total, list.row(3)]).toEqual([1000, 'row 3'])
  list.take('some', known(page(0, 2, 'other')))
  expect([list.total, list.row(1), list.row(3)]).toEqual([2, 'other 1', undefined])
})

test('a list that became shorter says so', () => {
  const list = new Pages<string>().take('all', known(page(4, 1000)))
  list.take('all', known(page(4, 120)))
  expect([list.total, list.row(450)]).toEqual([120, undefined])
})
