// Looking at pages: what a screen reader would stumble over, and pictures for a person.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { expect, type Page } from '@playwright/test'
import type { AxeResults } from 'axe-core'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const shots = process.env.UNDERSTUDY_SHOTS ?? '../bin/console'

/** Looks at the page as it is now, in both themes: no serious fault of accessibility, and a picture of each. */
export async function look(page: Page, name: string) {
  await settled(page)
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme })
    await page.screenshot({ path: join(shots, `${name}-${colorScheme}.png`), animations: 'disabled' })
    await page.evaluate(axe)
    const { violations } = await page.evaluate<AxeResults>('axe.run({ resultTypes: ["violations"] })')
    const serious = violations.filter(v => v.impact === 'serious' || v.impact === 'critical')
    expect(serious.map(v => `${v.id}: ${v.nodes.map(n => n.html).join(' | ')}`), `${name}, ${colorScheme}`).toEqual([])
  }
  await page.emulateMedia({ colorScheme: 'light' })
}

/** Waits until nothing is loading any more. */
async function settled(page: Page) {
  await expect(page.getByRole('progressbar', { name: 'Loading' })).toHaveCount(0)
  await page.evaluate(() => document.fonts.ready)
}
