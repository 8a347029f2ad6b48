// What browsers have and Debian's Node 18 lacks, for tests of what runs in browsers.
import { webcrypto } from 'node:crypto'

globalThis.crypto ??= webcrypto as Crypto
Array.prototype.with ??= function <T>(this: T[], index: number, value: T) {
  const copy = [...this]
  copy[index] = value
  return copy
}
