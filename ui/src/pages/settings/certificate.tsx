// What the appliance proves itself with to browsers and clients.
import { Alert, Button, Flex } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, client, refresh } from '../../api/client'
import { Confirm, FormDialog, useSay } from '../../parts/dialogs'
import { TextField } from '../../parts/forms'
import { Answer, Facts, sentence } from '../../parts/page'
import { Ago, Moment } from '../../parts/values'
import { Section } from './section'

export function CertificateSettings() {
  const { t } = useTranslation()
  const certificate = api.useQuery('get', '/settings/certificate')
  const [open, setOpen] = useState<'replace' | 'reset'>()
  return (
    <Section lead={t('certificate.lead')}>
      <Answer query={certificate}>
        {c => (
          <>
            {(c.warnings ?? []).map(w => <Alert key={w} variant="warning" isInline title={sentence(w)} className="page-alert" />)}
            <Facts of={[
              [t('certificate.names'), c.names.join(', ')],
              [t('certificate.subject'), c.subject],
              [t('certificate.issuer'), c.selfMade ? t('certificate.selfMade') : c.issuer],
              [t('certificate.expires'), <><Moment at={c.notAfter} /> (<Ago at={c.notAfter} />)</>],
              [t('certificate.fingerprint'), <code className="wrap">{c.fingerprint}</code>],
            ]} />
            <Flex className="setting-buttons">
              <Button onClick={() => setOpen('replace')}>{t('certificate.replace')}</Button>
              {!c.selfMade && <Button variant="secondary" onClick={() => setOpen('reset')}>{t('certificate.reset')}</Button>}
            </Flex>
          </>
        )}
      </Answer>
      {open === 'replace' && <Replace onClose={() => setOpen(undefined)} />}
      {open === 'reset' && <Reset onClose={() => setOpen(undefined)} />}
    </Section>
  )
}

function Replace({ onClose }: { onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const [certificate, setCertificate] = useState('')
  const [key, setKey] = useState('')
  const replace = api.useMutation('put', '/settings/certificate', {
    onSuccess: () => {
      void refresh('/settings/certificate')
      say(t('certificate.replaced'))
      onClose()
    },
  })
  return (
    <FormDialog wide title={t('certificate.replace')} submit={t('certificate.replace')} error={replace.error} busy={replace.isPending} disabled={!certificate || !key} onSubmit={() => replace.mutate({ body: { certificate, key } })} onClose={onClose}>
      <TextField label={t('certificate.pem')} path="certificate" hint={t('certificate.pemHint')} required lines={8} value={certificate} onChange={setCertificate} placeholder="-----BEGIN CERTIFICATE-----" />
      <TextField label={t('certificate.key')} path="key" hint={t('certificate.keyHint')} required lines={8} value={key} onChange={setKey} placeholder="-----BEGIN PRIVATE KEY-----" />
    </FormDialog>
  )
}

function Reset({ onClose }: { onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const reset = async () => {
    await client.DELETE('/settings/certificate')
    void refresh('/settings/certificate')
    say(t('certificate.replaced'))
  }
  return <Confirm danger title={t('certificate.reset')} confirm={t('certificate.reset')} onConfirm={reset} onClose={onClose}>{t('certificate.resetText')}</Confirm>
}
