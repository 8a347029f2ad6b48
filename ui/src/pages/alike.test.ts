import { expect, test } from 'vitest'
import { alike } from './alike'

test('what holds for several machines is said once', () => {
  const say = (code: string, text: string, machine?: string) => ({ code, text, machine })
  const list = [say('off', 'db is off.', 'db'), say('net', 'web has no lan.', 'web'), say('off', 'web is off.', 'web'), say('off', 'The host is off.'), say('net', 'db has no dmz.', 'db')]
  expect(alike(list, l => l.text).map(l => [l.text, l.others])).toEqual([['db is off.', ['web']], ['web has no lan.', []], ['The host is off.', []], ['db has no dmz.', []]])
})
