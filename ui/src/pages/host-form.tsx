// Connecting a host: where it is, and whether everything works there.
import { ActionGroup, Button, FormGroup, Radio } from '@patternfly/react-core'
import { useId, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { useNavigate } from 'react-router-dom'
import { api, refresh } from '../api/client'
import { useSay } from '../parts/dialogs'
import { NumberField, ProblemForm, TextField } from '../parts/forms'
import { Page } from '../parts/page'

interface Reach {
  way: 'ssh' | 'local' | 'other'
  address: string
  user: string
  keyFile: string
  knownHosts: string
  uri: string
}

const nowhere: Reach = {
  way: 'ssh', address: '', user: 'root', keyFile: '/etc/understudy/id_ed25519', knownHosts: '/etc/understudy/known_hosts', uri: '',
}

/** The address as the driver wants it. Slashes may stay as they are in a query. */
export function uriOf(r: Reach): string {
  if (r.way === 'local') return 'qemu:///system'
  if (r.way === 'other') return r.uri.trim()
  const part = (s: string) => encodeURIComponent(s.trim()).replaceAll('%2F', '/')
  return `qemu+ssh://${part(r.user)}@${r.address.trim()}/system?keyfile=${part(r.keyFile)}&known_hosts=${part(r.knownHosts)}`
}

export function AddHost() {
  const { t } = useTranslation()
  const go = useNavigate()
  const say = useSay()
  const [name, setName] = useState('')
  const [maxJobs, setMaxJobs] = useState(4)
  const [reach, setReach] = useState(nowhere)
  const add = api.useMutation('post', '/hosts', {
    onSuccess: h => {
      void refresh('/hosts')
      say(t('hosts.added', { name: h.name }))
      go(`/hosts/${h.id}`)
    },
  })
  const spec = { name, uri: uriOf(reach), maxJobs }
  return (
    <Page title={t('hosts.add')} within={[['/hosts', t('nav.hosts')]]} lead={t('hosts.addLead')}>
      <ProblemForm error={add.error} onSubmit={() => add.mutate({ body: spec })}>
        <TextField label={t('hosts.name')} path="name" hint={t('hosts.nameHint')} required maxLength={63} value={name} onChange={setName} />
        <ReachFields reach={reach} onChange={change => setReach({ ...reach, ...change })} />
        <NumberField label={t('hosts.maxJobs')} path="maxJobs" hint={t('hosts.maxJobsHint')} min={1} max={64} value={maxJobs} onChange={setMaxJobs} />
        <ActionGroup>
          <Button type="submit" isLoading={add.isPending} isDisabled={add.isPending}>{t('hosts.add')}</Button>
          <Button variant="link" onClick={() => go('/hosts')}>{t('common.cancel')}</Button>
        </ActionGroup>
      </ProblemForm>
    </Page>
  )
}

function ReachFields({ reach, onChange }: { reach: Reach; onChange: (change: Partial<Reach>) => void }) {
  const { t } = useTranslation()
  const id = useId()
  return (
    <>
      <FormGroup role="radiogroup" label={t('hosts.reach')} fieldId={id} isStack>
        {(['ssh', 'local', 'other'] as const).map(way => (
          <Radio key={way} id={`${id}-${way}`} name={id} label={t(`hosts.way.${way}`)} description={t(`hosts.wayHint.${way}`)} isChecked={reach.way === way} onChange={() => onChange({ way })} />
        ))}
      </FormGroup>
      {reach.way === 'ssh' && (
        <>
          <TextField label={t('hosts.address')} path="uri" required value={reach.address} onChange={address => onChange({ address })} placeholder="kvm1.example.com" />
          <TextField label={t('hosts.user')} path="uri.user" required value={reach.user} onChange={user => onChange({ user })} />
          <TextField label={t('hosts.keyFile')} path="uri.keyfile" hint={t('hosts.keyFileHint')} required value={reach.keyFile} onChange={keyFile => onChange({ keyFile })} />
          <TextField label={t('hosts.knownHosts')} path="uri.known_hosts" hint={t('hosts.knownHostsHint')} required value={reach.knownHosts} onChange={knownHosts => onChange({ knownHosts })} />
        </>
      )}
      {reach.way === 'other' && <TextField label={t('hosts.uri')} path="uri" required maxLength={1024} value={reach.uri} onChange={uri => onChange({ uri })} placeholder="qemu+unix:///system?socket=…" />}
    </>
  )
}
