// How people get in besides accounts of the appliance's own: by a directory, or at a provider.
import { ActionGroup, Alert, Button, ClipboardCopy, Grid, GridItem, List, ListItem } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, refresh } from '../../api/client'
import type { LdapSettings, OidcSettings, RoleMapping, SignInSettings, SignInTest } from '../../api/schema'
import { useSay } from '../../parts/dialogs'
import { CheckField, Conflict, Field, ManyField, NumberField, ProblemForm, SecretField, SelectField, TextField, useDraft } from '../../parts/forms'
import { Answer, Heading, ProblemAlert, sentence } from '../../parts/page'
import { roles } from '../../session'
import { useGroupName } from '../group-link'
import { Section } from './section'
import { useGroupOptions } from './users'

export function SignIn() {
  const { t } = useTranslation()
  const settings = api.useQuery('get', '/settings/sign-in')
  return <Section lead={t('directory.lead')}><Answer query={settings}>{s => <Settings settings={s} />}</Answer></Section>
}

const newLDAP: LdapSettings = { enabled: true, url: '', baseDN: '', userFilter: '(&(objectClass=person)(uid={name}))', groupAttribute: 'memberOf', roles: [] }
const newOIDC: OidcSettings = { enabled: true, name: '', issuer: '', clientId: '', consoleUrl: location.origin, roleClaim: 'groups', roles: [] }

function Settings({ settings }: { settings: SignInSettings }) {
  const { t } = useTranslation()
  const say = useSay()
  const edit = useDraft(settings)
  const [somebody, setSomebody] = useState('')
  const { ldap, oidc, sessionMinutes } = edit.draft
  const save = api.useMutation('put', '/settings/sign-in', {
    onSuccess: saved => {
      edit.take(saved)
      say(t('common.saved'))
    },
    onSettled: () => refresh('/settings/sign-in', '/sign-in'),
  })
  const test = api.useMutation('post', '/settings/sign-in/test')
  return (
    <ProblemForm error={save.error} onSubmit={() => save.mutate({ params: { header: { 'If-Match': edit.ifMatch } }, body: edit.draft })}>
      <Conflict edit={edit} names={{ ldap: t('directory.ldap'), oidc: t('directory.oidc'), sessionMinutes: t('directory.session') }} />
      <NumberField label={t('directory.session')} path="sessionMinutes" hint={t('directory.sessionHint')} min={5} max={720} unit={t('directory.minutes')} value={sessionMinutes} onChange={v => edit.set({ sessionMinutes: v })} />
      <Heading>{t('directory.ldap')}</Heading>
      {ldap ? <LDAP value={ldap} onChange={v => edit.set({ ldap: v })} /> : <div><Button variant="secondary" onClick={() => edit.set({ ldap: newLDAP })}>{t('directory.addLDAP')}</Button></div>}
      <Heading>{t('directory.oidc')}</Heading>
      {oidc ? <OIDC value={oidc} onChange={v => edit.set({ oidc: v })} /> : <div><Button variant="secondary" onClick={() => edit.set({ oidc: newOIDC })}>{t('directory.addOIDC')}</Button></div>}
      {(ldap || oidc) && (
        <>
          {ldap && <TextField label={t('directory.somebody')} path="trial" hint={t('directory.somebodyHint')} maxLength={256} value={somebody} onChange={setSomebody} />}
          <div><Button variant="secondary" isLoading={test.isPending} isDisabled={test.isPending} onClick={() => test.mutate({ body: { settings: edit.draft, name: somebody } })}>{t('directory.test')}</Button></div>
        </>
      )}
      <div aria-live="polite">
        {!!test.error && <ProblemAlert error={test.error} />}
        {test.data && <Tested test={test.data} />}
      </div>
      <ActionGroup>
        <Button type="submit" isLoading={save.isPending} isDisabled={!edit.dirty || save.isPending}>{t('common.save')}</Button>
        {edit.dirty && <Button variant="link" onClick={() => edit.take()}>{t('common.undo')}</Button>}
      </ActionGroup>
    </ProblemForm>
  )
}

function Tested({ test }: { test: SignInTest }) {
  const { t } = useTranslation()
  return (
    <Alert variant={test.passed ? 'success' : 'danger'} isInline title={t(test.passed ? 'directory.passed' : 'directory.failed')}>
      <List isPlain>{test.checks.map(c => <ListItem key={c.part + c.name}>{c.passed ? '✓' : '✗'} {sentence(c.message)} {c.hint}</ListItem>)}</List>
    </Alert>
  )
}

function LDAP({ value: v, onChange }: { value: LdapSettings; onChange: (v?: LdapSettings) => void }) {
  const { t } = useTranslation()
  const set = (change: Partial<LdapSettings>) => onChange({ ...v, ...change })
  return (
    <fieldset className="rule" aria-label={t('directory.ldap')}>
      <CheckField label={t('directory.enabled')} value={v.enabled} onChange={enabled => set({ enabled })} />
      <TextField label={t('directory.url')} path="ldap.url" required maxLength={2048} placeholder="ldaps://dc.example.com" value={v.url} onChange={url => set({ url })} />
      {v.url.startsWith('ldap:') && <CheckField label="STARTTLS" value={v.startTLS ?? false} onChange={startTLS => set({ startTLS })} />}
      <TextField label={t('channel.ca')} path="ldap.ca" hint={t('channel.caHint')} lines={3} value={v.ca ?? ''} onChange={ca => set({ ca })} />
      <TextField label={t('directory.bindDN')} path="ldap.bindDN" hint={t('directory.bindHint')} maxLength={1024} value={v.bindDN ?? ''} onChange={bindDN => set({ bindDN })} />
      <SecretField label={t('directory.bindPassword')} path="ldap.bindPassword" kept={v.bindPasswordSet} maxLength={1024} value={v.bindPassword ?? ''} onChange={bindPassword => set({ bindPassword })} />
      <TextField label={t('directory.baseDN')} path="ldap.baseDN" required maxLength={1024} placeholder="ou=people,dc=example,dc=com" value={v.baseDN} onChange={baseDN => set({ baseDN })} />
      <TextField label={t('directory.userFilter')} path="ldap.userFilter" hint={t('directory.userFilterHint')} required maxLength={1024} value={v.userFilter} onChange={userFilter => set({ userFilter })} />
      <TextField label={t('directory.nameAttribute')} path="ldap.nameAttribute" maxLength={64} placeholder="uid" value={v.nameAttribute ?? ''} onChange={nameAttribute => set({ nameAttribute })} />
      <TextField label={t('directory.groupAttribute')} path="ldap.groupAttribute" hint={t('directory.groupAttributeHint')} maxLength={64} value={v.groupAttribute ?? ''} onChange={groupAttribute => set({ groupAttribute })} />
      <TextField label={t('directory.groupBaseDN')} path="ldap.groupBaseDN" maxLength={1024} value={v.groupBaseDN ?? ''} onChange={groupBaseDN => set({ groupBaseDN })} />
      <TextField label={t('directory.groupFilter')} path="ldap.groupFilter" hint={t('directory.groupFilterHint')} maxLength={1024} placeholder="(member={dn})" value={v.groupFilter ?? ''} onChange={groupFilter => set({ groupFilter })} />
      <Mappings path="ldap.roles" value={v.roles} onChange={r => set({ roles: r })} />
      <Button variant="link" isInline isDanger onClick={() => onChange(undefined)}>{t('directory.removeLDAP')}</Button>
    </fieldset>
  )
}

function OIDC({ value: v, onChange }: { value: OidcSettings; onChange: (v?: OidcSettings) => void }) {
  const { t } = useTranslation()
  const set = (change: Partial<OidcSettings>) => onChange({ ...v, ...change })
  return (
    <fieldset className="rule" aria-label={t('directory.oidc')}>
      <CheckField label={t('directory.enabled')} value={v.enabled} onChange={enabled => set({ enabled })} />
      <TextField label={t('directory.name')} path="oidc.name" hint={t('directory.nameHint')} required maxLength={64} value={v.name} onChange={name => set({ name })} />
      <TextField label={t('directory.issuer')} path="oidc.issuer" required type="url" maxLength={2048} placeholder="https://id.example.com/realms/main" value={v.issuer} onChange={issuer => set({ issuer })} />
      <TextField label={t('channel.ca')} path="oidc.ca" hint={t('channel.caHint')} lines={3} value={v.ca ?? ''} onChange={ca => set({ ca })} />
      <TextField label={t('directory.clientId')} path="oidc.clientId" required maxLength={256} value={v.clientId} onChange={clientId => set({ clientId })} />
      <SecretField label={t('directory.clientSecret')} path="oidc.clientSecret" kept={v.clientSecretSet} maxLength={1024} value={v.clientSecret ?? ''} onChange={clientSecret => set({ clientSecret })} />
      <TextField label={t('directory.consoleUrl')} path="oidc.consoleUrl" hint={t('directory.consoleUrlHint')} required type="url" maxLength={2048} value={v.consoleUrl} onChange={consoleUrl => set({ consoleUrl })} />
      <Field label={t('directory.redirectUrl')} path="oidc.redirectUrl" hint={t('directory.redirectHint')}>
        {() => <ClipboardCopy isReadOnly hoverTip={t('common.copy')} clickTip={t('common.copied')} textAriaLabel={t('directory.redirectUrl')}>{`${v.consoleUrl.replace(/\/+$/, '')}/api/v1/oidc/callback`}</ClipboardCopy>}
      </Field>
      <TextField label={t('directory.scopes')} path="oidc.scopes" hint={t('directory.scopesHint')} value={v.scopes?.join(' ') ?? ''} onChange={s => set({ scopes: s.split(/\s+/).filter(Boolean) })} />
      <TextField label={t('directory.nameClaim')} path="oidc.nameClaim" maxLength={128} placeholder="preferred_username" value={v.nameClaim ?? ''} onChange={nameClaim => set({ nameClaim })} />
      <TextField label={t('directory.roleClaim')} path="oidc.roleClaim" required maxLength={128} value={v.roleClaim} onChange={roleClaim => set({ roleClaim })} />
      <Mappings path="oidc.roles" value={v.roles} onChange={r => set({ roles: r })} />
      <Button variant="link" isInline isDanger onClick={() => onChange(undefined)}>{t('directory.removeOIDC')}</Button>
    </fieldset>
  )
}

/** Which group elsewhere gives which role here. */
function Mappings({ path, value, onChange }: { path: string; value: RoleMapping[]; onChange: (v: RoleMapping[]) => void }) {
  const { t } = useTranslation()
  const set = (at: number, change: Partial<RoleMapping>) => onChange(value.with(at, { ...value[at]!, ...change }))
  return (
    <>
      <p><strong>{t('directory.roles')}</strong>: {t('directory.rolesHint')}</p>
      {value.map((m, i) => (
        <Grid key={i} hasGutter md={4}>
          <GridItem><TextField label={t('directory.value')} path={`${path}[${i}].value`} required maxLength={1024} value={m.value} onChange={v => set(i, { value: v })} /></GridItem>
          <GridItem><SelectField label={t('user.role')} path={`${path}[${i}].role`} value={m.role} options={roles.map(r => [r, t(`role.${r}`)] as const)} onChange={r => set(i, { role: r, ...(r === 'administrator' && { groups: [] }) })} /></GridItem>
          <GridItem>
            {m.role !== 'administrator' && <ManyField label={t('user.groups')} path={`${path}[${i}].groups`} all={t('user.allGroups')} value={m.groups ?? []} onChange={g => set(i, { groups: g })} useOptions={useGroupOptions} useName={useGroupName} />}
            <Button variant="link" isInline isDanger onClick={() => onChange(value.toSpliced(i, 1))}>{t('directory.removeRole')}</Button>
          </GridItem>
        </Grid>
      ))}
      <div><Button variant="secondary" onClick={() => onChange([...value, { value: '', role: 'viewer' }])}>{t('directory.addRole')}</Button></div>
    </>
  )
}
