// What the appliance says is English. In another language the words for its code come first, where it gives one, and what
// it says about the case is a detail.
import { useTranslation } from 'react-i18next'
import type { Alert, Group, PlanChange, PlanOrder, PlanWarning } from '../api/schema'
import { de } from './codes.de'

export interface Codes {
  alert: Record<Alert['kind'], string>
  problem: Record<string, string>
  preflight: Record<string, string>
  /** Why a group is not well. */
  health: Record<NonNullable<Group['healthCode']>, string>
  /** With {machine} and {host}. */
  change: Record<PlanChange['code'], string>
  warning: Record<PlanWarning['code'], string>
  /** How an order can be undone, by the order. */
  undo: Record<Exclude<PlanOrder['order'], 'fence'>, string>
}

const languages: Record<string, Codes | undefined> = { de }

export interface Said {
  title: string
  detail?: string
}

interface About {
  machine?: string
  host?: string
}

export function said(language: string, kind: keyof Codes, code: string, message: string, about: About = {}): Said {
  const words = (languages[language]?.[kind] as Record<string, string> | undefined)?.[code]
  if (!words) return { title: message }
  return { title: words.replace(/{(machine|host)}/g, (_, name: keyof About) => about[name] ?? ''), detail: message }
}

/** `const say = useSaid(); say('alert', a.kind, sentence(a.message)).title` */
export function useSaid() {
  const { i18n } = useTranslation()
  return (kind: keyof Codes, code: string, message: string, about?: About) => said(i18n.language, kind, code, message, about)
}
