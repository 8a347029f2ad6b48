// What is known of a long list, page by page.

export interface Page<T> {
  items: T[] | null
  total: number
}

export const pageSize = 100

/** Holds on to a list while more of it, or another one, is on its way: a table that came and went would lose its place. */
export class Pages<T> {
  private key: string | undefined
  private pages = new Map<number, Page<T>>()
  /** Rows of the list, as was said last; undefined until anything was. */
  total: number | undefined

  /**
   * Takes the pages on the screen that are known of the list with this key. While there is none of a new list, the old
   * one stays.
   */
  take(key: string, known: Map<number, Page<T>>): this {
    if (known.size === 0 && this.key === key) this.pages = known
    if (known.size === 0) return this
    this.key = key
    this.pages = known
    this.total = [...known.values()].at(-1)!.total
    return this
  }

  row(index: number): T | undefined {
    return this.pages.get(Math.floor(index / pageSize))?.items?.[index % pageSize]
  }
}
