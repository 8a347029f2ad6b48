import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Problem, send, session } from './client'

const answers: Response[] = []
const sent: Request[] = []
const problem = (status: number, body: object) => new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/problem+json' } })
const post = (path: string, body = '{"name":"kvm1"}') => new Request(`https://appliance${path}`, { method: 'POST', body })

beforeEach(() => {
  vi.stubGlobal('fetch', async (r: Request) => {
    sent.push(r)
    return answers.shift()!
  })
})
afterEach(() => {
  answers.length = sent.length = 0
  vi.unstubAllGlobals()
})

test('an expired session holds the request back until somebody has signed in', async () => {
  answers.push(problem(401, { code: 'unauthorized' }), new Response('{}'))
  session.csrf = 'old'
  let signIn: (() => void) | undefined
  session.renew = () => new Promise(done => { signIn = () => { session.csrf = 'new'; done() } })
  const answer = send(post('/api/v1/hosts'))
  await vi.waitFor(() => expect(signIn).toBeDefined())
  expect(sent).toHaveLength(1)
  signIn!()
  expect((await answer).status).toBe(200)
  expect(await sent[1]!.text()).toBe('{"name":"kvm1"}')
  expect(sent.map(r => r.headers.get('X-CSRF-Token'))).toEqual(['old', 'new'])
  expect(sent[1]!.headers.get('Idempotency-Key')).toBe(sent[0]!.headers.get('Idempotency-Key'))
})

test('a wrong password is a problem, no expired session', async () => {
  answers.push(problem(401, { code: 'unauthorized', detail: 'name or password is wrong' }))
  session.renew = () => expect.unreachable()
  await expect(send(post('/api/v1/session'))).rejects.toThrow('name or password is wrong')
})

test('problems name fields', async () => {
  answers.push(problem(422, { code: 'invalid', detail: 'two are wrong', hint: 'Look.', field: 'name', errors: [{ field: 'name', message: 'a' }, { field: 'uri', message: 'b' }] }))
  const error: Problem = await send(post('/api/v1/hosts')).catch(e => e)
  expect(error).toMatchObject({ status: 422, message: 'two are wrong', hint: 'Look.', violations: [{ field: 'name' }, { field: 'uri' }] })
  answers.push(problem(422, { code: 'invalid', detail: 'taken', field: 'name' }), new Response('gateway', { status: 502, statusText: 'Bad Gateway' }))
  expect((await send(post('/api/v1/hosts')).catch(e => e)).violations).toEqual([{ field: 'name', message: 'taken' }])
  expect(await send(post('/api/v1/hosts')).catch(e => e)).toMatchObject({ status: 502, message: 'Bad Gateway', violations: [] })
})

test('an order that the network cuts off comes again with its key', async () => {
  vi.useFakeTimers()
  let cuts = 2
  vi.stubGlobal('fetch', async (r: Request) => {
    sent.push(r)
    if (cuts-- > 0) throw new TypeError('Failed to fetch')
    return new Response('{}', { status: 202 })
  })
  const answer = send(post('/api/v1/groups/g1/failover'))
  await vi.runAllTimersAsync()
  expect((await answer).status).toBe(202)
  expect(new Set(sent.map(r => r.headers.get('Idempotency-Key'))).size).toBe(1)
  expect(await sent[2]!.text()).toBe('{"name":"kvm1"}')
  for (const [method, times] of [['POST', 4], ['PUT', 1]] as const) {
    cuts = Infinity
    sent.length = 0
    const failed = expect(send(new Request('https://appliance/api/v1/groups', { method, body: '{}' }))).rejects.toThrow('Failed to fetch')
    await vi.runAllTimersAsync()
    await failed
    expect(sent).toHaveLength(times)
  }
  vi.useRealTimers()
})
