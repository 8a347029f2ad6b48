import { expect, test } from 'vitest'
import { nowhere, reachOf, specOf, uriOf } from './reach'

test.each([
  'qemu+ssh://root@kvm1/system?keyfile=/etc/understudy/id_ed25519&known_hosts=/etc/understudy/known_hosts',
  'qemu+ssh://a%40b@10.0.0.1:2222/system?keyfile=/k%20ey&known_hosts=/h%26h',
  'qemu+ssh://root@kvm1/system?keyfile=/k&known_hosts=/h&command=/bin/ssh',
  'qemu+ssh://root@kvm1/system?known_hosts=/h&keyfile=/k',
  'qemu+ssh://kvm1/system', 'qemu:///system', 'qemu+unix:///system?socket=/run/x', '',
  'qemu+ssh://%E0%A4%A@kvm1/system?keyfile=/k&known_hosts=/h',
  'esx://esx1/', 'esx://esx1:8443/?thumbprint=AA:0b:CC&host=esx1.example.com&appliance=4207f8c9-1111-2222-3333-444455556666',
  'esx://[fd00::1]/?thumbprint=00ff', 'esx://esx1/?ca=/etc/understudy/ca.pem', 'esx://esx1', 'esx://esx1/?host=a&thumbprint=b', 'esx://esx1/?thumbprint=',
])('%s is kept', uri => expect(uriOf(reachOf(uri))).toBe(uri))

test('what a person types', () => {
  expect(uriOf({ ...nowhere, address: ' kvm1 ', user: 'a b' })).toBe('qemu+ssh://a%20b@kvm1/system?keyfile=/etc/understudy/id_ed25519&known_hosts=/etc/understudy/known_hosts')
  expect(reachOf('qemu+ssh://root@kvm1/system?keyfile=/k&known_hosts=/h')).toMatchObject({ way: 'ssh', address: 'kvm1', user: 'root', keyFile: '/k', knownHosts: '/h' })
  expect(reachOf('qemu+ssh://root@kvm1/system?keyfile=/k&known_hosts=/h&command=/bin/ssh').way).toBe('other')
})

test('an ESX host', () => {
  const esx = { ...nowhere, way: 'esx' as const, address: ' esx1 ' }
  expect(uriOf(esx)).toBe('esx://esx1/')
  expect(uriOf({ ...esx, thumbprint: 'AA:BB\n', host: 'esx a' })).toBe('esx://esx1/?thumbprint=AA:BB&host=esx%20a')
  expect(reachOf('esx://esx1/?thumbprint=AA:BB&appliance=u')).toMatchObject({ way: 'esx', address: 'esx1', thumbprint: 'AA:BB', host: '', appliance: 'u' })
  expect(reachOf('esx://esx1/?ca=/c')).toMatchObject({ way: 'other', uri: 'esx://esx1/?ca=/c' })
})

test('user and password go to hosts that are signed in to', () => {
  const spec = { name: 'a', uri: 'esx://esx1/', maxJobs: 4, user: 'u', password: 'p' }
  expect(specOf({ ...spec, more: true } as typeof spec)).toEqual(spec)
  expect(specOf({ ...spec, uri: 'qemu:///system' })).toEqual({ name: 'a', uri: 'qemu:///system', maxJobs: 4 })
})
