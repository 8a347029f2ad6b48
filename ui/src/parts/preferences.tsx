// Language and colours, which this browser remembers.
import { Button, Dropdown, DropdownItem, DropdownList, MenuToggle } from '@patternfly/react-core'
import GlobeIcon from '@patternfly/react-icons/dist/esm/icons/globe-icon'
import MoonIcon from '@patternfly/react-icons/dist/esm/icons/moon-icon'
import SunIcon from '@patternfly/react-icons/dist/esm/icons/sun-icon'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { chooseTheme, useDark } from '../theme'
import { chooseLanguage, languages, type Language } from '../words'

export function Preferences() {
  const { t, i18n } = useTranslation()
  const dark = useDark()
  const [open, setOpen] = useState(false)
  const code = i18n.language.toUpperCase()
  return (
    <>
      <Dropdown isOpen={open} onOpenChange={setOpen} onSelect={(_, v) => { chooseLanguage(v as Language); setOpen(false) }} popperProps={{ position: 'right' }}
        toggle={ref => (
          <MenuToggle ref={ref} variant="plainText" icon={<GlobeIcon />} isExpanded={open} aria-label={`${t('app.language')} ${code}`} onClick={() => setOpen(!open)}>{code}</MenuToggle>
        )}>
        <DropdownList>
          {Object.entries(languages).map(([code, name]) => <DropdownItem key={code} value={code} isSelected={code === i18n.language} lang={code}>{name}</DropdownItem>)}
        </DropdownList>
      </Dropdown>
      <Button variant="plain" aria-label={t(dark ? 'app.light' : 'app.dark')} title={t(dark ? 'app.light' : 'app.dark')} icon={dark ? <SunIcon /> : <MoonIcon />} onClick={() => chooseTheme(dark ? 'light' : 'dark')} />
    </>
  )
}
