// The frame around all pages: masthead, navigation, the state of the connection, and the page itself.
import {
  Alert, Button, Dropdown, DropdownItem, DropdownList, Masthead, MastheadBrand, MastheadContent, MastheadMain, MastheadToggle, MenuToggle, Nav, NavItem,
  NavList, Page, PageSidebar, PageSidebarBody, PageToggleButton, SkipToContent, Toolbar, ToolbarContent, ToolbarGroup, ToolbarItem,
} from '@patternfly/react-core'
import BarsIcon from '@patternfly/react-icons/dist/esm/icons/bars-icon'
import GlobeIcon from '@patternfly/react-icons/dist/esm/icons/globe-icon'
import MoonIcon from '@patternfly/react-icons/dist/esm/icons/moon-icon'
import SunIcon from '@patternfly/react-icons/dist/esm/icons/sun-icon'
import { Suspense, useEffect, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, Navigate, Route, Routes, useLocation } from 'react-router-dom'
import { client, queries } from './api/client'
import { Cache, listen, type Connection } from './api/events'
import { routes } from './pages'
import { Empty, Loading } from './parts/page'
import { useMe } from './session'
import { chooseTheme, useDark } from './theme'
import { chooseLanguage, languages, type Language } from './words'

export function App() {
  const { t } = useTranslation()
  const { may } = useMe()
  const connection = useEvents()
  const allowed = routes.filter(r => may(r.need))
  return (
    <Page isManagedSidebar mainContainerId="main" masthead={<Head />} sidebar={<Sidebar />} isContentFilled
      skipToContent={<SkipToContent href="#main">{t('app.skip')}</SkipToContent>}>
      {connection === 'lost' && <Alert variant="warning" isInline title={t('app.lost')} className="lost" isLiveRegion>{t('app.lostHint')}</Alert>}
      <Suspense fallback={<Loading />}>
        <Routes>
          {allowed.map(r => <Route key={r.path} path={r.path} element={<r.page />} />)}
          <Route path="/" element={<Navigate to={allowed[0]!.path} replace />} />
          <Route path="*" element={<Empty title={t('app.nowhere')} action={<Link to="/">{t('app.home')}</Link>} />} />
        </Routes>
      </Suspense>
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
      check: () => client.GET('/about'),
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
  const dark = useDark()
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
              <ToolbarItem><Languages /></ToolbarItem>
              <ToolbarItem>
                <Button variant="plain" aria-label={t(dark ? 'app.light' : 'app.dark')} title={t(dark ? 'app.light' : 'app.dark')}
                  icon={dark ? <SunIcon /> : <MoonIcon />} onClick={() => chooseTheme(dark ? 'light' : 'dark')} />
              </ToolbarItem>
            </ToolbarGroup>
          </ToolbarContent>
        </Toolbar>
      </MastheadContent>
    </Masthead>
  )
}

function Languages() {
  const { t, i18n } = useTranslation()
  const [open, setOpen] = useState(false)
  return (
    <Dropdown isOpen={open} onOpenChange={setOpen} onSelect={(_, v) => { chooseLanguage(v as Language); setOpen(false) }} popperProps={{ position: 'right' }}
      toggle={ref => (
        <MenuToggle ref={ref} variant="plainText" icon={<GlobeIcon />} isExpanded={open} aria-label={`${t('app.language')} ${i18n.language.toUpperCase()}`} onClick={() => setOpen(!open)}>
          {i18n.language.toUpperCase()}
        </MenuToggle>
      )}>
      <DropdownList>
        {Object.entries(languages).map(([code, name]) => <DropdownItem key={code} value={code} isSelected={code === i18n.language} lang={code}>{name}</DropdownItem>)}
      </DropdownList>
    </Dropdown>
  )
}

function Sidebar() {
  const { t } = useTranslation()
  const { may } = useMe()
  const { pathname } = useLocation()
  return (
    <PageSidebar>
      <PageSidebarBody>
        <Nav aria-label={t('app.navigation')}>
          <NavList>
            {routes.map(r => r.nav && may(r.need) && (
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
