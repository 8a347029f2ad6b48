// What walks through the console need: somebody who is signed in, and a watch over faults.
import { expect, test as base, type Page } from '@playwright/test'

export const admin = { name: 'admin', password: 'correct horse battery staple' }

/** Every page of a test is watched: it may neither fail, nor break the Content-Security-Policy, nor ask anybody else. */
export const test = base.extend<{ page: Page }>({
  page: async ({ page, baseURL }, use) => {
    const faults: string[] = []
    page.on('pageerror', e => faults.push(`error: ${e.message}`))
    page.on('console', m => {
      if (m.type() === 'error' && !m.text().startsWith('Failed to load resource')) faults.push(`console: ${m.text()}`)
    })
    page.on('request', r => {
      if (!r.url().startsWith(baseURL!) && !/^(blob|data):/.test(r.url())) faults.push(`asked a stranger: ${r.url()}`)
    })
    await use(page)
    expect(faults).toEqual([])
  },
})
export { expect }

export async function signIn(page: Page, who = admin) {
  await page.goto('/')
  await page.getByLabel('User name').fill(who.name)
  await page.getByLabel('Password').fill(who.password)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'Overview' })).toBeVisible()
}
