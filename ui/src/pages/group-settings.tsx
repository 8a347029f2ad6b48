// Forms that edit a group: of two people who do so at once, the second is told what the first has changed.
import { Button, Flex } from '@patternfly/react-core'
import { useState, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { client, refresh } from '../api/client'
import type { Group } from '../api/schema'
import { useSay } from '../parts/dialogs'
import { Conflict, ProblemForm, useDraft } from '../parts/forms'
import { useMe } from '../session'
import { away } from './next'
import { PolicyFields } from './policy'

interface FormProps<T extends object> {
  group: Group
  /** What of the group is edited. */
  value: (g: Group) => T
  names: Partial<Record<keyof T, string>>
  save: (draft: T, ifMatch: string) => Promise<Group | undefined>
  children: (draft: T, set: (change: Partial<T>) => void) => ReactNode
}

export function GroupForm<T extends object>({ group, value, names, save, children }: FormProps<T>) {
  const { t } = useTranslation()
  const { may } = useMe()
  const say = useSay()
  const revised = (g: Group) => ({ ...value(g), revision: g.revision })
  const edit = useDraft(revised(group))
  const [error, setError] = useState<unknown>()
  const [busy, setBusy] = useState(false)
  const submit = async () => {
    const { revision: _, ...draft } = edit.draft
    setBusy(true)
    setError(undefined)
    try {
      const saved = await save(draft as unknown as T, edit.ifMatch)
      if (saved) edit.take(revised(saved))
      say(t('policy.saved', { group: group.name }))
    } catch (e) {
      setError(e)
    }
    await refresh('/groups')
    setBusy(false)
  }
  return (
    <div className="form-page">
      <Conflict edit={edit} names={names as never} />
      <ProblemForm error={error} onSubmit={() => void submit()}>
        <fieldset disabled={!may('administrator')} className="plain"><div className="pf-v6-c-form">{children(edit.draft as unknown as T, change => edit.set(change as never))}</div></fieldset>
        {may('administrator') && (
          <Flex columnGap={{ default: 'columnGapMd' }}>
            <Button type="submit" isLoading={busy} isDisabled={busy || !edit.dirty || edit.theirs !== undefined}>{t('common.save')}</Button>
            <Button variant="link" isDisabled={busy || !edit.dirty} onClick={() => edit.take()}>{t('common.discard')}</Button>
          </Flex>
        )}
      </ProblemForm>
    </div>
  )
}

export function Settings({ group }: { group: Group }) {
  const { t } = useTranslation()
  return (
    <GroupForm group={group} value={g => g.policy}
      names={{ rpoSeconds: t('policy.rpo'), retention: t('policy.retention'), consistency: t('policy.consistency'), groupMoment: t('policy.groupMoment'), windows: t('policy.windows'), timeZone: t('policy.timeZone'), bandwidthMbit: t('policy.bandwidth'), compression: t('policy.compression'), verifyEverySeconds: t('policy.verifyEvery'), verifyCycles: t('policy.verifyCycles') }}
      save={async (policy, ifMatch) => (await client.PUT('/groups/{id}/policy', { params: { path: { id: group.id }, header: { 'If-Match': ifMatch } }, body: policy })).data}>
      {(draft, set) => <PolicyFields policy={draft} target={away(group) ? group.sourceHost : group.targetHost} onChange={set} />}
    </GroupForm>
  )
}
