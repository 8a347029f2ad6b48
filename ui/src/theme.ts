// Light or dark: as the system is, until a person chooses. public/theme.js does the same before the first paint.
import { useSyncExternalStore } from 'react'

const system = matchMedia('(prefers-color-scheme: dark)')
const watchers = new Set<() => void>()

const dark = () => document.documentElement.classList.contains('pf-v6-theme-dark')

function apply() {
  const chosen = localStorage.getItem('theme')
  document.documentElement.classList.toggle('pf-v6-theme-dark', chosen ? chosen === 'dark' : system.matches)
  watchers.forEach(tell => tell())
}
system.addEventListener('change', apply)

export function chooseTheme(theme: 'light' | 'dark') {
  localStorage.setItem('theme', theme)
  apply()
}

export const useDark = () =>
  useSyncExternalStore(tell => {
    watchers.add(tell)
    return () => watchers.delete(tell)
  }, dark)
