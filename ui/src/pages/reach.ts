// Addresses of hosts, as a person fills them in and as drivers want them.
import type { HostSpec } from '../api/schema'

export const ways = ['ssh', 'local', 'esx', 'other'] as const

export interface Reach {
  way: (typeof ways)[number]
  address: string
  /** Of the way over SSH. Who signs in to a host is not part of its address, see [signsIn]. */
  user: string
  keyFile: string
  knownHosts: string
  /** SHA-256 of the certificate of an ESX host or a vCenter; empty: its issuer is trusted. */
  thumbprint: string
  /** The ESX host of a vCenter that replicas are made on. */
  host: string
  /** UUID of the machine that the appliance runs in. */
  appliance: string
  uri: string
}

export const nowhere: Reach = {
  way: 'ssh', address: '', user: 'root', keyFile: '/etc/understudy/id_ed25519', knownHosts: '/etc/understudy/known_hosts',
  thumbprint: '', host: '', appliance: '', uri: '',
}

const local = 'qemu:///system'

// Slashes and colons may stay as they are in a query, and are easier to read.
const part = (s: string) => encodeURIComponent(s.trim()).replaceAll('%2F', '/').replaceAll('%3A', ':')

export function uriOf(r: Reach): string {
  switch (r.way) {
    case 'local':
      return local
    case 'other':
      return r.uri.trim()
    case 'esx': {
      const given = (['thumbprint', 'host', 'appliance'] as const).filter(name => r[name].trim())
      return `esx://${r.address.trim()}/${given.length ? '?' : ''}${given.map(name => `${name}=${part(r[name])}`).join('&')}`
    }
    case 'ssh':
      return `qemu+ssh://${part(r.user)}@${r.address.trim()}/system?keyfile=${part(r.keyFile)}&known_hosts=${part(r.knownHosts)}`
  }
}

/** What a person would have filled in; an address that is made otherwise is shown as it is. */
export function reachOf(uri: string): Reach {
  const read = [{ ...nowhere, way: 'local' as const }, sshOf(uri), esxOf(uri)]
  return read.find(r => r && uriOf(r) === uri) ?? { ...nowhere, way: 'other', uri }
}

function sshOf(uri: string): Reach | undefined {
  const [, user, address, query] = uri.match(/^qemu\+ssh:\/\/([^@/]+)@([^/]+)\/system\?(.+)$/) ?? []
  if (!user || !address) return undefined
  const params = new URLSearchParams(`user=${user}&${query}`) // which forgives what is malformed
  return { ...nowhere, user: params.get('user')!, address, keyFile: params.get('keyfile') ?? '', knownHosts: params.get('known_hosts') ?? '' }
}

function esxOf(uri: string): Reach | undefined {
  const [, address, query] = uri.match(/^esx:\/\/([^/?]+)\/(?:\?(.+))?$/) ?? []
  if (!address) return undefined
  const params = new URLSearchParams(query)
  return { ...nowhere, way: 'esx', address, thumbprint: params.get('thumbprint') ?? '', host: params.get('host') ?? '', appliance: params.get('appliance') ?? '' }
}

/** Whether a host is signed in to with a user and a password. The addresses of others say all. */
export const signsIn = (uri: string) => uri.startsWith('esx:')

/** What is sent of a host: user and password only where it is signed in to, whatever was typed before. */
export const specOf = ({ name, uri, maxJobs, user, password }: HostSpec): HostSpec =>
  signsIn(uri) ? { name, uri, maxJobs, user, password } : { name, uri, maxJobs }
