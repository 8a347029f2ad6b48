// The wizard that protects machines, and its last page: what the appliance found about what was wished.
import { Alert, Button, useWizardContext, Wizard, WizardStep } from '@patternfly/react-core'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useRef, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { useNavigate } from 'react-router-dom'
import { api, client, key, Problem, refresh } from '../../api/client'
import type { PreflightCheck } from '../../api/schema'
import { Confirm, useSay } from '../../parts/dialogs'
import { FieldProblems } from '../../parts/forms'
import { Answer, Facts, Heading, Page, ProblemAlert, sentence } from '../../parts/page'
import { useFormat } from '../../parts/values'
import { alike } from '../alike'
import { useRetentionWords, useUnable } from '../policy'
import { useSaid } from '../../words/codes'
import { clear, complete, empty, furthest, load, save, stepOf, steps, violations, type Draft, type Step } from './draft'
import { BootStep, HostStep, MachinesStep, PolicyStep, TargetStep, type StepProps } from './steps'

const pages = { host: HostStep, machines: MachinesStep, target: TargetStep, policy: PolicyStep, boot: BootStep }

export function Protect() {
  const { t } = useTranslation()
  const go = useNavigate()
  const say = useSay()
  const [draft, setDraft] = useState(() => load(sessionStorage))
  const [leaving, setLeaving] = useState(false)
  const latest = useRef(draft)
  const sending = useRef(false)
  const set = (d: Draft) => {
    latest.current = d
    save(sessionStorage, d)
    setDraft(d)
  }
  const create = api.useMutation('post', '/groups')
  const last = draft.step === 'review'
  const preflight = useQuery({
    queryKey: ['post', '/preflight', draft.once], enabled: last, placeholderData: keepPreviousData, gcTime: 0, staleTime: 0,
    queryFn: async () => (await client.POST('/preflight', { body: draft.spec })).data!,
  })
  const looking = last && (preflight.isFetching || preflight.isPlaceholderData)
  const wrong = [...violations(preflight.data?.checks ?? []), ...(create.error instanceof Problem ? create.error.violations : [])]
  const end = () => {
    clear(sessionStorage)
    setDraft(empty())
  }
  const protect = () => {
    if (sending.current) return // a second click comes before the button is drawn anew
    sending.current = true
    create.mutate({ body: draft.spec, headers: { 'Idempotency-Key': draft.once } }, {
      onSuccess: group => {
        end()
        void refresh('/groups', '/overview', '/hosts')
        say(t('protect.done', { group: group.name }))
        void go(`/groups/${group.id}`, { replace: true })
      },
      // It was refused: the next attempt is another one. When nobody answered, it is the same one.
      onError: e => { if ((e as unknown) instanceof Problem) set({ ...latest.current, once: key() }) },
      onSettled: () => { sending.current = false },
    })
  }
  const reach = steps.indexOf(furthest(draft))
  const footer = (s: Step) => ({
    nextButtonText: t(s === 'review' ? 'protect.go' : 'protect.next'), backButtonText: t('protect.back'), cancelButtonText: t('common.cancel'),
    isNextDisabled: s === 'review' ? looking || !preflight.data?.ready || create.isPending : !complete(draft, s),
    nextButtonProps: s === 'review' ? { isLoading: create.isPending } : undefined,
  })
  const props: StepProps = { draft, set }
  return (
    <Page title={t('protect.title')} lead={t('protect.lead')} within={[['/groups', t('nav.groups')]]}>
      <FieldProblems violations={wrong}>
        <Wizard className="protect" height="max(30rem, 100dvh - 17rem)" navAriaLabel={t('protect.steps')} startIndex={Math.min(steps.indexOf(draft.step), reach) + 1} onSave={protect}
          onClose={() => setLeaving(true)} onStepChange={(_, to) => set({ ...latest.current, step: to.id as Step })}>
          {steps.map((s, i) => {
            const Body = s === 'review' ? undefined : pages[s]
            return (
              <WizardStep key={s} id={s} name={t(`protect.step.${s}`)} footer={footer(s)} isDisabled={i > reach} status={wrong.some(v => stepOf(v.field) === s) ? 'error' : 'default'}>
                <Heading>{t(`protect.step.${s}`)}</Heading>
                {Body ? <Body {...props} /> : (
                  <>
                    {create.error ? <ProblemAlert error={create.error} /> : null}
                    <Sum draft={draft} bytes={preflight.data?.bytes} />
                    <Answer query={preflight}>{p => <Findings checks={p.checks ?? []} looking={looking} again={() => void preflight.refetch()} />}</Answer>
                  </>
                )}
              </WizardStep>
            )
          })}
        </Wizard>
      </FieldProblems>
      {leaving && (
        <Confirm title={t('protect.leave')} confirm={t('protect.leaveYes')} danger onClose={() => setLeaving(false)} onConfirm={async () => { end(); void go('/groups') }}>
          <p>{t('protect.leaveText')}</p>
        </Confirm>
      )}
    </Page>
  )
}

function Sum({ draft: { spec }, bytes }: { draft: Draft; bytes?: number }) {
  const { t } = useTranslation()
  const f = useFormat()
  const words = useRetentionWords()
  const unable = useUnable(spec.targetHost, 'compression')
  return (
    <Facts label={t('protect.step.review')} of={[
      [t('group.name'), spec.name],
      [t('group.machines'), f.count(spec.machines.length)],
      [t('group.way'), `${spec.sourceHost} → ${spec.targetHost}${spec.storage ? ` (${spec.storage})` : ''}`],
      [t('policy.rpo'), f.duration(spec.policy.rpoSeconds)],
      [t('policy.retention'), spec.policy.retention?.length ? spec.policy.retention.map((tier, i) => <div key={i}>{words(tier)}</div>) : t('retention.default')],
      [t('policy.consistency'), t(`consistency.${(spec.policy.consistency || 'crash') as 'crash'}`)],
      [t('policy.compression'), spec.policy.compression === 'zstd' && (unable ? t('policy.compressionUnable', { host: spec.targetHost }) : t('common.yes'))],
      [t('protect.bytes'), bytes !== undefined && f.bytes(bytes)],
    ]} />
  )
}

function Findings({ checks, looking, again }: { checks: PreflightCheck[]; looking: boolean; again: () => void }) {
  const { t } = useTranslation()
  const { goToStepById } = useWizardContext()
  const say = useSaid()
  const mend = (field: string) => {
    goToStepById(stepOf(field))
    // The page is drawn first.
    setTimeout(() => document.querySelector<HTMLElement>('.protect [aria-invalid=true]')?.focus(), 100)
  }
  const of = (level: PreflightCheck['level']) => checks.filter(c => c.level === level)
  const found = [...alike(of('error'), c => c.message), ...alike(of('warning'), c => c.message)]
  return (
    <div className="findings" aria-busy={looking}>
      <p role="status" className="findings-sum">
        {looking ? t('protect.looking') : of('error').length > 0 ? t('protect.errors', { count: of('error').length }) : of('warning').length > 0 ? t('protect.warnings', { count: of('warning').length }) : t('protect.ready')}
      </p>
      {found.map((c, i) => {
        const { title, detail } = say('preflight', c.code, c.machine && !c.message.includes(c.machine) ? `${c.machine}: ${c.message}` : sentence(c.message))
        return (
          <Alert key={i} isInline component="h3" variant={c.level === 'error' ? 'danger' : 'warning'} title={title}
            actionLinks={c.field && <Button variant="link" isInline onClick={() => mend(c.field!)}>{t('protect.mend', { step: t(`protect.step.${stepOf(c.field)}`) })}</Button>}>
            {detail && <p>{detail}</p>}
            {c.hint && <p>{c.hint}</p>}
            {c.others.length > 0 && <p>{t('preview.alike', { machines: c.others.join(', ') })}</p>}
          </Alert>
        )
      })}
      {of('ok').length > 0 && <details className="findings-good"><summary>{t('protect.good', { count: of('ok').length })}</summary><ul>{of('ok').map((c, i) => {
        const { title, detail } = say('preflight', c.code, sentence(c.message))
        return <li key={i}>{detail ? `${title}: ${detail}` : title}</li>
      })}</ul></details>}
      <Button variant="secondary" isDisabled={looking} onClick={again}>{t('protect.again')}</Button>
    </div>
  )
}
