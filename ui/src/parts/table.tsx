// One table for everything: long ones draw only the rows that are seen and ask the appliance only for their pages.
import { FormSelect, FormSelectOption, SearchInput, Skeleton, Toolbar, ToolbarContent, ToolbarGroup, ToolbarItem } from '@patternfly/react-core'
import { Table, Tbody, Th, Thead, Tr, type ThProps } from '@patternfly/react-table'
import { hashKey, useQueries, type UseQueryOptions } from '@tanstack/react-query'
import { useVirtualizer } from '@tanstack/react-virtual'
import { createRef, memo, useEffect, useLayoutEffect, useRef, useState, type ReactNode, type RefObject } from 'react'
import { useTranslation } from 'react-i18next'
import { useSearchParams } from 'react-router-dom'
import { Loading, ProblemAlert } from './page'
import { Pages, pageSize, type Page } from './pages'
import { useFormat } from './values'

export interface Column<T> {
  title: string
  cell: (row: T, index: number) => ReactNode
  /** Name of the field that the appliance sorts by; without one the column is not sorted. */
  sort?: string
  width?: ThProps['width']
  /** For columns without words, such as those of buttons: the title is only heard. */
  quiet?: boolean
}

/** Rows of which some may not be known yet. */
export interface Rows<T> {
  total: number
  row: (index: number) => T | undefined
  /** Tells which rows are on the screen. */
  see?: (first: number, last: number) => void
  pending?: boolean
  error?: unknown
  retry?: () => void
}

export const allRows = <T,>(items: T[] | null | undefined): Rows<T> => ({ total: items?.length ?? 0, row: i => items?.[i] })

/** Rows of a list that the appliance gives in pages: `usePages((offset, limit) => api.queryOptions('get', '/jobs', …))`. */
// eslint-disable-next-line -- the key and the errors of a query are of no interest here
export function usePages<T>(options: (offset: number, limit: number) => Pick<UseQueryOptions<Page<T>, any, Page<T>, any>, 'queryKey' | 'queryFn'>): Rows<T> {
  const [[from, to], setSeen] = useState([0, 0]) // pages
  const list = useRef(new Pages<T>())
  const pages = useQueries({ queries: Array.from({ length: to - from + 1 }, (_, i) => options((from + i) * pageSize, pageSize)) })
  const known = new Map(pages.flatMap((p, i) => (p.data ? [[from + i, p.data] as const] : [])))
  const { total } = list.current.take(hashKey(options(0, pageSize).queryKey), known)
  const failed = pages.find(p => p.error)
  return {
    total: total ?? 0,
    row: i => list.current.row(i),
    see: (first, last) => {
      const [a, b] = [Math.floor(first / pageSize), Math.floor(last / pageSize)]
      if (a !== from || b !== to) setSeen([a, b])
    },
    pending: total === undefined && !failed,
    error: known.size > 0 ? undefined : failed?.error,
    retry: () => pages.forEach(p => void p.refetch()),
  }
}

interface TableProps<T> {
  label: string
  columns: Column<T>[]
  rows: Rows<T>
  /** What is shown when there is none. */
  empty?: ReactNode
  sort?: string
  onSort?: (sort: string) => void
  rowKey: (row: T) => string
  /** As tall as its rows, within a page or dialog that scrolls. */
  flat?: boolean
}

/** Of a row with one line, in pixels, as style.css says: what is known beforehand needs no second look. */
const rowHeight = 60

export function DataTable<T>({ label, columns, rows, empty, sort, onSort, rowKey, flat }: TableProps<T>) {
  const { t } = useTranslation()
  const scroller = useRef<HTMLDivElement>(null)
  const shown = rows.total > 0
  useLayoutEffect(() => {
    // As tall as the window lets it be, so that there is only one thing to scroll; and before it is measured: what
    // may grow has room for all rows, and all would be drawn.
    const top = scroller.current?.getBoundingClientRect().top ?? 0
    if (!flat) scroller.current?.style.setProperty('max-height', `max(20rem, 100dvh - ${Math.ceil(top)}px - 3rem)`)
  }, [flat, shown])
  const virtual = useVirtualizer({
    count: rows.total, getScrollElement: () => scroller.current, estimateSize: () => rowHeight, overscan: 8, enabled: !flat,
  })
  const seen = flat ? Array.from({ length: rows.total }, (_, index) => ({ index, start: 0, end: 0 })) : virtual.getVirtualItems()
  const first = seen[0]?.index ?? 0
  const last = seen.at(-1)?.index ?? 0
  useEffect(() => rows.see?.(first, last), [first, last]) // rows is new each time
  if (rows.error) return <ProblemAlert error={rows.error} retry={rows.retry} />
  if (rows.pending) return <Loading />
  if (rows.total === 0) return <>{empty ?? <p className="none">{t('table.none')}</p>}</>

  const above = flat ? 0 : (seen[0]?.start ?? 0)
  const below = flat ? 0 : virtual.getTotalSize() - (seen.at(-1)?.end ?? 0)
  return (
    <div className={flat ? 'table-flat' : 'table-scroller'} ref={scroller} tabIndex={flat ? undefined : 0} role={flat ? undefined : 'region'} aria-label={flat ? undefined : label}>
      <Table role="table" aria-label={label} aria-rowcount={rows.total + 1} isStickyHeader={!flat}>
        <Head columns={columns} sort={sort} onSort={onSort} />
        <Tbody>
          {above > 0 && <Gap height={above} columns={columns.length} />}
          {seen.map(({ index }) => {
            const row = rows.row(index)
            return <Row key={row ? rowKey(row) : index} row={row} index={index} columns={columns} measure={flat ? undefined : virtual.measureElement} />
          })}
          {below > 0 && <Gap height={below} columns={columns.length} />}
        </Tbody>
      </Table>
    </div>
  )
}

/** The row of titles. */
const Head = memo(function Head<T>({ columns, sort, onSort }: Pick<TableProps<T>, 'columns' | 'sort' | 'onSort'>) {
  // PatternFly's titles measure themselves again whenever they have another reference.
  const cells = useRef<RefObject<HTMLTableCellElement | null>[]>([])
  const sorted = columns.findIndex(c => c.sort && c.sort === sort?.replace('-', ''))
  const sorting = (c: Column<T>, columnIndex: number): ThProps['sort'] =>
    c.sort && onSort
      ? {
          columnIndex,
          sortBy: { index: sorted, direction: sort?.startsWith('-') ? 'desc' : 'asc' },
          onSort: (_, __, direction) => onSort((direction === 'desc' ? '-' : '') + c.sort),
        }
      : undefined
  return (
    <Thead>
      <Tr aria-rowindex={1}>
        {columns.map((c, i) => (
          <Th key={c.title} ref={(cells.current[i] ??= createRef())} width={c.width} modifier="wrap" sort={sorting(c, i)} screenReaderText={c.quiet ? c.title : undefined}>{c.quiet ? null : c.title}</Th>
        ))}
      </Tr>
    </Thead>
  )
}) as <T>(props: Pick<TableProps<T>, 'columns' | 'sort' | 'onSort'>) => ReactNode

interface RowProps<T> {
  row: T | undefined
  index: number
  columns: Column<T>[]
  measure?: (element: HTMLElement | null) => void
}

/** One row. Those that stay on the screen are not drawn again when others come and go. */
const Row = memo(function Row<T>({ row, index, columns, measure }: RowProps<T>) {
  const { t } = useTranslation()
  // PatternFly's own cells measure themselves whenever they are drawn, to know whether they need a tooltip.
  return (
    <tr className="pf-v6-c-table__tr" role="row" aria-rowindex={index + 2} data-index={index} ref={measure}>
      {columns.map((c, i) => (
        <td key={c.title} className={c.quiet ? 'pf-v6-c-table__td pf-v6-c-table__action' : 'pf-v6-c-table__td'} role="cell" data-label={c.quiet ? undefined : c.title}>
          {row ? (c.quiet ? <div className="row-actions">{c.cell(row, index)}</div> : c.cell(row, index)) : i === 0 && <Skeleton screenreaderText={t('common.loading')} />}
        </td>
      ))}
    </tr>
  )
}) as <T>(props: RowProps<T>) => ReactNode

const Gap = ({ height, columns }: { height: number; columns: number }) => <tr aria-hidden="true"><td colSpan={columns} style={{ height, padding: 0 }} /></tr>

/** What a list is narrowed to, kept in the address: it can be sent to others, and going back brings it back. */
export function useFilter<K extends string>(...names: K[]) {
  const [params, setParams] = useSearchParams()
  const values = Object.fromEntries(names.map(n => [n, params.get(n) || undefined])) as Partial<Record<K, string>>
  const set = (name: K, value: string) =>
    setParams(old => {
      if (value) old.set(name, value)
      else old.delete(name)
      return old
    }, { replace: true })
  return { values, set }
}

interface Choice<K extends string> {
  name: K
  label: string
  options: [value: string, text: string][]
}

interface FilterProps<K extends string> {
  filter: ReturnType<typeof useFilter<K>>
  /** Field of the text search; without one there is none. */
  search?: { name: K; label: string }
  choices?: Choice<K>[]
  total?: number
  children?: ReactNode
}

/** Search and choices above a table; other things, such as buttons, stand beside them. */
export function FilterBar<K extends string>({ filter, search, choices = [], total, children }: FilterProps<K>) {
  const { t } = useTranslation()
  const f = useFormat()
  return (
    <Toolbar inset={{ default: 'insetNone' }}>
      <ToolbarContent>
        {search && <ToolbarItem><SearchText value={filter.values[search.name] ?? ''} label={search.label} onSearch={v => filter.set(search.name, v)} /></ToolbarItem>}
        {choices.map(c => (
          <ToolbarItem key={c.name}>
            <FormSelect aria-label={c.label} value={filter.values[c.name] ?? ''} onChange={(_, v) => filter.set(c.name, v)}>
              <FormSelectOption value="" label={`${c.label}: ${t('table.all')}`} />
              {c.options.map(([value, text]) => <FormSelectOption key={value} value={value} label={`${c.label}: ${text}`} />)}
            </FormSelect>
          </ToolbarItem>
        ))}
        {children}
        {total !== undefined && (
          <ToolbarGroup align={{ default: 'alignEnd' }}><ToolbarItem><span role="status">{t('table.total', { count: total, n: f.count(total) })}</span></ToolbarItem></ToolbarGroup>
        )}
      </ToolbarContent>
    </Toolbar>
  )
}

/** Searches when typing rests, not for every letter. */
function SearchText({ value, label, onSearch }: { value: string; label: string; onSearch: (v: string) => void }) {
  const [text, setText] = useState(value)
  useEffect(() => setText(value), [value])
  useEffect(() => {
    if (text === value) return
    const timer = setTimeout(() => onSearch(text), 150)
    return () => clearTimeout(timer)
  }, [text])
  return <SearchInput aria-label={label} placeholder={label} value={text} onChange={(_, v) => setText(v)} onClear={() => setText('')} />
}
