// Alerts: what is wrong now and needs a person, the worst first.
import CheckCircleIcon from '@patternfly/react-icons/dist/esm/icons/check-circle-icon'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router-dom'
import { api } from '../api/client'
import type { ActiveAlert } from '../api/schema'
import { SeverityLabel } from '../parts/labels'
import { Answer, Empty, Page, sentence } from '../parts/page'
import { allRows, DataTable, type Column } from '../parts/table'
import { Age } from '../parts/values'
import { useMe } from '../session'
import { useSaid, type Said } from '../words/codes'

export function Alerts() {
  const { t } = useTranslation()
  const say = useSaid()
  const alerts = api.useQuery('get', '/alerts')
  const columns: Column<ActiveAlert>[] = [
    { title: t('alerts.severity'), cell: a => <SeverityLabel severity={a.severity} />, width: 15 },
    { title: t('alerts.about'), cell: a => <AboutLink alert={a} />, width: 15 },
    { title: t('alerts.message'), cell: a => <Message said={say('alert', a.kind, sentence(a.message))} hint={a.hint} /> },
    { title: t('alerts.since'), cell: a => <Age since={a.since} />, width: 15 },
  ]
  return (
    <Page title={t('nav.alerts')} lead={t('alerts.lead')}>
      <Answer query={alerts}>
        {list => <DataTable label={t('nav.alerts')} rows={allRows(list)} columns={columns} rowKey={a => a.id} empty={<Empty title={t('alerts.none')} icon={CheckCircleIcon} />} />}
      </Answer>
    </Page>
  )
}

const Message = ({ said, hint }: { said: Said; hint: string }) => (
  <>
    <strong>{said.title}</strong>
    {said.detail && <p>{said.detail}</p>}
    {hint && <p>{hint}</p>}
  </>
)

/** To the group, the host, or what of the appliance an alert is about. */
export function AboutLink({ alert: a }: { alert: ActiveAlert }) {
  const { t } = useTranslation()
  const { may } = useMe()
  if (a.group) return <Link to={`/groups/${a.group}`}>{a.groupName}</Link>
  if (a.host) return <Link to={`/hosts/${a.host}`}>{a.hostName}</Link>
  return may('administrator') ? <Link to="/settings?tab=certificate">{t('alerts.appliance')}</Link> : <>{t('alerts.appliance')}</>
}
