// The frame around all pages: masthead, navigation, the state of the connection, and the page itself.
import {
  Alert, Dropdown, DropdownItem, DropdownList, Masthead, MastheadBrand, MastheadContent, MastheadMain, MastheadToggle, MenuToggle, Nav, NavItem,
  NavList, Page, PageSidebar, PageSidebarBody, PageToggleButton, SkipToContent, Toolbar, ToolbarContent, ToolbarGroup, ToolbarItem,
} from '@patternfly/react-core'
import BarsIcon from '@patternfly/react-icons/dist/esm/icons/bars-icon'
import UserIcon from '@patternfly/react-icons/dist/esm/icons/user-icon'
import { Suspense, useEffect, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, Navigate, Route, Routes, useLocation, useNavigate } from 'react-router-dom'
import { client, queries } from './api/client'
import { Cache, listen, type Connection } from './api/events'
import { routes } from './pages'
import { Empty, Loading, Mishap } from './parts/page'
import { Preferences } from './parts/preferences'
import { signOut, useMe } from './session'

export function App() {
  const { t } = useTranslation()
  const { may, whole } = useMe()
  const { pathname } = useLocation()
  const connection = useEvents()
  const allowed = routes.filter(r => may(r.need) && (whole || !r.whole))
  return (
    <Page isManagedSidebar mainContainerId="main" masthead={<Head />} sidebar={<Sidebar />} isContentFilled
      skipToContent={<SkipToContent href="#main">{t('app.skip')}</SkipToContent>}>
      {connection === 'lost' && <Alert variant="warning" isInline title={t('app.lost')} className="lost" isLiveRegion>{t('app.lostHint')}</Alert>}
      <Mishap key={pathname}><Suspense fallback={<Loading />}>
        <Routes>
          {allowed.map(r => <Route key={r.path} path={r.path} element={<r.page />} />)}
          <Route path="/" element={<Navigate to={allowed[0]!.path} replace />} />
          <Route path="*" element={<Empty title={t('app.nowhere')} action={<Link to="/">{t('app.home')}</Link>} />} />
        </Routes>
      </Suspense></Mishap>
    </Page>
  )
}

/** The one event stream of the page. Short drops are not worth a word. */
function useEvents(): Connection {
  const [connection, setConnection] = useState<Connection>('connecting')
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined
    const stop = listen({
      cache: new Cache(queries),
      check: () => client.GET('/session'),
      report: c => {
        clearTimeout(timer)
        if (c === 'lost') timer = setTimeout(setConnection, 2000, c)
        else setConnection(c)
      },
    })
    return () => {
      clearTimeout(timer)
      stop()
    }
  }, [])
  return connection
}

function Head() {
  const { t } = useTranslation()
  return (
    <Masthead>
      <MastheadMain>
        <MastheadToggle><PageToggleButton variant="plain" aria-label={t('app.navigation')}><BarsIcon /></PageToggleButton></MastheadToggle>
        <MastheadBrand><Link to="/" className="brand"><img src="/favicon.svg" alt="" />Understudy</Link></MastheadBrand>
      </MastheadMain>
      <MastheadContent>
        <Toolbar isFullHeight>
          <ToolbarContent>
            <ToolbarGroup align={{ default: 'alignEnd' }} variant="action-group-plain">
              <ToolbarItem><Preferences /></ToolbarItem>
              <ToolbarItem><UserMenu /></ToolbarItem>
            </ToolbarGroup>
          </ToolbarContent>
        </Toolbar>
      </MastheadContent>
    </Masthead>
  )
}

function UserMenu() {
  const { t } = useTranslation()
  const { user } = useMe()
  const go = useNavigate()
  const [open, setOpen] = useState(false)
  return (
    <Dropdown isOpen={open} onOpenChange={setOpen} onSelect={() => setOpen(false)} popperProps={{ position: 'right' }}
      toggle={ref => <MenuToggle ref={ref} variant="plainText" icon={<UserIcon />} isExpanded={open} onClick={() => setOpen(!open)}>{user.fullName || user.name}</MenuToggle>}>
      <DropdownList>
        <DropdownItem key="account" onClick={() => void go('/account')}>{t('account.title')}</DropdownItem>
        <DropdownItem key="out" onClick={() => void signOut()}>{t('app.signOut')}</DropdownItem>
      </DropdownList>
    </Dropdown>
  )
}

function Sidebar() {
  const { t } = useTranslation()
  const { may, whole } = useMe()
  const { pathname } = useLocation()
  return (
    <PageSidebar>
      <PageSidebarBody>
        <Nav aria-label={t('app.navigation')}>
          <NavList>
            {routes.map(r => r.nav && may(r.need) && (whole || !r.whole) && (
              <NavItem key={r.path} itemId={r.path} isActive={pathname === r.path || pathname.startsWith(`${r.path}/`)}>
                <Link to={r.path}>{t(`nav.${r.nav}`)}</Link>
              </NavItem>
            ))}
          </NavList>
        </Nav>
      </PageSidebarBody>
    </PageSidebar>
  )
}
