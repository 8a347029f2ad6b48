// The list of hosts.
import { useTranslation } from 'react-i18next'
import { api } from '../api/client'
import type { Host } from '../api/schema'
import { ConnectedLabel } from '../parts/labels'
import { Answer, Empty, Page } from '../parts/page'
import { allRows, DataTable, type Column } from '../parts/table'

export function Hosts() {
  const { t } = useTranslation()
  const hosts = api.useQuery('get', '/hosts')
  const columns: Column<Host>[] = [
    { title: t('hosts.name'), cell: h => h.name },
    { title: t('hosts.state'), cell: h => <ConnectedLabel connected={h.connected} /> },
    { title: t('hosts.product'), cell: h => `${h.product} ${h.version}` },
    { title: t('hosts.uri'), cell: h => h.uri },
  ]
  return (
    <Page title={t('nav.hosts')} lead={t('hosts.lead')}>
      <Answer query={hosts}>
        {list => <DataTable flat label={t('nav.hosts')} rows={allRows(list ?? [])} columns={columns} rowKey={h => h.id} empty={<Empty title={t('hosts.none')}>{t('hosts.noneHint')}</Empty>} />}
      </Answer>
    </Page>
  )
}
