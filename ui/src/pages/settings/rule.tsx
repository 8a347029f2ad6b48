// A rule: what is told, and to whom.
import { Checkbox, FormGroup } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { api, refresh } from '../../api/client'
import type { Channel, Rule } from '../../api/schema'
import { FormDialog, useSay } from '../../parts/dialogs'
import { CheckField, Conflict, ManyField, SelectField, TextField, useDraft } from '../../parts/forms'
import { useGroupName } from '../group-link'
import { useGroupOptions } from './users'

/** What a rule can choose; alerts first. */
const kinds = ['rpo-missed', 'cycle-failing', 'host-down', 'storage-low', 'mismatch', 'split-brain', 'diverged', 'stray', 'certificate', 'driver-missing', 'job-failed', 'job-ended'] as const
const severities = ['info', 'warning', 'critical'] as const

export const newRule: Rule = { id: '', revision: 0, name: '', enabled: true, kinds: [], groups: [], minSeverity: 'warning', channels: [] }

export function EditRule({ rule, channels, onClose }: { rule: Rule; channels: Channel[]; onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const edit = useDraft(rule)
  const create = api.useMutation('post', '/notifications/rules')
  const update = api.useMutation('put', '/notifications/rules/{id}')
  const save = rule.id ? update : create
  const { id: _, revision: __, ...body } = edit.draft
  const done = {
    onSuccess: () => {
      say(t('common.saved'))
      onClose()
    },
    onSettled: () => void refresh('/notifications/rules'),
  }
  const submit = () =>
    rule.id ? update.mutate({ params: { path: { id: rule.id }, header: { 'If-Match': edit.ifMatch } }, body }, done) : create.mutate({ body }, done)
  const toggle = (list: string[] | null | undefined, item: string, on: boolean) => (on ? [...(list ?? []), item] : (list ?? []).filter(i => i !== item))
  return (
    <FormDialog wide title={rule.id ? t('rule.edit', { name: rule.name }) : t('rule.add')} submit={t('common.save')} error={save.error} busy={save.isPending} disabled={!body.name || !body.channels?.length} onSubmit={submit} onClose={onClose}>
      <Conflict edit={edit} names={{ name: t('rule.name'), kinds: t('rule.what'), groups: t('rule.groups'), channels: t('rule.channels'), minSeverity: t('rule.severity'), enabled: t('rule.enabled') }} />
      <TextField label={t('rule.name')} path="name" required maxLength={63} value={body.name} onChange={name => edit.set({ name })} />
      <FormGroup role="group" label={t('rule.channels')} fieldId="rule-channels" isRequired isStack>
        {channels.map(c => <Checkbox key={c.id} id={`channel-${c.id}`} label={c.name} isChecked={!!body.channels?.includes(c.id)} onChange={(_, on) => edit.set({ channels: toggle(body.channels, c.id, on) })} />)}
      </FormGroup>
      <SelectField label={t('rule.severity')} path="minSeverity" value={body.minSeverity || 'info'} options={severities.map(s => [s, t(`least.${s}`)] as const)} onChange={minSeverity => edit.set({ minSeverity })} />
      <FormGroup role="group" label={t('rule.what')} fieldId="rule-kinds" isStack labelHelp={<span> {t('rule.whatHint')}</span>}>
        {kinds.map(k => <Checkbox key={k} id={`kind-${k}`} label={t(`notice.${k}`)} isChecked={!!body.kinds?.includes(k)} onChange={(_, on) => edit.set({ kinds: toggle(body.kinds, k, on) })} />)}
      </FormGroup>
      <ManyField label={t('rule.groups')} path="groups" all={t('user.allGroups')} value={body.groups ?? []} onChange={groups => edit.set({ groups })} useOptions={useGroupOptions} useName={useGroupName} />
      <CheckField label={t('rule.enabled')} value={body.enabled} onChange={enabled => edit.set({ enabled })} />
    </FormDialog>
  )
}
