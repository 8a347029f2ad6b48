// Which disks of a machine are protected, and how its replica has them.
import type { Disk, GroupDisk } from '../api/schema'

type Wishes = GroupDisk[] | null | undefined

export const leftOut = (wishes: Wishes) => (wishes ?? []).filter(d => d.leaveOut).map(d => d.id)

/** Changes the wish for one disk; what is wished for no longer goes. */
export function wish(wishes: Wishes, id: string, change: Partial<GroupDisk>): GroupDisk[] {
  const all = wishes ?? []
  const one: GroupDisk = { ...(all.find(d => d.id === id) ?? { id }), ...change }
  const changed = all.some(d => d.id === id) ? all.map(d => (d.id === id ? one : d)) : [...all, one]
  return changed.filter(d => d.leaveOut || d.bus)
}

/** The disk that a machine boots from: the first of the boot order, else the first of all. */
export const bootDisk = (disks: Pick<Disk, 'id' | 'boot'>[]) =>
  [...disks].filter(d => d.boot).sort((a, b) => a.boot! - b.boot!)[0]?.id ?? disks[0]?.id

/** The disks of a machine, and those that are only wished for: they were there once. */
export const known = (disks: Disk[], wishes: Wishes): (Pick<Disk, 'id'> & Partial<Disk>)[] =>
  [...disks, ...(wishes ?? []).filter(w => !disks.some(d => d.id === w.id)).map(w => ({ id: w.id }))]
