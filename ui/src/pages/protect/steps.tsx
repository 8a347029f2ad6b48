// The pages of the wizard on which machines, hosts and what surrounds them are chosen.
import { Card, CardBody, Checkbox, Form, Label, Radio, SearchInput, ToggleGroup, ToggleGroupItem } from '@patternfly/react-core'
import { useEffect, useId, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api } from '../../api/client'
import type { GroupMachine, Host, Inventory, Machine } from '../../api/schema'
import { NumberField, SelectField, TextField } from '../../parts/forms'
import { ConnectedLabel } from '../../parts/labels'
import { Answer, Empty, Heading } from '../../parts/page'
import { allRows, DataTable, type Column } from '../../parts/table'
import { useFormat } from '../../parts/values'
import { MachineWishes } from '../boot'
import { ConvertField, DiskFields, useDiskWords, useInventory } from '../disk-fields'
import { PolicyFields } from '../policy'
import { RunbookFields } from '../runbook'
import { change, from, to, toggle, type Draft } from './draft'

export interface StepProps {
  draft: Draft
  set: (d: Draft) => void
}

export function HostStep({ draft, set }: StepProps) {
  const { t } = useTranslation()
  const hosts = api.useQuery('get', '/hosts')
  return (
    <Form onSubmit={e => e.preventDefault()}>
      <TextField label={t('protect.name')} path="name" required maxLength={40} value={draft.spec.name} hint={t('protect.nameHint')} onChange={name => set(change(draft, { name }))} />
      <Answer query={hosts}>
        {list => <HostChoice legend={t('protect.sourceHost')} hosts={(list ?? []).filter(h => h.capabilities.source)} value={draft.spec.sourceHost} onChange={name => set(from(draft, name))} />}
      </Answer>
    </Form>
  )
}

function HostChoice({ legend, hosts, value, onChange }: { legend: string; hosts: Host[]; value: string; onChange: (name: string) => void }) {
  const { t } = useTranslation()
  const id = useId()
  if (hosts.length === 0) return <Empty title={t('protect.noHost')} />
  return (
    <fieldset className="tiles">
      <legend>{legend}</legend>
      <div className="tiles-row">
        {hosts.map(h => (
          <Card key={h.id} className={value === h.name ? 'tile tile-chosen' : 'tile'} isCompact>
            <CardBody>
              <Radio id={`${id}-${h.id}`} name={id} label={h.name} isChecked={value === h.name} isDisabled={!h.connected && value !== h.name} onChange={() => onChange(h.name)}
                description={<>{h.product} {h.version} {!h.connected && <ConnectedLabel connected={false} />}</>} />
            </CardBody>
          </Card>
        ))}
      </div>
    </fieldset>
  )
}

/** Why a machine cannot be chosen. */
const taken = (m: Machine) => !!m.protected || !!m.replica

export function MachinesStep({ draft, set }: StepProps) {
  const { t } = useTranslation()
  return <Answer query={useInventory(draft.spec.sourceHost)}>{i => ((i.machines ?? []).length ? <MachineChoice all={i.machines!} draft={draft} set={set} /> : <Empty title={t('protect.noMachines')} />)}</Answer>
}

function MachineChoice({ all, draft, set }: StepProps & { all: Machine[] }) {
  const { t } = useTranslation()
  const f = useFormat()
  const [q, setQ] = useState('')
  const [show, setShow] = useState<'free' | 'all' | 'chosen'>('free')
  const chosen = new Set(draft.spec.machines.map(m => m.vm))
  const text = q.trim().toLowerCase()
  const shown = all.filter(m => m.name.toLowerCase().includes(text) && (show === 'all' || (show === 'free' ? !taken(m) : chosen.has(m.id))))
  const free = shown.filter(m => !taken(m))
  const size = (m: Machine) => (m.disks ?? []).reduce((n, d) => n + (d.excluded ? 0 : d.size), 0)
  const columns: Column<Machine>[] = [
    { title: t('machine.name'), width: 30, cell: m => <Checkbox id={`machine-${m.id}`} label={m.name} isChecked={chosen.has(m.id)} isDisabled={taken(m)} onChange={(_, on) => set(toggle(draft, [m], on))} /> },
    { title: t('machine.state'), cell: m => t(`power.${m.state as 'off'}`) },
    { title: t('machine.cpus'), cell: m => m.cpus },
    { title: t('machine.memory'), cell: m => f.bytes(m.memory) },
    { title: t('machine.disks'), cell: m => `${(m.disks ?? []).length} · ${f.bytes(size(m))}` },
    { title: t('machine.notes'), cell: m => <>{m.protected && <Label color="blue">{t('protect.isProtected', { group: m.protected })}</Label>}{m.replica && <Label>{t('machine.replica')}</Label>} {(m.warnings ?? []).join(' ')}</> },
  ]
  const every = free.length > 0 && free.every(m => chosen.has(m.id))
  return (
    <>
      <div className="choose-bar">
        <SearchInput aria-label={t('machine.search')} placeholder={t('machine.search')} value={q} onChange={(_, v) => setQ(v)} onClear={() => setQ('')} />
        <ToggleGroup aria-label={t('protect.show')}>
          {(['free', 'all', 'chosen'] as const).map(s => <ToggleGroupItem key={s} text={t(`protect.shown.${s}`)} isSelected={show === s} onChange={() => setShow(s)} />)}
        </ToggleGroup>
        <Checkbox id="machines-all" label={t('protect.allShown', { count: free.length, n: f.count(free.length) })} isChecked={every} isDisabled={free.length === 0} onChange={(_, on) => set(toggle(draft, free, on))} />
        <strong role="status">{t('protect.chosen', { count: chosen.size, n: f.count(chosen.size) })}</strong>
      </div>
      <DataTable flat={shown.length <= 20} label={t('group.machines')} columns={columns} rows={allRows(shown)} rowKey={m => m.id} empty={<p className="none">{t('table.none')}</p>} />
    </>
  )
}

export function TargetStep({ draft, set }: StepProps) {
  const { t } = useTranslation()
  const hosts = api.useQuery('get', '/hosts')
  const source = useInventory(draft.spec.sourceHost)
  const target = useInventory(draft.spec.targetHost)
  return (
    <Form onSubmit={e => e.preventDefault()}>
      <Answer query={hosts}>
        {list => <HostChoice legend={t('protect.targetHost')} hosts={(list ?? []).filter(h => h.capabilities.target && h.name !== draft.spec.sourceHost)} value={draft.spec.targetHost} onChange={name => set(to(draft, name))} />}
      </Answer>
      {draft.spec.targetHost !== '' && <Answer query={target}>{there => <Answer query={source}>{here => <Places draft={draft} set={set} here={here} there={there} />}</Answer>}</Answer>}
    </Form>
  )
}

function Places({ draft, set, here, there }: StepProps & { here: Inventory; there: Inventory }) {
  const { t } = useTranslation()
  const f = useFormat()
  const diskWords = useDiskWords()
  const { spec } = draft
  const machines = (here.machines ?? []).filter(m => spec.machines.some(o => o.vm === m.id))
  const used = [...new Set(machines.flatMap(m => (m.nics ?? []).map(n => n.network)))].filter(Boolean).sort()
  const known = (there.networks ?? []).map(n => n.name)
  const maps = spec.networks ?? []
  const map = (network: string, name: string) => set(change(draft, { networks: [...maps.filter(n => n.from !== network), ...(name ? [{ from: network, to: name }] : [])] }))
  // What has the same name at the target is meant, as long as nobody says otherwise.
  const same = used.filter(n => known.includes(n) && !maps.some(m => m.from === n))
  useEffect(() => {
    if (same.length > 0) set(change(draft, { networks: [...maps, ...same.map(n => ({ from: n, to: n }))] }))
  }, [same.join()])
  const byId = new Map(machines.map(m => [m.id, m]))
  return (
    <>
      <SelectField label={t('protect.storage')} path="storage" value={spec.storage ?? ''} onChange={storage => set(change(draft, { storage }))}
        options={[['', t('protect.defaultStorage')], ...(there.storage ?? []).map(s => [s.name, t('protect.storageFree', { name: s.name, free: f.bytes(s.free), total: f.bytes(s.total) })] as const)]} />
      {used.length > 0 && <Heading>{t('protect.networks')}</Heading>}
      {used.map(n => {
        const at = maps.findIndex(m => m.from === n)
        return (
          <SelectField key={n} label={t('protect.network', { name: n })} path={at < 0 ? `networks.${n}` : `networks[${at}]`} value={maps[at]?.to ?? ''} onChange={v => map(n, v)}
            hint={!maps[at] && !known.includes(n) ? t('protect.networkMissing', { name: n, host: spec.targetHost }) : undefined}
            options={[...(known.includes(n) ? [] : [['', t('protect.sameNetwork', { name: n })] as const]), ...(there.networks ?? []).map(o => [o.name, o.isolated ? `${o.name} (${t('network.isolated')})` : o.name] as const)]} />
        )
      })}
      <Heading>{t('protect.wishes')}</Heading>
      <MachineWishes machines={spec.machines} onChange={machines => set(change(draft, { machines }))} name={m => draft.names[m.vm] ?? m.vm} fields={['replicaName', 'cpus', 'memory', 'nicModel', 'disks', 'convert']}
        summary={m => [...wished(m).map(([k, v]) => `${t(`protect.${k}`)} ${k === 'memory' ? f.bytes(v as number) : v}`), ...diskWords(m.disks), ...(m.convert ? [t('protect.converted')] : [])].join(', ') || t('protect.asSource')}>
        {(m, path, put) => (
          <div className="checks">
            <div className="row-of-fields">
              <TextField label={t('protect.replicaName')} path={`${path}.replicaName`} maxLength={63} placeholder={draft.names[m.vm]} value={m.replicaName ?? ''} onChange={replicaName => put({ replicaName })} />
              <NumberField label={t('protect.cpus')} path={`${path}.cpus`} max={1024} hint={t('protect.sourceHas', { n: byId.get(m.vm)?.cpus })} value={m.cpus ?? 0} onChange={cpus => put({ cpus })} />
              <NumberField label={t('protect.memory')} path={`${path}.memory`} unit="MiB" hint={t('protect.sourceHas', { n: f.bytes(byId.get(m.vm)?.memory ?? 0) })} value={Math.round((m.memory ?? 0) / 2 ** 20)} onChange={mib => put({ memory: mib * 2 ** 20 })} />
              <SelectField label={t('protect.nicModel')} path={`${path}.nicModel`} value={m.nicModel ?? ''} onChange={v => put({ nicModel: v || undefined })}
                options={[['', t('protect.asSource')], ...(['virtio', 'e1000', 'e1000e', 'rtl8139', 'vmxnet3'] as const).map(k => [k, k] as const)]} />
            </div>
            <DiskFields machine={draft.names[m.vm] ?? m.vm} disks={byId.get(m.vm)?.disks ?? []} wishes={m.disks} path={`${path}.disks`} buses onChange={disks => put({ disks })} />
            <ConvertField machine={draft.names[m.vm] ?? m.vm} target={spec.targetHost} path={`${path}.convert`} value={m.convert} onChange={convert => put({ convert })} />
          </div>
        )}
      </MachineWishes>
    </>
  )
}

const wished = (m: GroupMachine) => (['replicaName', 'cpus', 'memory', 'nicModel'] as const).map(k => [k, m[k]] as const).filter(([, v]) => v)

export const PolicyStep = ({ draft, set }: StepProps) => (
  <Form onSubmit={e => e.preventDefault()}>
    <PolicyFields policy={draft.spec.policy} target={draft.spec.targetHost} onChange={policy => set(change(draft, { policy: { ...draft.spec.policy, ...policy } }))} />
  </Form>
)

export const BootStep = ({ draft, set }: StepProps) => (
  <Form onSubmit={e => e.preventDefault()}>
    <RunbookFields machines={draft.spec.machines} runbook={draft.spec.runbook ?? { stages: [] }} name={m => draft.names[m.vm] ?? m.vm} onChange={spec => set(change(draft, spec))} />
  </Form>
)
