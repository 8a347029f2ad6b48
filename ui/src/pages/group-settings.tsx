// Settings of a group: its policy.
import { Button, Flex } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { client, refresh } from '../api/client'
import type { Group } from '../api/schema'
import { useSay } from '../parts/dialogs'
import { Conflict, ProblemForm, useDraft } from '../parts/forms'
import { useMe } from '../session'
import { PolicyFields } from './policy'

export function Settings({ group }: { group: Group }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const say = useSay()
  const edit = useDraft({ ...group.policy, revision: group.revision })
  const [error, setError] = useState<unknown>()
  const [busy, setBusy] = useState(false)
  const save = async () => {
    const { revision: _, ...policy } = edit.draft
    setBusy(true)
    setError(undefined)
    try {
      const { data } = await client.PUT('/groups/{id}/policy', { params: { path: { id: group.id }, header: { 'If-Match': edit.ifMatch } }, body: policy })
      if (data) edit.take({ ...data.policy, revision: data.revision })
      say(t('policy.saved', { group: group.name }))
    } catch (e) {
      setError(e)
    }
    await refresh('/groups')
    setBusy(false)
  }
  return (
    <div className="form-page">
      <Conflict edit={edit} names={{ rpoSeconds: t('policy.rpo'), retention: t('policy.retention'), consistency: t('policy.consistency'), groupMoment: t('policy.groupMoment'), windows: t('policy.windows'), timeZone: t('policy.timeZone'), bandwidthMbit: t('policy.bandwidth'), verifyEverySeconds: t('policy.verifyEvery'), verifyCycles: t('policy.verifyCycles') }} />
      <ProblemForm error={error} onSubmit={() => void save()}>
        <fieldset disabled={!may('administrator')} className="plain"><div className="pf-v6-c-form"><PolicyFields policy={edit.draft} onChange={edit.set} /></div></fieldset>
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
