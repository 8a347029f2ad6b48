// Trying the ways to the content of a host's disks: which of them work there, how fast, and why the others do not.
import { Button } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api } from '../api/client'
import type { DataPath, Host } from '../api/schema'
import { ProblemForm, SelectField } from '../parts/forms'
import { Heading, Loading, sentence } from '../parts/page'
import { ResultLabel } from '../parts/labels'
import { allRows, DataTable, type Column } from '../parts/table'
import { useFormat } from '../parts/values'

/** It makes a disk on the host, so that only administrators may ask for it, and it never starts by itself. */
export function DataPaths({ host, storages }: { host: Host; storages: string[] }) {
  const { t } = useTranslation()
  const [storage, setStorage] = useState('')
  const probe = api.useMutation('post', '/hosts/{id}/data-paths')
  return (
    <section className="data-paths">
      <Heading>{t('paths.title')}</Heading>
      <p>{t('paths.lead')}</p>
      <ProblemForm error={probe.error} onSubmit={() => probe.mutate({ params: { path: { id: host.id } }, body: storage ? { storage } : {} })}>
        <SelectField label={t('paths.storage')} path="storage" value={storage} onChange={setStorage} options={[['', t('paths.defaultStorage')], ...storages.map((s): [string, string] => [s, s])]} />
        <div><Button type="submit" variant="secondary" isLoading={probe.isPending} isDisabled={probe.isPending}>{t('paths.try')}</Button></div>
      </ProblemForm>
      <div aria-live="polite">{probe.isPending ? <Loading /> : probe.data && <Ways paths={probe.data.paths ?? []} />}</div>
    </section>
  )
}

function Ways({ paths }: { paths: DataPath[] }) {
  const { t } = useTranslation()
  const { rate } = useFormat()
  const moves = (perSecond: number) => (perSecond > 0 ? rate(perSecond) : '—')
  const used = (p: DataPath) => [p.usedToRead && t('paths.usedToRead'), p.usedToWrite && t('paths.usedToWrite')].filter(Boolean).join(', ')
  const columns: Column<DataPath>[] = [
    { title: t('paths.way'), cell: p => p.name },
    { title: t('check.result'), cell: p => <ResultLabel result={p.problem ? 'failed' : 'passed'} /> },
    { title: t('paths.read'), cell: p => moves(p.readPerSecond) },
    { title: t('paths.write'), cell: p => moves(p.writePerSecond) },
    { title: t('paths.used'), cell: p => used(p) || '—' },
    { title: t('check.message'), cell: p => [p.problem && sentence(p.problem), p.hint].filter(Boolean).join('. '), width: 40 },
  ]
  return <DataTable flat label={t('paths.title')} rows={allRows(paths)} columns={columns} rowKey={p => p.name} />
}
