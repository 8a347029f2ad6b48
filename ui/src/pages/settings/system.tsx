// Keeping the appliance itself: its configuration in a file, and what support needs to help.
import { Alert, Button, FileUpload } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, client, Problem, send } from '../../api/client'
import type { Restoration } from '../../api/schema'
import { FormDialog } from '../../parts/dialogs'
import { Field, SecretField } from '../../parts/forms'
import { ProblemAlert } from '../../parts/page'
import { useFormat } from '../../parts/values'
import { Section } from './section'

/** Gives the browser something to keep. */
function save(content: Blob, name: string) {
  const url = URL.createObjectURL(content)
  const a = document.createElement('a')
  a.href = url
  a.download = name
  a.click()
  URL.revokeObjectURL(url)
}

const today = () => new Date().toISOString().slice(0, 10)

export function System() {
  const { t } = useTranslation()
  const f = useFormat()
  const [open, setOpen] = useState<'backup' | 'restore'>()
  const [restored, setRestored] = useState<Restoration>()
  return (
    <>
      <Section title={t('backup.title')} lead={t('backup.lead')} action={<Button onClick={() => setOpen('backup')}>{t('backup.make')}</Button>} />
      <Section title={t('restore.title')} lead={t('restore.lead')} action={<Button variant="secondary" onClick={() => setOpen('restore')}>{t('restore.choose')}</Button>}>
        {restored && (
          <Alert variant="warning" isInline isLiveRegion title={t('restore.done')}>
            <p>{t('restore.what', { made: f.moment(restored.made), hosts: restored.hosts, groups: restored.groups, users: restored.users })}</p>
            <code>systemctl restart understudy</code>
          </Alert>
        )}
      </Section>
      <Support />
      {open === 'backup' && <Backup onClose={() => setOpen(undefined)} />}
      {open === 'restore' && <Restore onDone={setRestored} onClose={() => setOpen(undefined)} />}
    </>
  )
}

function Support() {
  const { t } = useTranslation()
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>()
  const collect = async () => {
    setBusy(true)
    setError(undefined)
    try {
      const response = await send(new Request(new URL('/api/v1/support-bundle', location.href), { method: 'POST' }))
      save(await response.blob(), `understudy-support-${today()}.zip`)
    } catch (e) {
      setError(e)
    }
    setBusy(false)
  }
  return (
    <Section title={t('support.title')} lead={t('support.lead')} action={<Button variant="secondary" isLoading={busy} isDisabled={busy} onClick={() => void collect()}>{t('support.collect')}</Button>}>
      {error !== undefined && <ProblemAlert error={error} />}
    </Section>
  )
}

function Backup({ onClose }: { onClose: () => void }) {
  const { t } = useTranslation()
  const [passphrase, setPassphrase] = useState('')
  const [repeated, setRepeated] = useState('')
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>()
  const make = async () => {
    setBusy(true)
    try {
      const { data } = await client.POST('/backup', { body: { passphrase }, parseAs: 'blob' })
      save(data as unknown as Blob, `understudy-${today()}.backup`)
      onClose()
    } catch (e) {
      setError(e)
      setBusy(false)
    }
  }
  return (
    <FormDialog title={t('backup.make')} submit={t('backup.make')} error={error} busy={busy} disabled={passphrase.length < 12 || passphrase !== repeated} onSubmit={() => void make()} onClose={onClose}>
      <SecretField label={t('backup.passphrase')} path="passphrase" hint={t('backup.passphraseHint')} required maxLength={1024} value={passphrase} onChange={setPassphrase} />
      <SecretField label={t('backup.repeat')} path="repeated" required maxLength={1024} value={repeated} onChange={setRepeated} />
    </FormDialog>
  )
}

/** The content of a file in base64, as JSON needs it. */
async function base64(file: File): Promise<string> {
  const url = await new Promise<string>((resolve, reject) => {
    const reader = new FileReader()
    reader.onload = () => resolve(reader.result as string)
    reader.onerror = () => reject(new Problem(0, 'invalid', file.name))
    reader.readAsDataURL(file)
  })
  return url.slice(url.indexOf(',') + 1)
}

function Restore({ onDone, onClose }: { onDone: (r: Restoration) => void; onClose: () => void }) {
  const { t } = useTranslation()
  const [file, setFile] = useState<File>()
  const [passphrase, setPassphrase] = useState('')
  const restore = api.useMutation('post', '/restore', {
    onSuccess: r => {
      onDone(r)
      onClose()
    },
  })
  return (
    <FormDialog title={t('restore.title')} submit={t('restore.go')} error={restore.error} busy={restore.isPending} disabled={!file || !passphrase} onClose={onClose}
      onSubmit={async () => restore.mutate({ body: { passphrase, data: await base64(file!) } })}>
      <Alert variant="warning" isInline title={t('restore.warning')} />
      <Field label={t('restore.file')} path="data" required>
        {({ id }) => <FileUpload id={id} hideDefaultPreview filename={file?.name} browseButtonText={t('restore.browse')} clearButtonText={t('restore.clear')} onFileInputChange={(_, f) => setFile(f)} onClearClick={() => setFile(undefined)} />}
      </Field>
      <SecretField label={t('backup.passphrase')} path="passphrase" required maxLength={1024} value={passphrase} onChange={setPassphrase} />
    </FormDialog>
  )
}
