// Connecting a host, or changing how: where it is, and whether everything works there.
import { ActionGroup, Alert, Button, FormGroup, Radio } from '@patternfly/react-core'
import { useEffect, useId, useRef, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { useNavigate, useParams } from 'react-router-dom'
import { api, refresh } from '../api/client'
import type { Host, HostSpec, HostTest } from '../api/schema'
import { useSay } from '../parts/dialogs'
import { Conflict, NumberField, ProblemForm, SecretField, TextField, useDraft } from '../parts/forms'
import { Answer, Heading, Page, sentence } from '../parts/page'
import { Abilities, Checks } from './hosts'
import { nowhere, reachOf, signsIn, specOf, uriOf, ways, type Reach } from './reach'

export function AddHost() {
  const { t } = useTranslation()
  const go = useNavigate()
  const say = useSay()
  const [spec, setSpec] = useState<HostSpec>({ name: '', uri: '', maxJobs: 4 })
  const add = api.useMutation('post', '/hosts', {
    onSuccess: h => {
      void refresh('/hosts', '/overview')
      say(t('hosts.added', { name: h.name }))
      void go(`/hosts/${h.id}`)
    },
  })
  return (
    <Page title={t('hosts.add')} within={[['/hosts', t('nav.hosts')]]} lead={t('hosts.addLead')}>
      <HostForm spec={spec} onChange={change => setSpec({ ...spec, ...change })} error={add.error} busy={add.isPending} submit={t('hosts.add')} back="/hosts" onSubmit={() => add.mutate({ body: specOf(spec) })} />
    </Page>
  )
}

export function EditHost() {
  const { id = '' } = useParams()
  const host = api.useQuery('get', '/hosts/{id}', { params: { path: { id } } })
  return <Answer query={host}>{h => <Edit host={h} />}</Answer>
}

function Edit({ host }: { host: Host }) {
  const { t } = useTranslation()
  const go = useNavigate()
  const say = useSay()
  const edit = useDraft(host)
  const save = api.useMutation('put', '/hosts/{id}', {
    onSuccess: () => {
      say(t('common.saved'))
      void go(`/hosts/${host.id}`)
    },
    onSettled: () => void refresh('/hosts'),
  })
  return (
    <Page title={t('hosts.edit', { name: host.name })} within={[['/hosts', t('nav.hosts')], [`/hosts/${host.id}`, host.name]]}>
      <HostForm host={host} spec={edit.draft} onChange={edit.set} error={save.error} busy={save.isPending} submit={t('common.save')} back={`/hosts/${host.id}`}
        above={<Conflict edit={edit} names={{ name: t('hosts.name'), uri: t('hosts.uri'), user: t('hosts.user'), maxJobs: t('hosts.maxJobs') }} />}
        onSubmit={() => save.mutate({ params: { path: { id: host.id }, header: { 'If-Match': edit.ifMatch } }, body: specOf(edit.draft) })} />
    </Page>
  )
}

interface HostFormProps {
  /** The host that is edited. */
  host?: Host
  spec: HostSpec
  onChange: (change: Partial<HostSpec>) => void
  error: unknown
  busy: boolean
  submit: string
  back: string
  above?: React.ReactNode
  onSubmit: () => void
}

function HostForm({ host, spec, onChange, error, busy, submit, back, above, onSubmit }: HostFormProps) {
  const { t } = useTranslation()
  const go = useNavigate()
  const [reach, setReach] = useState<Reach>(() => (spec.uri ? reachOf(spec.uri) : nowhere))
  const test = api.useMutation('post', '/hosts/test')
  const found = useRef<HTMLDivElement>(null)
  useEffect(() => {
    if (!test.isPending && !test.isIdle) found.current?.scrollIntoView({ block: 'start' })
  }, [test.isPending, test.isIdle])
  const change = (r: Reach) => {
    setReach(r)
    onChange({ uri: uriOf(r) })
    test.reset()
  }
  // The appliance finds the password that it keeps by the name that the host has.
  const tried = specOf({ ...spec, name: (host ?? spec).name || 'host', uri: uriOf(reach) })
  return (
    <>
      <ProblemForm error={test.error ?? error} onSubmit={() => { test.reset(); onSubmit() }}>
        {above}
        <TextField label={t('hosts.name')} path="name" hint={t('hosts.nameHint')} required maxLength={63} value={spec.name} onChange={name => onChange({ name })} />
        <ReachFields reach={reach} onChange={c => change({ ...reach, ...c })}>
          {signsIn(tried.uri) && <LoginFields host={host} spec={tried} onChange={login => { onChange(login); test.reset() }} />}
        </ReachFields>
        <NumberField label={t('hosts.maxJobs')} path="maxJobs" hint={t('hosts.maxJobsHint')} min={1} max={64} value={spec.maxJobs || 4} onChange={maxJobs => onChange({ maxJobs })} />
        <ActionGroup>
          <Button type="submit" isLoading={busy} isDisabled={busy || !spec.name}>{submit}</Button>
          <Button variant="secondary" isLoading={test.isPending} isDisabled={test.isPending} onClick={() => test.mutate({ body: tried })}>{t('hosts.test')}</Button>
          <Button variant="link" onClick={() => void go(back)}>{t('common.cancel')}</Button>
        </ActionGroup>
      </ProblemForm>
      <div className="host-test" aria-live="polite" ref={found}>
        {test.data && <Tested test={test.data} name={spec.name} host={host?.name} />}
      </div>
    </>
  )
}

/** What the test of a connection found. */
function Tested({ test, name, host }: { test: HostTest; name: string; host?: string }) {
  const { t } = useTranslation()
  const missing = (test.checks ?? []).some(c => c.result === 'failed')
  // A host that is edited is known, and stays the same one.
  const edited = host !== undefined && test.reachable
  return (
    <>
      {edited && test.known !== host ? <Alert variant="danger" isInline title={t('hosts.another', { name: host })} />
        : test.problem && !edited ? <Alert variant="danger" isInline title={sentence(test.problem)}>{test.hint}</Alert>
        : <Alert variant={missing ? 'warning' : 'success'} isInline title={t(missing ? 'hosts.testMissing' : 'hosts.testGood', { product: `${test.product} ${test.version}` })} />}
      {test.known && test.known !== (host ?? name) && <Alert variant="warning" isInline title={t('hosts.known', { name: test.known })} />}
      {test.reachable && (
        <>
          <Heading>{t('hosts.abilities')}</Heading>
          <Abilities of={test.capabilities} />
          {!!test.checks?.length && <Checks checks={test.checks} />}
        </>
      )}
    </>
  )
}

/** Where the host is. Who signs in there, if somebody does, comes right after. */
function ReachFields({ reach, onChange, children }: { reach: Reach; onChange: (change: Partial<Reach>) => void; children: React.ReactNode }) {
  const { t } = useTranslation()
  const id = useId()
  return (
    <>
      <FormGroup role="radiogroup" label={t('hosts.reach')} fieldId={id} isStack>
        {ways.map(way => (
          <Radio key={way} id={`${id}-${way}`} name={id} label={t(`hosts.way.${way}`)} description={t(`hosts.wayHint.${way}`)} isChecked={reach.way === way} onChange={() => onChange({ way })} />
        ))}
      </FormGroup>
      {reach.way === 'ssh' && (
        <>
          <TextField label={t('hosts.address')} path="uri" required value={reach.address} onChange={address => onChange({ address })} placeholder="kvm1.example.com" />
          <TextField label={t('hosts.user')} path="uri.user" required value={reach.user} onChange={user => onChange({ user })} />
          <TextField label={t('hosts.keyFile')} path="uri.keyfile" hint={t('hosts.keyFileHint')} required value={reach.keyFile} onChange={keyFile => onChange({ keyFile })} />
          <TextField label={t('hosts.knownHosts')} path="uri.known_hosts" hint={t('hosts.knownHostsHint')} required value={reach.knownHosts} onChange={knownHosts => onChange({ knownHosts })} />
        </>
      )}
      {reach.way === 'esx' && (
        <>
          <TextField label={t('hosts.address')} path="uri" required value={reach.address} onChange={address => onChange({ address })} placeholder="esx1.example.com" />
          <TextField label={t('hosts.thumbprint')} path="uri.thumbprint" hint={<ThumbprintHint />} value={reach.thumbprint} onChange={thumbprint => onChange({ thumbprint })} placeholder="AB:CD:…" />
          {children}
          <TextField label={t('hosts.inVCenter')} path="uri.host" hint={t('hosts.inVCenterHint')} value={reach.host} onChange={host => onChange({ host })} />
          <TextField label={t('hosts.appliance')} path="uri.appliance" hint={t('hosts.applianceHint')} value={reach.appliance} onChange={appliance => onChange({ appliance })} />
        </>
      )}
      {reach.way === 'other' && (
        <>
          <TextField label={t('hosts.uri')} path="uri" required maxLength={1024} value={reach.uri} onChange={uri => onChange({ uri })} placeholder="qemu+unix:///system?socket=…" />
          {children}
        </>
      )}
    </>
  )
}

function ThumbprintHint() {
  const { t } = useTranslation()
  return <>{t('hosts.thumbprintHint')} <code className="wrap">openssl x509 -noout -fingerprint -sha256 -in /etc/vmware/ssl/rui.crt</code>. {t('hosts.thumbprintTest')}</>
}

/** Who signs in. The password is never shown; the one that is kept goes to the same user at the same address only. */
function LoginFields({ host, spec, onChange }: { host?: Host; spec: HostSpec; onChange: (login: Partial<HostSpec>) => void }) {
  const { t } = useTranslation()
  const kept = !!host?.user && host.uri === spec.uri && host.user === spec.user
  return (
    <>
      <TextField label={t('hosts.user')} path="user" required maxLength={256} autoComplete="off" value={spec.user ?? ''} onChange={user => onChange({ user })} placeholder="understudy@vsphere.local" />
      <SecretField label={t('hosts.password')} path="password" kept={kept} hint={kept ? undefined : t(host?.user ? 'hosts.passwordAgain' : 'hosts.passwordHint')} required={!kept} maxLength={1024} value={spec.password ?? ''}
        onChange={password => onChange({ password })} />
    </>
  )
}
