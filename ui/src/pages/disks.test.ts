import { expect, test } from 'vitest'
import type { Disk } from '../api/schema'
import { bootDisk, known, leftOut, wish } from './disks'

const disk = (id: string, boot?: number): Disk => ({ id, size: 1, bus: 'virtio', format: 'qcow2', boot })

test('a wish is made, changed and given up', () => {
  const out = wish(undefined, 'vdb', { leaveOut: true })
  expect(out).toEqual([{ id: 'vdb', leaveOut: true }])
  expect(leftOut(out)).toEqual(['vdb'])
  const both = wish(wish(out, 'vda', { bus: 'sata' }), 'vdb', { bus: 'scsi' })
  expect(both).toEqual([{ id: 'vdb', leaveOut: true, bus: 'scsi' }, { id: 'vda', bus: 'sata' }])
  expect(wish(both, 'vdb', { leaveOut: undefined })).toEqual([{ id: 'vdb', bus: 'scsi' }, { id: 'vda', bus: 'sata' }])
  expect(wish(out, 'vdb', { leaveOut: undefined })).toEqual([])
  expect(leftOut(null)).toEqual([])
})

test('a machine boots from the first of its boot order, else from its first disk', () => {
  expect(bootDisk([disk('a'), disk('b', 2), disk('c', 1)])).toBe('c')
  expect(bootDisk([disk('a'), disk('b')])).toBe('a')
  expect(bootDisk([])).toBeUndefined()
})

test('a disk that was left out and is gone can still be taken back', () => {
  expect(known([disk('vda')], [{ id: 'vda', bus: 'sata' }, { id: 'vdz', leaveOut: true }]).map(d => d.id)).toEqual(['vda', 'vdz'])
})
