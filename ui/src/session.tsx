// Who looks at the console, and what they may do: first set-up, sign-in, and signing in again over a page that stays as
// it is when a session has expired.
import { Alert, Button, Card, CardBody, Divider, Modal, ModalBody, ModalHeader, Title } from '@patternfly/react-core'
import { createContext, useContext, useEffect, useState, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { api, client, Problem, session } from './api/client'
import type { Me } from './api/schema'
import { Preferences } from './parts/preferences'
import { ProblemForm, TextField } from './parts/forms'
import { Answer, Loading, ProblemAlert } from './parts/page'

/** Each includes those before it. */
export const roles = ['viewer', 'operator', 'administrator'] as const
export type Role = (typeof roles)[number]

const Who = createContext<Me | undefined>(undefined)

/** `const { may } = useMe(); may('operator') && <Button …>` */
export function useMe() {
  const { user } = useContext(Who)!
  return {
    user,
    may: (need: Role) => roles.indexOf(user.role) >= roles.indexOf(need),
    /** Sees everything there is, not only some groups. */
    whole: !user.groups?.length,
  }
}

/** Other windows of this browser share the session. */
const windows = new BroadcastChannel('understudy-session')

/** A window that was opened to sign in elsewhere has come back: the one that waits for it goes on. */
const popup = 'understudy-sign-in'

export async function signOut() {
  await client.DELETE('/session')
  windows.postMessage('out')
  location.assign('/')
}

type State = 'asking' | 'setup' | 'out' | { error: unknown } | Me

/** Shows the page to whoever is signed in, and lets in who is not. */
export function Session({ children }: { children: ReactNode }) {
  const [state, setState] = useState<State>('asking')
  const [expired, setExpired] = useState<{ again: (me: Me) => void }>()
  const enter = (me: Me) => {
    session.csrf = me.csrf ?? ''
    setState(me)
  }
  const ask = () => whoIsThere().then(s => (typeof s === 'object' && 'user' in s ? enter(s) : setState(s)))
  useEffect(() => void ask(), [])
  useEffect(() => {
    if (typeof state !== 'object' || !('user' in state)) return
    // All requests that find the session expired wait for the same sign-in.
    let waiting: Promise<void> | undefined
    session.renew = () =>
      (waiting ??= new Promise<void>(resolve => {
        const again = (me: Me) => {
          // What is on the screen belongs to somebody else.
          if (me.user.id !== state.user.id) location.reload()
          waiting = undefined
          enter(me)
          setExpired(undefined)
          resolve()
        }
        setExpired({ again })
      }))
  }, [state])
  useEffect(() => {
    windows.onmessage = ({ data }) => {
      if (data === 'out') location.assign('/')
      if (data === 'in' && expired) void whoIsThere().then(s => typeof s === 'object' && 'user' in s && expired.again(s))
    }
  }, [expired])

  if (state === 'asking') return <Loading />
  if (state === 'setup') return <FirstSetup onDone={enter} />
  if (state === 'out') return <SignInPage onDone={enter} />
  if ('error' in state) return <Front><ProblemAlert error={state.error} retry={() => void ask()} /></Front>
  return (
    <Who value={state}>
      {children}
      {expired && <SignInAgain name={state.user.name} onDone={expired.again} />}
    </Who>
  )
}

async function whoIsThere(): Promise<State> {
  const renew = session.renew
  session.renew = undefined // to be signed out is an answer here
  try {
    const { data } = await client.GET('/session')
    if (window.name === popup) {
      windows.postMessage('in')
      window.close()
    }
    return data!
  } catch (error) {
    if (!(error instanceof Problem && error.status === 401)) return { error }
    const { data } = await client.GET('/setup')
    return data!.needed ? 'setup' : 'out'
  } finally {
    session.renew = renew
  }
}

/** A card in the middle, for those who are not in yet. */
function Front({ title, children }: { title?: string; children: ReactNode }) {
  useEffect(() => {
    document.title = title ? `${title} · Understudy` : 'Understudy'
  }, [title])
  return (
    <main className="front">
      <div className="front-preferences"><Preferences /></div>
      <div className="front-column">
        <p className="brand front-brand"><img src="/favicon.svg" alt="" />Understudy</p>
        <Card isLarge>
          <CardBody>
            {title && <Title headingLevel="h1" size="xl" className="front-title">{title}</Title>}
            {children}
          </CardBody>
        </Card>
      </div>
    </main>
  )
}

function FirstSetup({ onDone }: { onDone: (me: Me) => void }) {
  const { t } = useTranslation()
  // A link from the command line may bring the token behind #, which is never sent.
  const [token, setToken] = useState(() => new URLSearchParams(location.hash.slice(1)).get('token') ?? '')
  const [name, setName] = useState('admin')
  const [password, setPassword] = useState('')
  const [repeated, setRepeated] = useState('')
  const setup = api.useMutation('post', '/setup', { onSuccess: me => { history.replaceState(null, '', '/'); onDone(me) } })
  const differs = repeated !== '' && repeated !== password
  return (
    <Front title={t('setup.title')}>
      <p className="front-lead">{t('setup.lead')}</p>
      <ProblemForm error={setup.error} onSubmit={() => !differs && repeated && setup.mutate({ body: { token, name, password } })}>
        <TextField label={t('setup.token')} path="token" hint={<>{t('setup.tokenHint')} <code>cat /var/lib/understudy/setup.token</code></>} required autoFocus={!token} autoComplete="off" value={token} onChange={setToken} />
        <TextField label={t('signIn.name')} path="name" required autoComplete="username" maxLength={64} value={name} onChange={setName} />
        <NewPassword {...{ password, setPassword, repeated, setRepeated }} path="password" />
        <Button type="submit" isBlock size="lg" isLoading={setup.isPending} isDisabled={setup.isPending || !token || !name || !password || differs || !repeated}>{t('setup.go')}</Button>
      </ProblemForm>
    </Front>
  )
}

interface NewPasswordProps {
  path: string
  password: string
  setPassword: (v: string) => void
  repeated: string
  setRepeated: (v: string) => void
}

/** A new password, twice. */
export function NewPassword({ path, password, setPassword, repeated, setRepeated }: NewPasswordProps) {
  const { t } = useTranslation()
  return (
    <>
      <TextField label={t('password.new')} path={path} hint={t('password.rule')} required type="password" autoComplete="new-password" maxLength={256} value={password} onChange={setPassword} />
      <TextField label={t('password.repeat')} path="repeated" hint={repeated && repeated !== password ? t('password.differs') : undefined} required type="password" autoComplete="new-password" maxLength={256} value={repeated} onChange={setRepeated} />
    </>
  )
}

function SignInPage({ onDone }: { onDone: (me: Me) => void }) {
  const { t } = useTranslation()
  return <Front title={t('signIn.title')}><SignInForm onDone={onDone} /></Front>
}

function SignInAgain({ name, onDone }: { name: string; onDone: (me: Me) => void }) {
  const { t } = useTranslation()
  // A dialog without anything to type into or to press cannot be opened.
  if (api.useQuery('get', '/sign-in').isPending) return null
  return (
    <Modal isOpen variant="small" aria-labelledby="sign-in-again">
      <ModalHeader title={t('signIn.expired')} labelId="sign-in-again" description={t('signIn.expiredHint')} />
      <ModalBody><SignInForm name={name} onDone={me => { windows.postMessage('in'); onDone(me) }} /></ModalBody>
    </Modal>
  )
}

/** With a name given, a page is waiting behind: whoever signs in elsewhere does it in another window. */
function SignInForm({ name: known, onDone }: { name?: string; onDone: (me: Me) => void }) {
  const { t, i18n } = useTranslation()
  const [name, setName] = useState(known ?? '')
  const [password, setPassword] = useState('')
  const ways = api.useQuery('get', '/sign-in')
  const signIn = api.useMutation('post', '/session', { onSuccess: onDone })
  // A provider has sent somebody back who does not get in.
  const refused = known ? null : new URLSearchParams(location.search).get('sign-in')
  const elsewhere = () => {
    if (known) window.open('/api/v1/oidc/login', popup, 'popup,width=520,height=720')
    else location.assign('/api/v1/oidc/login')
  }
  return (
    <Answer query={ways}>
      {w => (
        <>
          {refused && <Alert variant="danger" isInline title={t('signIn.refused')} className="page-alert">{i18n.exists(`refused.${refused}`) && t(`refused.${refused as 'failed'}`)}</Alert>}
          {(w.local || w.ldap) && (
            <ProblemForm error={signIn.error} onSubmit={() => signIn.mutate({ body: { name, password } })}>
              <TextField label={t('signIn.name')} path="name" hint={w.ldap ? t('signIn.ldapHint') : undefined} required autoFocus={!known} autoComplete="username" value={name} onChange={setName} />
              <TextField label={t('signIn.password')} path="password" required type="password" autoFocus={!!known} autoComplete="current-password" value={password} onChange={setPassword} />
              <Button type="submit" isBlock size="lg" isLoading={signIn.isPending} isDisabled={signIn.isPending || !name || !password}>{t('signIn.go')}</Button>
            </ProblemForm>
          )}
          {w.oidc && (
            <>
              {(w.local || w.ldap) && <Divider className="front-or" />}
              <Button variant="secondary" isBlock size="lg" onClick={elsewhere}>{t('signIn.oidc', { name: w.oidc.name })}</Button>
            </>
          )}
        </>
      )}
    </Answer>
  )
}
