// One way to reach somebody: by mail, SNMP, syslog or a webhook.
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, refresh } from '../../api/client'
import type { Channel, ChannelSpec } from '../../api/schema'
import { FormDialog, useSay } from '../../parts/dialogs'
import { CheckField, Conflict, NumberField, SecretField, SelectField, TextField, useDraft } from '../../parts/forms'

const kinds = ['email', 'snmp', 'syslog', 'webhook'] as const
type Kind = (typeof kinds)[number]

const blank: Required<Pick<ChannelSpec, Kind>> = {
  email: { host: '', port: 587, security: 'starttls', from: '', to: [] },
  snmp: { host: '', port: 162, version: 'v3' },
  syslog: { host: '', port: 6514, transport: 'tls' },
  webhook: { url: '' },
}

export const newChannel: Channel = { id: '', revision: 0, waiting: 0, name: '', enabled: true, kind: 'email', ...blank }

/** Where a channel leads. */
export const receiver = (c: ChannelSpec) => c.email?.to?.join(', ') ?? c.webhook?.url ?? `${(c.snmp ?? c.syslog)?.host}:${(c.snmp ?? c.syslog)?.port}`

export function EditChannel({ channel, onClose }: { channel: Channel; onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const edit = useDraft(channel)
  const [to, setTo] = useState(channel.email?.to?.join('\n') ?? '')
  const create = api.useMutation('post', '/notifications/channels')
  const update = api.useMutation('put', '/notifications/channels/{id}')
  const save = channel.id ? update : create
  const { name, enabled, kind } = edit.draft
  const done = {
    onSuccess: () => {
      say(t('common.saved'))
      onClose()
    },
    onSettled: () => void refresh('/notifications'),
  }
  const submit = () => {
    const part = kind === 'email' ? { ...edit.draft.email!, to: to.split(/[\s,;]+/).filter(Boolean) } : edit.draft[kind]
    const body = { name, enabled, kind, [kind]: part }
    if (channel.id) update.mutate({ params: { path: { id: channel.id }, header: { 'If-Match': edit.ifMatch } }, body }, done)
    else create.mutate({ body }, done)
  }
  return (
    <FormDialog wide title={channel.id ? t('channel.edit', { name: channel.name }) : t('channel.add')} submit={t('common.save')} error={save.error} busy={save.isPending} disabled={!name} onSubmit={submit} onClose={onClose}>
      <Conflict edit={edit} names={{ name: t('channel.name'), enabled: t('channel.enabled') }} />
      {!channel.id && <SelectField label={t('channel.kind')} path="kind" value={kind} options={kinds.map(k => [k, t(`channelKind.${k}`)] as const)} onChange={k => edit.set({ kind: k })} />}
      <TextField label={t('channel.name')} path="name" required maxLength={63} value={name} onChange={v => edit.set({ name: v })} />
      {kind === 'email' && edit.draft.email && <Email value={edit.draft.email} to={to} onTo={setTo} onChange={email => edit.set({ email })} />}
      {kind === 'snmp' && edit.draft.snmp && <SNMP value={edit.draft.snmp} onChange={snmp => edit.set({ snmp })} />}
      {kind === 'syslog' && edit.draft.syslog && <Syslog value={edit.draft.syslog} onChange={syslog => edit.set({ syslog })} />}
      {kind === 'webhook' && edit.draft.webhook && <Webhook value={edit.draft.webhook} onChange={webhook => edit.set({ webhook })} />}
      <CheckField label={t('channel.enabled')} hint={t('channel.enabledHint')} value={enabled} onChange={v => edit.set({ enabled: v })} />
    </FormDialog>
  )
}

interface PartProps<K extends Kind> {
  value: NonNullable<ChannelSpec[K]>
  onChange: (v: NonNullable<ChannelSpec[K]>) => void
}

function Server({ path, host, port, onChange }: { path: Kind; host: string; port: number; onChange: (change: { host?: string; port?: number }) => void }) {
  const { t } = useTranslation()
  return (
    <>
      <TextField label={t('channel.host')} path={`${path}.host`} required maxLength={253} value={host} onChange={v => onChange({ host: v })} />
      <NumberField label={t('channel.port')} path={`${path}.port`} min={1} max={65535} value={port} onChange={v => onChange({ port: v })} />
    </>
  )
}

/** Certificates to trust besides those of the system; needed for few. */
function Trusted({ path, value, onChange }: { path: Kind; value?: string; onChange: (v: string) => void }) {
  const { t } = useTranslation()
  return <TextField label={t('channel.ca')} path={`${path}.ca`} hint={t('channel.caHint')} lines={3} value={value ?? ''} onChange={onChange} />
}

const securities = ['starttls', 'tls', 'none'] as const

function Email({ value: v, onChange, to, onTo }: PartProps<'email'> & { to: string; onTo: (v: string) => void }) {
  const { t } = useTranslation()
  return (
    <>
      <TextField label={t('channel.to')} path="email.to" hint={t('channel.toHint')} required lines={2} value={to} onChange={onTo} />
      <TextField label={t('channel.from')} path="email.from" required maxLength={320} type="email" value={v.from} onChange={from => onChange({ ...v, from })} />
      <Server path="email" host={v.host} port={v.port} onChange={change => onChange({ ...v, ...change })} />
      <SelectField label={t('channel.security')} path="email.security" value={v.security} options={securities.map(s => [s, t(`security.${s}`)] as const)} onChange={security => onChange({ ...v, security })} />
      {v.security !== 'none' && (
        <>
          <TextField label={t('signIn.name')} path="email.user" hint={t('channel.userHint')} maxLength={256} autoComplete="off" value={v.user ?? ''} onChange={user => onChange({ ...v, user })} />
          <SecretField label={t('signIn.password')} path="email.password" kept={v.passwordSet} maxLength={1024} value={v.password ?? ''} onChange={password => onChange({ ...v, password })} />
          <Trusted path="email" value={v.ca} onChange={ca => onChange({ ...v, ca })} />
        </>
      )}
    </>
  )
}

const authProtocols = ['sha', 'sha224', 'sha256', 'sha384', 'sha512'] as const
const privProtocols = ['aes', 'aes192', 'aes256'] as const
const plain = <V extends string>(values: readonly V[]) => values.map(v => [v, v.toUpperCase()] as const)

function SNMP({ value: v, onChange }: PartProps<'snmp'>) {
  const { t } = useTranslation()
  return (
    <>
      <Server path="snmp" host={v.host} port={v.port} onChange={change => onChange({ ...v, ...change })} />
      <SelectField label={t('channel.version')} path="snmp.version" value={v.version} options={[['v3', 'SNMP v3'], ['v2c', 'SNMP v2c']]} onChange={version => onChange({ ...v, version })} />
      {v.version === 'v2c' && <SecretField label={t('channel.community')} path="snmp.community" kept={v.communitySet} value={v.community ?? ''} onChange={community => onChange({ ...v, community })} />}
      {v.version === 'v3' && (
        <>
          <TextField label={t('signIn.name')} path="snmp.user" required maxLength={32} autoComplete="off" value={v.user ?? ''} onChange={user => onChange({ ...v, user })} />
          <SelectField label={t('channel.auth')} path="snmp.authProtocol" value={v.authProtocol || 'sha256'} options={plain(authProtocols)} onChange={authProtocol => onChange({ ...v, authProtocol })} />
          <SecretField label={t('channel.authPassword')} path="snmp.authPassword" kept={v.authPasswordSet} value={v.authPassword ?? ''} onChange={authPassword => onChange({ ...v, authPassword })} />
          <SelectField label={t('channel.priv')} path="snmp.privProtocol" value={v.privProtocol || 'aes'} options={plain(privProtocols)} onChange={privProtocol => onChange({ ...v, privProtocol })} />
          <SecretField label={t('channel.privPassword')} path="snmp.privPassword" kept={v.privPasswordSet} value={v.privPassword ?? ''} onChange={privPassword => onChange({ ...v, privPassword })} />
          {v.engineId && <p>{t('channel.engineId')}: <code>{v.engineId}</code></p>}
        </>
      )}
      <CheckField label={t('channel.inform')} hint={t('channel.informHint')} value={v.inform ?? false} onChange={inform => onChange({ ...v, inform })} />
      <p><a href="/api/v1/notifications/mib" download="UNDERSTUDY-MIB.txt">{t('channel.mib')}</a></p>
    </>
  )
}

const facilities = ['daemon', 'user', 'local0', 'local1', 'local2', 'local3', 'local4', 'local5', 'local6', 'local7'] as const

function Syslog({ value: v, onChange }: PartProps<'syslog'>) {
  const { t } = useTranslation()
  return (
    <>
      <Server path="syslog" host={v.host} port={v.port} onChange={change => onChange({ ...v, ...change })} />
      <SelectField label={t('channel.transport')} path="syslog.transport" value={v.transport} options={plain(['tls', 'tcp', 'udp'] as const)} onChange={transport => onChange({ ...v, transport })} />
      <SelectField label={t('channel.facility')} path="syslog.facility" value={v.facility || 'daemon'} options={facilities.map(f => [f, f] as const)} onChange={facility => onChange({ ...v, facility })} />
      {v.transport === 'tls' && <Trusted path="syslog" value={v.ca} onChange={ca => onChange({ ...v, ca })} />}
    </>
  )
}

function Webhook({ value: v, onChange }: PartProps<'webhook'>) {
  const { t } = useTranslation()
  return (
    <>
      <TextField label={t('channel.url')} path="webhook.url" required type="url" maxLength={2048} value={v.url} onChange={url => onChange({ ...v, url })} placeholder="https://hooks.example.com/understudy" />
      <SecretField label={t('channel.secret')} path="webhook.secret" hint={t('channel.secretHint')} kept={v.secretSet} value={v.secret ?? ''} onChange={secret => onChange({ ...v, secret })} />
      <Trusted path="webhook" value={v.ca} onChange={ca => onChange({ ...v, ca })} />
    </>
  )
}
