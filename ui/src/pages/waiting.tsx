// A job that waits for a person, such as in a manual step of a runbook.
import { Button, Card, CardBody, CardTitle, Flex, FlexItem, TextArea } from '@patternfly/react-core'
import { useEffect, useId, useRef, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api } from '../api/client'
import type { Job, Waiting } from '../api/schema'
import { ProblemAlert } from '../parts/page'
import { Age } from '../parts/values'
import { useMe } from '../session'

/** A person has to do something; the job goes on when it is confirmed. */
export function WaitingCard({ job, waiting }: { job: Job; waiting: Waiting }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const [note, setNote] = useState('')
  const confirm = api.useMutation('post', '/jobs/{id}/confirm')
  const box = useRef<HTMLDivElement>(null)
  const id = useId()
  useEffect(() => {
    void box.current?.scrollIntoView({ block: 'nearest' })
  }, [waiting.prompt])
  return (
    <Card className="waiting" ref={box} role="alert" aria-labelledby={id}>
      <CardTitle component="h2" id={id}>{t('waiting.title')}</CardTitle>
      <CardBody>
        {confirm.error ? <ProblemAlert error={confirm.error} /> : null}
        <p className="waiting-text">{waiting.text}</p>
        <p>{t('waiting.since')} <Age since={waiting.since} />{waiting.productionOff && <> · <strong>{t('waiting.productionOff')}</strong></>}</p>
        {may('operator') && (
          <Flex alignItems={{ default: 'alignItemsFlexEnd' }} className="waiting-answer">
            <FlexItem grow={{ default: 'grow' }}>
              <label htmlFor={`${id}-note`}>{t('waiting.note')}</label>
              <TextArea id={`${id}-note`} value={note} maxLength={1000} rows={2} onChange={(_, v) => setNote(v)} />
            </FlexItem>
            <Button size="lg" isLoading={confirm.isPending} isDisabled={confirm.isPending}
              onClick={() => confirm.mutate({ params: { path: { id: job.id } }, body: { prompt: waiting.prompt, note } }, { onSuccess: () => setNote('') })}>
              {t('waiting.confirm')}
            </Button>
          </Flex>
        )}
      </CardBody>
    </Card>
  )
}
