// Settings: one tab for each thing that an administrator sets up once.
import { useTranslation } from 'react-i18next'
import { Page, PageTabs } from '../../parts/page'
import { Bandwidth } from './bandwidth'
import { CertificateSettings } from './certificate'
import { Notifications } from './notifications'
import { SignIn } from './sign-in'
import { System } from './system'
import { Users } from './users'

export function Settings() {
  const { t } = useTranslation()
  return (
    <Page title={t('nav.settings')}>
      <PageTabs label={t('nav.settings')} tabs={[
        { key: 'users', title: t('settings.users'), content: () => <Users /> },
        { key: 'sign-in', title: t('settings.signIn'), content: () => <SignIn /> },
        { key: 'notifications', title: t('settings.notifications'), content: () => <Notifications /> },
        { key: 'bandwidth', title: t('settings.bandwidth'), content: () => <Bandwidth /> },
        { key: 'certificate', title: t('settings.certificate'), content: () => <CertificateSettings /> },
        { key: 'system', title: t('settings.system'), content: () => <System /> },
      ]} />
    </Page>
  )
}
