// The words of the console, one file for each language. Keys are checked when it is compiled; words.test.ts compares the
// files.
import i18next from 'i18next'
import { initReactI18next } from 'react-i18next'
import de from './de.json'
import en from './en.json'

declare module 'i18next' {
  interface CustomTypeOptions {
    resources: { translation: typeof en }
  }
}

export const languages = { en: 'English', de: 'Deutsch' } as const
export type Language = keyof typeof languages

const preferred = localStorage.getItem('language') ?? navigator.languages.find(l => l.slice(0, 2) in languages)?.slice(0, 2)

void i18next.use(initReactI18next).init({
  lng: preferred ?? 'en',
  fallbackLng: 'en',
  resources: { en: { translation: en }, de: { translation: de } },
  interpolation: { escapeValue: false }, // React escapes
  // What has no words is a fault, and the walks of e2e fail on faults.
  saveMissing: true,
  missingKeyHandler: (_languages, _file, key) => console.error(`no words for ${key}`),
  missingInterpolationHandler: (text, [name]: RegExpExecArray) => {
    console.error(`nothing to say for ${name} in "${text}"`)
    return ''
  },
})
document.documentElement.lang = i18next.language

export function chooseLanguage(language: Language) {
  localStorage.setItem('language', language)
  document.documentElement.lang = language
  void i18next.changeLanguage(language)
}

export default i18next
