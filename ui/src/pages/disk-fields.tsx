// The disks of a machine: which of them are protected, and what the replica's are attached to.
import { Alert } from '@patternfly/react-core'
import { useTranslation } from 'react-i18next'
import { api, client } from '../api/client'
import type { Disk, Group, GroupDisk, GroupMachine } from '../api/schema'
import { CheckField, ProblemBelow, SelectField } from '../parts/forms'
import { Answer, Heading } from '../parts/page'
import { useFormat } from '../parts/values'
import { MachineWishes } from './boot'
import { bootDisk, known, leftOut, wish } from './disks'
import { GroupForm } from './group-settings'
import { changesDisks } from './next'
import { useUnable } from './policy'

export const useInventory = (host: string) => api.useQuery('get', '/hosts/{id}/inventory', { params: { path: { id: host } } }, { enabled: host !== '', staleTime: 60_000 })

/** In short, what is wished for the disks of a machine. */
export function useDiskWords() {
  const { t } = useTranslation()
  return (wishes: GroupDisk[] | null | undefined) => {
    const out = leftOut(wishes)
    return [...(out.length ? [t('disks.without', { disks: out.join(', ') })] : []), ...(wishes ?? []).filter(d => d.bus && !d.leaveOut).map(d => t('disks.on', { disk: d.id, bus: d.bus }))]
  }
}

interface Props {
  machine: string
  disks: Disk[]
  wishes: GroupDisk[] | null | undefined
  /** As the appliance names them, such as machines[0].disks. */
  path: string
  /** A replica that is there keeps its buses. */
  buses?: boolean
  onChange: (wishes: GroupDisk[]) => void
}

export function DiskFields({ machine, disks, wishes, path, buses, onChange }: Props) {
  const { t } = useTranslation()
  const f = useFormat()
  const boots = bootDisk(disks)
  return (
    <fieldset className="disks">
      <legend>{t('disks.of', { machine })}</legend>
      <ProblemBelow path={path} />
      {known(disks, wishes).map(d => {
        const at = wishes?.findIndex(w => w.id === d.id) ?? -1
        const own = wishes?.[at]
        const out = !!own?.leaveOut
        const facts = d.size === undefined ? t('disks.gone') : [f.bytes(d.size), d.bus, d.id === boots && t('disks.boots')].filter(Boolean).join(', ')
        return (
          <div key={d.id} className="row-of-fields">
            <CheckField label={t('disks.protect', { disk: d.id })} value={!out && !d.excluded} disabled={!!d.excluded} onChange={on => onChange(wish(wishes, d.id, { leaveOut: on ? undefined : true }))}
              hint={<>{facts}{d.excluded && <> · {t('disks.excluded', { why: d.excluded })}</>}{out && d.id === boots && <> · <strong>{t('disks.needed')}</strong></>}</>} />
            {buses && !out && !d.excluded && (
              <SelectField label={t('disks.bus', { disk: d.id })} path={`${path}[${at}].bus`} value={own?.bus ?? ''} onChange={bus => onChange(wish(wishes, d.id, { bus: (bus || undefined) as GroupDisk['bus'] }))}
                options={[['', t('protect.asSource')], ...(['virtio', 'scsi', 'sata'] as const).map(b => [b, b] as const)]} />
            )}
          </div>
        )
      })}
    </fieldset>
  )
}

/** Whether the guest of a machine is converted where its replica starts. Can always be switched off, and on where the host can. */
export function ConvertField({ machine, target, path, value, onChange }: { machine: string; target: string; path: string; value?: boolean; onChange: (on: boolean | undefined) => void }) {
  const { t } = useTranslation()
  const unable = useUnable(target, 'convert')
  return (
    <>
      <CheckField label={t('protect.convert', { machine })} value={!!value} disabled={unable && !value} onChange={on => onChange(on || undefined)}
        hint={t(unable ? 'protect.convertUnable' : 'protect.convertHint', { host: target })} />
      <ProblemBelow path={path} />
    </>
  )
}

/** The disks of a group that stands. */
export function DiskSettings({ group }: { group: Group }) {
  const { t } = useTranslation()
  const words = useDiskWords()
  const inventory = useInventory(group.sourceHost)
  const machines = group.machines ?? []
  const member = (m: GroupMachine) => group.members?.[machines.findIndex(o => o.vm === m.vm)]
  const name = (m: GroupMachine) => member(m)?.name ?? m.vm
  return (
    <section className="below-form">
      <Heading>{t('disks.title')}</Heading>
      <p>{t('disks.lead')}</p>
      {!changesDisks(group) && <Alert isInline isPlain variant="info" component="h3" title={t('disks.notHome')} />}
      <Answer query={inventory}>
        {here => (
          <GroupForm group={group} value={g => ({ machines: (g.machines ?? []).map(({ vm, disks, convert }) => ({ vm, disks: disks ?? [], convert })) })} names={{ machines: t('disks.title') }}
            save={async (draft, ifMatch) => (await client.PUT('/groups/{id}', {
              params: { path: { id: group.id }, header: { 'If-Match': ifMatch } },
              body: { policy: group.policy, machines: draft.machines.map((m, i) => ({ vm: m.vm, stage: machines[i]?.stage, checks: machines[i]?.checks, leaveOut: leftOut(m.disks), convert: !!m.convert })) },
            })).data}>
            {(draft, set) => (
              <fieldset disabled={!changesDisks(group)} className="plain">
                <MachineWishes machines={draft.machines} onChange={list => set({ machines: list.map(({ vm, disks, convert }) => ({ vm, disks: disks ?? [], convert })) })} name={name} fields={['leaveOut', 'convert']}
                  summary={m => [words(m.disks).join(', ') || t('disks.all'), ...(m.convert ? [t('protect.converted')] : [])].join(', ')}>
                  {(m, path, put) => (
                    <>
                      <DiskFields machine={name(m)} disks={(here.machines ?? []).find(o => o.id === member(m)?.sourceVM)?.disks ?? []} wishes={m.disks} path={`${path}.leaveOut`} onChange={disks => put({ disks })} />
                      <ConvertField machine={name(m)} target={group.targetHost} path={`${path}.convert`} value={m.convert} onChange={convert => put({ convert })} />
                    </>
                  )}
                </MachineWishes>
              </fieldset>
            )}
          </GroupForm>
        )}
      </Answer>
    </section>
  )
}
