// Requests to the appliance: typed by its OpenAPI document, with problems as errors. An expired session holds a request
// back until somebody has signed in again, so that no form loses what was typed.
import createFetch from 'openapi-fetch'
import createQueries from 'openapi-react-query'
import { QueryClient } from '@tanstack/react-query'
import type { paths, Problem as ProblemBody, Violation } from './schema'

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint?: string,
    readonly violations: Violation[] = [],
  ) {
    super(message)
  }
}

const unsafe = (r: Request) => !['GET', 'HEAD'].includes(r.method)

async function problemOf(response: Response): Promise<Problem> {
  const body = (await response.json().catch(() => ({}))) as Partial<ProblemBody>
  const one = body.field ? [{ field: body.field, message: body.detail ?? '' }] : []
  return new Problem(response.status, body.code ?? 'internal', body.detail ?? response.statusText, body.hint, body.errors ?? one)
}

/** What the session gives to requests, and what brings it back. Set by the page that signs in. */
export const session = {
  csrf: '',
  /** Resolves when somebody has signed in again. Missing while nobody was. */
  renew: undefined as (() => Promise<void>) | undefined,
}

function prepared(request: Request): Request {
  const r = request.clone()
  if (unsafe(r)) {
    if (session.csrf) r.headers.set('X-CSRF-Token', session.csrf)
    // One click is one order, however often it is sent.
    if (!r.headers.has('Idempotency-Key')) r.headers.set('Idempotency-Key', key())
  }
  return r
}

/** A key for an order. crypto.randomUUID is missing where the page is not served securely. */
export const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('')

// These answer 401 to tell that a name or password is wrong; nothing is to be renewed.
const signsIn = (r: Request) => r.method === 'POST' && /\/(session|setup)$/.test(new URL(r.url).pathname)

/** How far the clock of the appliance is ahead of the browser's, in milliseconds. Ages are told by the former. */
export const clock = { ahead: 0 }

const pause = (ms: number) => new Promise(done => setTimeout(done, ms))

/** The network may cut off a request on its way, as when the person changes networks. Queries are asked again by those who
 * want them; an order comes again here with its key, so that it is carried out once. */
async function reach(request: Request): Promise<Response> {
  for (let failures = 0; ; failures++) {
    try {
      return await fetch(request.clone())
    } catch (error) {
      if (request.method !== 'POST' || request.signal.aborted || failures === 3) throw error
      await pause(250 << failures)
    }
  }
}

export async function send(request: Request): Promise<Response> {
  // A request that is sent again keeps its key.
  const first = prepared(request)
  let response = await reach(first)
  if (response.status === 401 && session.renew && !signsIn(request)) {
    await session.renew()
    if (session.csrf && unsafe(first)) first.headers.set('X-CSRF-Token', session.csrf)
    response = await reach(first)
  }
  const date = Date.parse(response.headers.get('Date') ?? '')
  if (Math.abs(date - Date.now() - clock.ahead) > 2000) clock.ahead = date - Date.now()
  if (!response.ok) throw await problemOf(response)
  return response
}

type Below<P> = { [K in keyof P as K extends `/api/v1${infer Rest}` ? Rest : never]: P[K] }

export const client = createFetch<Below<paths>>({ baseUrl: '/api/v1', fetch: send })

/** Hooks: api.useQuery('get', '/groups/{id}', {params: …}), api.useMutation('post', '/hosts'). Errors are a Problem. */
export const api = createQueries(client)

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // Events tell what changed; nothing gets old by itself.
      staleTime: Infinity,
      refetchOnWindowFocus: false,
      refetchOnReconnect: false,
      retry: (failures, error) => failures < 2 && !(error instanceof Problem && error.status < 500),
    },
  },
})

/** Says that answers below these paths are no longer true; those on the screen are asked for again. */
export const refresh = (...under: string[]) =>
  queries.invalidateQueries({ predicate: q => under.some(path => String(q.queryKey[1]).startsWith(path)) })
