import { expect, test } from 'vitest'
import { nowhere, reachOf, uriOf } from './reach'

test.each([
  'qemu+ssh://root@kvm1/system?keyfile=/etc/understudy/id_ed25519&known_hosts=/etc/understudy/known_hosts',
  'qemu+ssh://a%40b@10.0.0.1:2222/system?keyfile=/k%20ey&known_hosts=/h%26h',
  'qemu+ssh://root@kvm1/system?keyfile=/k&known_hosts=/h&command=/bin/ssh',
  'qemu+ssh://root@kvm1/system?known_hosts=/h&keyfile=/k',
  'qemu+ssh://kvm1/system', 'qemu:///system', 'qemu+unix:///system?socket=/run/x', '',
])('%s is kept', uri => expect(uriOf(reachOf(uri))).toBe(uri))

test('what a person types', () => {
  expect(uriOf({ ...nowhere, address: ' kvm1 ', user: 'a b' })).toBe('qemu+ssh://a%20b@kvm1/system?keyfile=/etc/understudy/id_ed25519&known_hosts=/etc/understudy/known_hosts')
  expect(reachOf('qemu+ssh://root@kvm1/system?keyfile=/k&known_hosts=/h')).toMatchObject({ way: 'ssh', address: 'kvm1', user: 'root', keyFile: '/k', knownHosts: '/h' })
  expect(reachOf('qemu+ssh://root@kvm1/system?keyfile=/k&known_hosts=/h&command=/bin/ssh').way).toBe('other')
})
