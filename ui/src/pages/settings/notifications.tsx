// Who is told of what: channels lead somewhere, rules choose what goes there, deliveries tell how it went.
import { Alert, Button, Label } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api, client, refresh } from '../../api/client'
import type { Channel, Delivery, Rule } from '../../api/schema'
import { Confirm, useSay } from '../../parts/dialogs'
import { Answer, Empty, sentence } from '../../parts/page'
import { allRows, DataTable, FilterBar, useFilter, usePages, type Column } from '../../parts/table'
import { Ago } from '../../parts/values'
import { EditChannel, newChannel, receiver } from './channel'
import { EditRule, newRule } from './rule'
import { Section } from './section'

export function Notifications() {
  const channels = api.useQuery('get', '/notifications/channels')
  return (
    <Answer query={channels}>
      {list => (
        <>
          <Channels channels={list ?? []} />
          {!!list?.length && <Rules channels={list} />}
          {!!list?.length && <Deliveries channels={list} />}
        </>
      )}
    </Answer>
  )
}

function Channels({ channels }: { channels: Channel[] }) {
  const { t } = useTranslation()
  const say = useSay()
  const [editing, setEditing] = useState<string>() // id; '' for a new one
  const [removing, setRemoving] = useState<Channel>()
  const test = api.useMutation('post', '/notifications/channels/{id}/test', { onSettled: () => refresh('/notifications') })
  const add = <Button onClick={() => setEditing('')}>{t('channel.add')}</Button>
  const columns: Column<Channel>[] = [
    { title: t('channel.name'), cell: c => c.name },
    { title: t('channel.kind'), cell: c => t(`channelKind.${c.kind}`) },
    { title: t('channel.receiver'), cell: receiver, width: 25 },
    { title: t('channel.state'), cell: c => (c.problem ? <Label status="danger" title={c.problem}>{t('channel.failing')}</Label> : <Label variant="outline" status={c.enabled ? 'success' : undefined}>{t(c.enabled ? 'channel.on' : 'channel.off')}</Label>) },
    {
      title: t('common.actions'), quiet: true, cell: c => (
        <>
          <Button variant="link" isLoading={test.isPending && test.variables.params.path.id === c.id} isDisabled={test.isPending} onClick={() => test.mutate({ params: { path: { id: c.id } } })}>{t('channel.test')}<span className="pf-v6-screen-reader"> {c.name}</span></Button>
          <Button variant="link" onClick={() => setEditing(c.id)}>{t('common.edit')}<span className="pf-v6-screen-reader"> {c.name}</span></Button>
          <Button variant="link" isDanger onClick={() => setRemoving(c)}>{t('common.delete')}<span className="pf-v6-screen-reader"> {c.name}</span></Button>
        </>
      ),
    },
  ]
  const channel = editing === '' ? newChannel : channels.find(c => c.id === editing)
  return (
    <Section title={t('channel.title')} lead={t('channel.lead')} action={channels.length > 0 && add}>
      {test.data && <Tested delivery={test.data} />}
      {!!test.error && <Alert variant="danger" isInline title={sentence(test.error.detail)} />}
      <DataTable flat label={t('channel.title')} rows={allRows(channels)} columns={columns} rowKey={c => c.id} empty={<Empty title={t('channel.none')} action={add}>{t('channel.noneHint')}</Empty>} />
      {channel && <EditChannel channel={channel} onClose={() => setEditing(undefined)} />}
      {removing && (
        <Confirm danger title={t('channel.removeTitle', { name: removing.name })} confirm={t('common.delete')} onClose={() => setRemoving(undefined)}
          onConfirm={async () => {
            await client.DELETE('/notifications/channels/{id}', { params: { path: { id: removing.id } } })
            void refresh('/notifications')
            say(t('common.deleted', { name: removing.name }))
          }} />
      )}
    </Section>
  )
}

/** What the receiver said to a test. */
function Tested({ delivery: d }: { delivery: Delivery }) {
  const { t } = useTranslation()
  const good = d.state === 'delivered'
  return (
    <Alert key={d.id} variant={good ? 'success' : 'danger'} isInline isLiveRegion className="page-alert" title={t(good ? 'channel.tested' : 'channel.testFailed', { name: d.channelName })}>
      {good ? d.answer : <><p>{sentence(d.error ?? '')}</p><p>{d.hint}</p></>}
    </Alert>
  )
}

function Rules({ channels }: { channels: Channel[] }) {
  const { t } = useTranslation()
  const say = useSay()
  const rules = api.useQuery('get', '/notifications/rules')
  const [editing, setEditing] = useState<string>()
  const [removing, setRemoving] = useState<Rule>()
  const add = <Button onClick={() => setEditing('')}>{t('rule.add')}</Button>
  const name = (id: string) => channels.find(c => c.id === id)?.name ?? id
  const columns: Column<Rule>[] = [
    { title: t('rule.name'), cell: r => r.name },
    { title: t('rule.what'), cell: r => (r.kinds?.length ? t('rule.someKinds', { count: r.kinds.length }) : t('rule.allKinds')) },
    { title: t('rule.severity'), cell: r => t(`least.${r.minSeverity || 'info'}`) },
    { title: t('rule.groups'), cell: r => (r.groups?.length ? t('user.someGroups', { count: r.groups.length }) : t('user.allGroups')) },
    { title: t('rule.channels'), cell: r => (r.channels ?? []).map(name).join(', ') },
    { title: t('channel.state'), cell: r => <Label variant="outline" status={r.enabled ? 'success' : undefined}>{t(r.enabled ? 'channel.on' : 'channel.off')}</Label> },
    {
      title: t('common.actions'), quiet: true, cell: r => (
        <>
          <Button variant="link" onClick={() => setEditing(r.id)}>{t('common.edit')}<span className="pf-v6-screen-reader"> {r.name}</span></Button>
          <Button variant="link" isDanger onClick={() => setRemoving(r)}>{t('common.delete')}<span className="pf-v6-screen-reader"> {r.name}</span></Button>
        </>
      ),
    },
  ]
  return (
    <Section title={t('rule.title')} lead={t('rule.lead')} action={!!rules.data?.length && add}>
      <Answer query={rules}>
        {list => {
          const rule = editing === '' ? newRule : list?.find(r => r.id === editing)
          return (
            <>
              <DataTable flat label={t('rule.title')} rows={allRows(list)} columns={columns} rowKey={r => r.id} empty={<Empty title={t('rule.none')} action={add}>{t('rule.noneHint')}</Empty>} />
              {rule && <EditRule rule={rule} channels={channels} onClose={() => setEditing(undefined)} />}
            </>
          )
        }}
      </Answer>
      {removing && (
        <Confirm danger title={t('rule.removeTitle', { name: removing.name })} confirm={t('common.delete')} onClose={() => setRemoving(undefined)}
          onConfirm={async () => {
            await client.DELETE('/notifications/rules/{id}', { params: { path: { id: removing.id } } })
            void refresh('/notifications/rules')
            say(t('common.deleted', { name: removing.name }))
          }} />
      )}
    </Section>
  )
}

const states = ['delivered', 'retrying', 'failed'] as const

function Deliveries({ channels }: { channels: Channel[] }) {
  const { t } = useTranslation()
  const filter = useFilter('channel', 'delivery')
  const { channel, delivery } = filter.values
  const rows = usePages<Delivery>((offset, limit) =>
    api.queryOptions('get', '/notifications/deliveries', { params: { query: { channel, state: delivery as Delivery['state'] | undefined, offset, limit } } }))
  const columns: Column<Delivery>[] = [
    { title: t('delivery.time'), cell: d => <Ago at={d.time} />, width: 15 },
    { title: t('delivery.channel'), cell: d => d.channelName, width: 15 },
    { title: t('delivery.subject'), cell: d => d.subject },
    { title: t('delivery.state'), cell: d => <Label status={({ delivered: 'success', retrying: 'warning', failed: 'danger' } as const)[d.state]} variant={d.state === 'delivered' ? 'outline' : 'filled'}>{t(`deliveryState.${d.state}`)}</Label>, width: 15 },
    { title: t('delivery.answer'), cell: d => sentence(d.error ?? d.answer ?? '') },
  ]
  return (
    <Section title={t('delivery.title')} lead={t('delivery.lead')}>
      <FilterBar filter={filter} total={rows.total} choices={[
        { name: 'channel', label: t('delivery.channel'), options: channels.map(c => [c.id, c.name]) },
        { name: 'delivery', label: t('delivery.state'), options: states.map(s => [s, t(`deliveryState.${s}`)]) },
      ]} />
      <DataTable label={t('delivery.title')} rows={rows} columns={columns} rowKey={d => d.id + d.time} />
    </Section>
  )
}
