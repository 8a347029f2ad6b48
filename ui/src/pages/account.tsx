// What everybody has: a password, and tokens for programs of one's own.
import { Alert, Button, ClipboardCopy } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, client, refresh } from '../api/client'
import type { NewToken, Token } from '../api/schema'
import { Confirm, FormDialog, useSay } from '../parts/dialogs'
import { ProblemForm, SelectField, TextField } from '../parts/forms'
import { Answer, Page, PageTabs } from '../parts/page'
import { allRows, DataTable, type Column } from '../parts/table'
import { Ago } from '../parts/values'
import { NewPassword, roles, useMe, type Role } from '../session'
import { Section } from './settings/section'

export function Account() {
  const { t } = useTranslation()
  const { user } = useMe()
  const tabs = [{ key: 'tokens', title: t('account.tokens'), content: () => <Tokens /> }]
  if (user.source === 'local') tabs.push({ key: 'password', title: t('account.password'), content: () => <Password /> })
  return <Page title={user.fullName || user.name} lead={t('account.lead', { role: t(`role.${user.role}`) })}><PageTabs label={t('account.title')} tabs={tabs} /></Page>
}

function Password() {
  const { t } = useTranslation()
  const say = useSay()
  const [old, setOld] = useState('')
  const [password, setPassword] = useState('')
  const [repeated, setRepeated] = useState('')
  const change = api.useMutation('put', '/session/password', {
    onSuccess: () => {
      for (const clear of [setOld, setPassword, setRepeated]) clear('')
      say(t('account.passwordChanged'))
    },
  })
  return (
    <Section lead={t('account.passwordLead')}>
      <ProblemForm error={change.error} onSubmit={() => password === repeated && change.mutate({ body: { old, new: password } })}>
        <TextField label={t('account.oldPassword')} path="old" required type="password" autoComplete="current-password" value={old} onChange={setOld} />
        <NewPassword {...{ password, setPassword, repeated, setRepeated }} path="new" />
        <div><Button type="submit" isLoading={change.isPending} isDisabled={change.isPending || !old || !password || password !== repeated}>{t('account.changePassword')}</Button></div>
      </ProblemForm>
    </Section>
  )
}

function Tokens() {
  const { t } = useTranslation()
  const say = useSay()
  const { may } = useMe()
  const tokens = api.useQuery('get', '/tokens', { params: { query: { all: may('administrator') } } })
  const [adding, setAdding] = useState(false)
  const [removing, setRemoving] = useState<Token>()
  const [made, setMade] = useState<NewToken>()
  const columns: Column<Token>[] = [
    { title: t('token.name'), cell: x => x.name },
    { title: t('token.user'), cell: x => x.userName },
    { title: t('user.role'), cell: x => t(`role.${x.role}`) },
    { title: t('token.lastUsed'), cell: x => (x.lastUsed ? <Ago at={x.lastUsed} /> : t('user.never')) },
    { title: t('token.expires'), cell: x => <Ago at={x.expires} /> },
    { title: t('common.actions'), quiet: true, cell: x => <Button variant="link" isDanger onClick={() => setRemoving(x)}>{t('common.delete')}<span className="pf-v6-screen-reader"> {x.name}</span></Button> },
  ]
  return (
    <Section lead={t('token.lead')} action={<Button onClick={() => setAdding(true)}>{t('token.add')}</Button>}>
      {made && (
        <Alert variant="success" isInline title={t('token.made', { name: made.name })} className="page-alert">
          <p>{t('token.madeHint')}</p>
          <ClipboardCopy isReadOnly hoverTip={t('common.copy')} clickTip={t('common.copied')} textAriaLabel={t('token.title')}>{made.token}</ClipboardCopy>
        </Alert>
      )}
      <Answer query={tokens}>{list => <DataTable flat label={t('account.tokens')} rows={allRows(list)} columns={columns} rowKey={x => x.id} />}</Answer>
      {adding && <AddToken onDone={setMade} onClose={() => setAdding(false)} />}
      {removing && (
        <Confirm danger title={t('token.removeTitle', { name: removing.name })} confirm={t('common.delete')} onClose={() => setRemoving(undefined)}
          onConfirm={async () => {
            await client.DELETE('/tokens/{id}', { params: { path: { id: removing.id }, query: { all: may('administrator') } } })
            void refresh('/tokens')
            say(t('common.deleted', { name: removing.name }))
          }}>
          {t('token.removeText')}
        </Confirm>
      )}
    </Section>
  )
}

const day = 86_400_000
const isoDay = (t: number) => new Date(t).toISOString().slice(0, 10)

function AddToken({ onDone, onClose }: { onDone: (made: NewToken) => void; onClose: () => void }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const [name, setName] = useState('')
  const [role, setRole] = useState<Role>('viewer')
  const [expires, setExpires] = useState(isoDay(Date.now() + 90 * day))
  const add = api.useMutation('post', '/tokens', {
    onSuccess: made => {
      void refresh('/tokens')
      onDone(made)
      onClose()
    },
  })
  return (
    <FormDialog title={t('token.add')} submit={t('token.add')} error={add.error} busy={add.isPending} disabled={!name || !expires} onSubmit={() => add.mutate({ body: { name, role, expires: `${expires}T23:59:59Z` } })} onClose={onClose}>
      <TextField label={t('token.name')} path="name" hint={t('token.nameHint')} required maxLength={64} value={name} onChange={setName} />
      <SelectField label={t('user.role')} path="role" hint={t(`roleHint.${role}`)} value={role} options={roles.filter(may).map(r => [r, t(`role.${r}`)] as const)} onChange={setRole} />
      <TextField label={t('token.expires')} path="expires" hint={t('token.expiresHint')} required type="date" value={expires} onChange={setExpires} />
    </FormDialog>
  )
}
