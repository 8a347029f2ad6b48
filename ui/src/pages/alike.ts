/** What is said of several machines alike is said once, in the place of the first. */
export function alike<T extends { code: string; machine?: string }>(list: T[], text: (one: T) => string): (T & { others: string[] })[] {
  const kinds = new Map<string, T & { others: string[] }>()
  for (const one of list) {
    const kind = one.machine ? `${one.code} ${text(one).replaceAll(one.machine, '')}` : `${one.code} ${text(one)}`
    const first = kinds.get(kind)
    if (first && one.machine) first.others.push(one.machine)
    else kinds.set(kind, { ...one, others: [] })
  }
  return [...kinds.values()]
}
