// Hosts: the list, and everything about one of them.
import { Alert, Button, Flex, Grid, GridItem, Progress, ProgressMeasureLocation } from '@patternfly/react-core'
import CheckIcon from '@patternfly/react-icons/dist/esm/icons/check-icon'
import MinusIcon from '@patternfly/react-icons/dist/esm/icons/minus-icon'
import ServerIcon from '@patternfly/react-icons/dist/esm/icons/server-icon'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, useNavigate, useParams } from 'react-router-dom'
import { api, client } from '../api/client'
import type { DoctorCheck, Group, Host, Machine, Network, Storage } from '../api/schema'
import { Confirm, useSay } from '../parts/dialogs'
import { ConnectedLabel, HealthLabel, ResultLabel, StateLabel } from '../parts/labels'
import { Answer, Empty, Facts, Heading, Loading, Page, PageTabs, ProblemAlert, sentence } from '../parts/page'
import { allRows, DataTable, FilterBar, useFilter, usePages, type Column } from '../parts/table'
import { Bytes, Count } from '../parts/values'
import { useMe } from '../session'
import { DataPaths } from './data-paths'

/** The way to a page that looks like a button. */
export const ButtonLink = ({ to, children, variant = 'primary' }: { to: string; children: string; variant?: 'primary' | 'secondary' }) => (
  <Button variant={variant} component={p => <Link {...p} to={to} />}>{children}</Button>
)

export function Hosts() {
  const { t } = useTranslation()
  const { may } = useMe()
  const hosts = api.useQuery('get', '/hosts')
  const columns: Column<Host>[] = [
    { title: t('hosts.name'), cell: h => <Link to={`/hosts/${h.id}`}>{h.name}</Link> },
    { title: t('hosts.state'), cell: h => <ConnectedLabel connected={h.connected} /> },
    { title: t('hosts.product'), cell: h => `${h.product} ${h.version}` },
    { title: t('hosts.uri'), cell: h => h.uri, width: 40 },
  ]
  const add = may('administrator') && <ButtonLink to="/hosts/new">{t('hosts.add')}</ButtonLink>
  return (
    <Page title={t('nav.hosts')} lead={t('hosts.lead')} actions={hosts.data?.length ? add : undefined}>
      <Answer query={hosts}>
        {list => (
          <DataTable flat label={t('nav.hosts')} rows={allRows(list)} columns={columns} rowKey={h => h.id}
            empty={<Empty title={t('hosts.none')} icon={ServerIcon} action={add}>{t('hosts.noneHint')}</Empty>} />
        )}
      </Answer>
    </Page>
  )
}

export function HostPage() {
  const { t } = useTranslation()
  const { may } = useMe()
  const { id = '' } = useParams()
  const host = api.useQuery('get', '/hosts/{id}', { params: { path: { id } } })
  const [removing, setRemoving] = useState(false)
  const h = host.data
  const actions = h && may('administrator') && (
    <>
      <ButtonLink variant="secondary" to={`/hosts/${id}/edit`}>{t('common.edit')}</ButtonLink>
      <Button variant="secondary" isDanger onClick={() => setRemoving(true)}>{t('hosts.remove')}</Button>
    </>
  )
  return (
    <Page title={h?.name ?? t('nav.hosts')} within={[['/hosts', t('nav.hosts')]]} labels={h && <ConnectedLabel connected={h.connected} />} actions={actions}>
      <Answer query={host}>
        {h => (
          <>
            {h.problem && <Alert variant="danger" isInline title={sentence(h.problem)} className="page-alert" />}
            <PageTabs label={h.name} tabs={[
              { key: 'overview', title: t('hosts.tab.overview'), content: () => <Summary host={h} /> },
              { key: 'protected', title: t('hosts.tab.protected'), content: () => <Protected host={h} /> },
              { key: 'machines', title: t('hosts.tab.machines'), content: () => <Machines host={h} /> },
              { key: 'networks', title: t('hosts.tab.networks'), content: () => <Networks host={h} /> },
              { key: 'storage', title: t('hosts.tab.storage'), content: () => <Storages host={h} /> },
              { key: 'checks', title: t('hosts.tab.checks'), content: () => <Doctor host={h} /> },
            ]} />
            {removing && <Remove host={h} onClose={() => setRemoving(false)} />}
          </>
        )}
      </Answer>
    </Page>
  )
}

function Remove({ host, onClose }: { host: Host; onClose: () => void }) {
  const { t } = useTranslation()
  const say = useSay()
  const go = useNavigate()
  const remove = async () => {
    await client.DELETE('/hosts/{id}', { params: { path: { id: host.id } } })
    say(t('hosts.removed', { name: host.name }))
    go('/hosts')
  }
  return <Confirm danger title={t('hosts.removeTitle', { name: host.name })} confirm={t('hosts.remove')} onConfirm={remove} onClose={onClose}>{t('hosts.removeText')}</Confirm>
}

const abilities = ['source', 'target', 'changeTracking', 'quiesce', 'groupMoment', 'isolation', 'guest', 'compression', 'convert'] as const

/** What a host can do, and why it cannot do the rest. */
export function Abilities({ of }: { of: Host['capabilities'] }) {
  const { t } = useTranslation()
  return (
    <>
      <ul className="abilities">
        {abilities.map(a => (
          <li key={a} className={of[a] ? undefined : 'no'}>
            {of[a] ? <CheckIcon className="yes-icon" /> : <MinusIcon />}
            <span>{t(`ability.${a}`)}{!of[a] && <span className="pf-v6-screen-reader">: {t('ability.missing')}</span>}</span>
          </li>
        ))}
      </ul>
      {(of.missing ?? []).map(m => <p key={m} className="missing">{sentence(m)}</p>)}
    </>
  )
}

function Summary({ host }: { host: Host }) {
  const { t } = useTranslation()
  return (
    <Grid hasGutter lg={6}>
      <GridItem>
        <Heading>{t('hosts.about')}</Heading>
        <Facts of={[
          [t('hosts.product'), `${host.product} ${host.version}`],
          [t('hosts.uri'), <code className="wrap">{host.uri}</code>],
          [t('hosts.user'), host.user],
          [t('hosts.maxJobs'), <Count of={host.maxJobs || 4} />],
          [t('hosts.identity'), <code className="wrap">{host.identity}</code>],
        ]} />
      </GridItem>
      <GridItem>
        <Heading>{t('hosts.abilities')}</Heading>
        <Abilities of={host.capabilities} />
      </GridItem>
    </Grid>
  )
}

function Protected({ host }: { host: Host }) {
  const { t } = useTranslation()
  const rows = usePages<Group>((offset, limit) => api.queryOptions('get', '/groups', { params: { query: { host: host.id, offset, limit } } }))
  const columns: Column<Group>[] = [
    { title: t('group.name'), cell: g => <Link to={`/groups/${g.id}`}>{g.name}</Link> },
    { title: t('hosts.role'), cell: g => t(g.sourceHost === host.id || g.sourceHost === host.name ? 'hosts.isSource' : 'hosts.isTarget') },
    { title: t('group.state'), cell: g => <StateLabel state={g.state} paused={g.paused} /> },
    { title: t('group.health'), cell: g => <HealthLabel of={g} /> },
    { title: t('group.machines'), cell: g => <Count of={g.machines?.length ?? 0} /> },
  ]
  return <DataTable label={t('hosts.tab.protected')} rows={rows} columns={columns} rowKey={g => g.id} empty={<Empty title={t('hosts.protectsNothing')} />} />
}

/** What the host shows now; the host itself is asked. */
const useInventory = (host: Host) => api.useQuery('get', '/hosts/{id}/inventory', { params: { path: { id: host.id } } }, { staleTime: 30_000 })

function Machines({ host }: { host: Host }) {
  const { t } = useTranslation()
  const inventory = useInventory(host)
  const filter = useFilter('q')
  const q = (filter.values.q ?? '').toLowerCase()
  const columns: Column<Machine>[] = [
    { title: t('machine.name'), cell: m => m.name },
    { title: t('machine.state'), cell: m => t(`power.${m.state}`) },
    { title: t('machine.cpus'), cell: m => <Count of={m.cpus} /> },
    { title: t('machine.memory'), cell: m => <Bytes of={m.memory} /> },
    { title: t('machine.disks'), cell: m => <Bytes of={(m.disks ?? []).reduce((sum, d) => sum + d.size, 0)} /> },
    { title: t('machine.protected'), cell: m => (m.replica ? t('machine.replica') : m.protected ? <Link to={`/groups/${m.protected}`}>{m.protected}</Link> : '—') },
    { title: t('machine.notes'), cell: m => [...(m.warnings ?? []), ...(m.disks ?? []).flatMap(d => (d.excluded ? [`${d.id}: ${d.excluded}`] : []))].map(sentence).join('; '), width: 30 },
  ]
  return (
    <Answer query={inventory}>
      {i => {
        const machines = (i.machines ?? []).filter(m => m.name.toLowerCase().includes(q))
        return (
          <>
            <FilterBar filter={filter} search={{ name: 'q', label: t('machine.search') }} total={machines.length} />
            <DataTable label={t('hosts.tab.machines')} rows={allRows(machines)} columns={columns} rowKey={m => m.id} />
          </>
        )
      }}
    </Answer>
  )
}

function Networks({ host }: { host: Host }) {
  const { t } = useTranslation()
  const columns: Column<Network>[] = [
    { title: t('network.name'), cell: n => n.name },
    { title: t('network.kind'), cell: n => n.kind },
    { title: t('network.isolated'), cell: n => t(n.isolated ? 'common.yes' : 'common.no') },
  ]
  return <Answer query={useInventory(host)}>{i => <DataTable flat label={t('hosts.tab.networks')} rows={allRows(i.networks)} columns={columns} rowKey={n => n.name} />}</Answer>
}

function Storages({ host }: { host: Host }) {
  const { t } = useTranslation()
  const columns: Column<Storage>[] = [
    { title: t('storage.name'), cell: s => <>{s.name}{s.default && ` (${t('storage.default')})`}</> },
    { title: t('storage.path'), cell: s => <code className="wrap">{s.path}</code> },
    { title: t('storage.use'), cell: s => <StorageBar free={s.free} total={s.total} label={s.name} />, width: 40 },
  ]
  return <Answer query={useInventory(host)}>{i => <DataTable flat label={t('hosts.tab.storage')} rows={allRows(i.storage)} columns={columns} rowKey={s => s.name} />}</Answer>
}

/** How full a storage is; below a tenth of free room it warns, as the alert does. */
export function StorageBar({ free, total, label }: { free: number; total: number; label: string }) {
  const { t } = useTranslation()
  return (
    <>
      <Progress aria-label={label} size="sm" value={total > 0 ? ((total - free) / total) * 100 : 0} measureLocation={ProgressMeasureLocation.none} variant={free < total / 10 ? 'danger' : undefined} />
      <small><Bytes of={free} /> {t('storage.freeOf')} <Bytes of={total} /></small>
    </>
  )
}

export function Checks({ checks }: { checks: DoctorCheck[] }) {
  const { t } = useTranslation()
  const columns: Column<DoctorCheck>[] = [
    { title: t('check.name'), cell: c => c.name },
    { title: t('check.result'), cell: c => <ResultLabel result={c.result} /> },
    { title: t('check.message'), cell: c => sentence(c.message ?? ''), width: 60 },
  ]
  return <DataTable flat label={t('hosts.tab.checks')} rows={allRows(checks)} columns={columns} rowKey={c => c.name} />
}

function Doctor({ host }: { host: Host }) {
  const { t } = useTranslation()
  const { may } = useMe()
  const doctor = api.useQuery('get', '/hosts/{id}/doctor', { params: { path: { id: host.id } } }, { enabled: false })
  return (
    <>
      <Flex className="page-alert"><p>{t('hosts.checksLead')}</p><Button variant="secondary" isLoading={doctor.isFetching} isDisabled={doctor.isFetching} onClick={() => void doctor.refetch()}>{t('hosts.check')}</Button></Flex>
      {doctor.error ? <ProblemAlert error={doctor.error} /> : doctor.data ? <Checks checks={doctor.data.checks ?? []} /> : doctor.isFetching && <Loading />}
      {may('administrator') && <Answer query={useInventory(host)}>{i => <DataPaths host={host} storages={(i.storage ?? []).map(s => s.name)} />}</Answer>}
    </>
  )
}
