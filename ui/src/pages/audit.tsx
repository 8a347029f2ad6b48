// The audit log: every change and every attempt, who made it and from where.
import { Button, Modal, ModalBody, ModalHeader } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router-dom'
import { api } from '../api/client'
import type { AuditEntry } from '../api/schema'
import { OutcomeLabel } from '../parts/labels'
import { Empty, Facts, Page } from '../parts/page'
import { DataTable, FilterBar, useFilter, usePages, type Column } from '../parts/table'
import { Moment } from '../parts/values'

const days = [1, 7, 30, 365] as const

export function Audit() {
  const { t } = useTranslation()
  const filter = useFilter('q', 'user', 'days')
  const { q, user, days: back } = filter.values
  const [shown, setShown] = useState<AuditEntry>()
  // Whole days, so that the question stays the same while the page is open.
  const from = back && new Date(new Date().setHours(0, 0, 0, 0) - (Number(back) - 1) * 86_400_000).toISOString()
  const users = api.useQuery('get', '/users')
  const rows = usePages<AuditEntry>((offset, limit) => api.queryOptions('get', '/audit', { params: { query: { q, user, from, offset, limit } } }))
  const columns: Column<AuditEntry>[] = [
    { title: t('audit.time'), cell: e => <Moment at={e.time} />, width: 20 },
    { title: t('audit.user'), cell: e => e.user },
    { title: t('audit.action'), cell: e => <Button variant="link" isInline onClick={() => setShown(e)}>{e.action}</Button> },
    { title: t('audit.subject'), cell: e => e.subject ?? '' },
    { title: t('audit.outcome'), cell: e => <OutcomeLabel outcome={e.outcome} /> },
    { title: t('audit.source'), cell: e => e.source },
  ]
  return (
    <Page title={t('nav.audit')} lead={t('audit.lead')} actions={<Button variant="secondary" component="a" href="/api/v1/audit/export" download="understudy-audit.ndjson">{t('audit.export')}</Button>}>
      <FilterBar filter={filter} search={{ name: 'q', label: t('audit.search') }} total={rows.total} choices={[
        { name: 'user', label: t('audit.user'), options: (users.data ?? []).map(u => [u.name, u.name]) },
        { name: 'days', label: t('audit.span'), options: days.map(d => [String(d), t('audit.days', { count: d })]) },
      ]} />
      <DataTable label={t('nav.audit')} rows={rows} columns={columns} rowKey={e => String(e.id)} empty={<Empty title={t('audit.none')} />} />
      {shown && <Entry entry={shown} onClose={() => setShown(undefined)} />}
    </Page>
  )
}

function Entry({ entry: e, onClose }: { entry: AuditEntry; onClose: () => void }) {
  const { t } = useTranslation()
  const json = (v: unknown) => (v === undefined || v === null ? undefined : <pre className="json">{JSON.stringify(v, null, 2)}</pre>)
  const facts: [string, React.ReactNode][] = [
    [t('audit.time'), <Moment at={e.time} />],
    [t('audit.user'), `${e.user} (${t(`method.${e.method}`)}, ${e.source})`],
    [t('audit.subject'), e.subject],
    [t('audit.job'), e.job && <Link to={`/jobs/${e.job}`}>{e.job}</Link>],
    [t('audit.outcome'), <><OutcomeLabel outcome={e.outcome} /> {e.message}</>],
    [t('audit.before'), json(e.before)],
    [t('audit.after'), json(e.after)],
    [t('audit.hash'), <code className="wrap">{e.hash}</code>],
  ]
  return (
    <Modal isOpen variant="medium" onClose={onClose} aria-labelledby="audit-entry">
      <ModalHeader title={e.action} labelId="audit-entry" />
      <ModalBody tabIndex={0} aria-labelledby="audit-entry">
        <Facts of={facts} />
      </ModalBody>
    </Modal>
  )
}
