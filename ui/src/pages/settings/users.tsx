// Who may sign in, in which role, and which groups each sees.
import { Button } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, client, refresh } from '../../api/client'
import type { User } from '../../api/schema'
import { Confirm, FormDialog, useSay } from '../../parts/dialogs'
import { CheckField, Conflict, ManyField, SecretField, SelectField, TextField, useDraft } from '../../parts/forms'
import { Answer } from '../../parts/page'
import { allRows, DataTable, type Column } from '../../parts/table'
import { Ago } from '../../parts/values'
import { roles, useMe, type Role } from '../../session'
import { useGroupName } from '../group-link'
import { Section } from './section'

/** Groups by name, for choosing. */
export function useGroupOptions(q: string) {
  const groups = api.useQuery('get', '/groups', { params: { query: { q: q || undefined, limit: 20 } } }, { placeholderData: old => old })
  return groups.data?.items ?? []
}

export function Users() {
  const { t } = useTranslation()
  const me = useMe()
  const users = api.useQuery('get', '/users')
  const [open, setOpen] = useState<{ edit?: string; remove?: User; add?: boolean }>({})
  const close = () => setOpen({})
  const columns: Column<User>[] = [
    { title: t('user.name'), cell: u => <>{u.name}{u.id === me.user.id && ` (${t('user.me')})`}</> },
    { title: t('user.fullName'), cell: u => u.fullName },
    { title: t('user.role'), cell: u => t(`role.${u.role}`) },
    { title: t('user.groups'), cell: u => (u.groups?.length ? t('user.someGroups', { count: u.groups.length }) : t('user.allGroups')) },
    { title: t('user.source'), cell: u => t(`source.${u.source}`) },
    { title: t('user.lastSignIn'), cell: u => (u.disabled ? t('user.disabled') : u.lastSignIn ? <Ago at={u.lastSignIn} /> : t('user.never')) },
    {
      title: t('common.actions'), quiet: true, cell: u => u.source !== 'built-in' && (
        <>
          <Button variant="link" onClick={() => setOpen({ edit: u.id })}>{t('common.edit')}<span className="pf-v6-screen-reader"> {u.name}</span></Button>
          <Button variant="link" isDanger onClick={() => setOpen({ remove: u })}>{t('common.delete')}<span className="pf-v6-screen-reader"> {u.name}</span></Button>
        </>
      ),
    },
  ]
  const editing = users.data?.find(u => u.id === open.edit)
  return (
    <Section lead={t('user.lead')} action={<Button onClick={() => setOpen({ add: true })}>{t('user.add')}</Button>}>
      <Answer query={users}>{list => <DataTable flat label={t('settings.users')} rows={allRows(list)} columns={columns} rowKey={u => u.id} />}</Answer>
      {open.add && <AddUser onClose={close} />}
      {editing && <EditUser user={editing} onClose={close} />}
      {open.remove && <RemoveUser user={open.remove} onClose={close} />}
    </Section>
  )
}

interface RightsProps {
  role: Role
  groups: string[]
  onChange: (change: { role?: Role; groups?: string[] }) => void
}

/** The role, and the groups for those who do not see everything. */
function Rights({ role, groups, onChange }: RightsProps) {
  const { t } = useTranslation()
  return (
    <>
      <SelectField label={t('user.role')} path="role" value={role} options={roles.map(r => [r, t(`role.${r}`)] as const)} hint={t(`roleHint.${role}`)}
        onChange={r => onChange({ role: r, groups: r === 'administrator' ? [] : groups })} />
      {role !== 'administrator' && (
        <ManyField label={t('user.groups')} path="groups" hint={t('user.groupsHint')} all={t('user.allGroups')} value={groups} onChange={g => onChange({ groups: g })}
          useOptions={useGroupOptions} useName={useGroupName} />
      )}
    </>
  )
}

function AddUser({ onClose }: { onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const [user, setUser] = useState({ name: '', fullName: '', password: '', role: 'viewer' as Role, groups: [] as string[] })
  const set = (change: Partial<typeof user>) => setUser(old => ({ ...old, ...change }))
  const add = api.useMutation('post', '/users', {
    onSuccess: u => {
      void refresh('/users')
      say(t('user.added', { name: u.name }))
      onClose()
    },
  })
  return (
    <FormDialog wide title={t('user.add')} submit={t('user.add')} error={add.error} busy={add.isPending} disabled={!user.name || !user.password} onSubmit={() => add.mutate({ body: user })} onClose={onClose}>
      <TextField label={t('user.name')} path="name" required maxLength={64} autoComplete="off" value={user.name} onChange={name => set({ name })} />
      <TextField label={t('user.fullName')} path="fullName" maxLength={128} value={user.fullName} onChange={fullName => set({ fullName })} />
      <SecretField label={t('signIn.password')} path="password" required hint={t('password.rule')} maxLength={256} value={user.password} onChange={password => set({ password })} />
      <Rights role={user.role} groups={user.groups} onChange={set} />
    </FormDialog>
  )
}

function EditUser({ user, onClose }: { user: User; onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const edit = useDraft(user)
  const [password, setPassword] = useState('')
  const save = api.useMutation('put', '/users/{id}', {
    onSuccess: () => {
      say(t('common.saved'))
      onClose()
    },
    // Saved or outdated: in both cases there is something new to show.
    onSettled: () => refresh('/users'),
  })
  const { fullName, role, groups, disabled } = edit.draft
  const body = { fullName, role, groups: groups ?? [], disabled, ...(password && { password }) }
  return (
    <FormDialog wide title={t('user.edit', { name: user.name })} submit={t('common.save')} error={save.error} busy={save.isPending} disabled={!edit.dirty && !password} onClose={onClose}
      onSubmit={() => save.mutate({ params: { path: { id: user.id }, header: { 'If-Match': edit.ifMatch } }, body })}>
      <Conflict edit={edit} names={{ fullName: t('user.fullName'), role: t('user.role'), groups: t('user.groups'), disabled: t('user.disabled') }} />
      <TextField label={t('user.fullName')} path="fullName" maxLength={128} value={fullName} onChange={v => edit.set({ fullName: v })} />
      <Rights role={role} groups={groups ?? []} onChange={edit.set} />
      {user.source === 'local' && <SecretField label={t('password.new')} path="password" hint={t('user.passwordHint')} maxLength={256} value={password} onChange={setPassword} />}
      <CheckField label={t('user.disabled')} hint={t('user.disabledHint')} value={disabled} onChange={v => edit.set({ disabled: v })} />
    </FormDialog>
  )
}

function RemoveUser({ user, onClose }: { user: User; onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const remove = async () => {
    await client.DELETE('/users/{id}', { params: { path: { id: user.id } } })
    void refresh('/users')
    say(t('user.removed', { name: user.name }))
  }
  return <Confirm danger title={t('user.removeTitle', { name: user.name })} confirm={t('common.delete')} onConfirm={remove} onClose={onClose}>{t('user.removeText')}</Confirm>
}
