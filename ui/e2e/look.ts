// Looking at pages: what a screen reader would stumble over, and pictures for a person.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { expect, type Page } from '@playwright/test'
import type { AxeResults } from 'axe-core'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const shots = process.env.UNDERSTUDY_SHOTS ?? '../bin/console'

const themes = ['light', 'dark'] as const
const shown = new WeakMap<Page, (typeof themes)[number]>()

/**
 * Looks at the page as it is now, in both themes: no serious fault of accessibility, and a picture of each. The page goes
 * on in the second one: to change it styles everything anew, which takes longer than all else here.
 */
export async function look(page: Page, name: string) {
  await settled(page)
  const first = shown.get(page) ?? 'light'
  for (const colorScheme of [...themes].sort(t => (t === first ? -1 : 1))) {
    await page.emulateMedia({ colorScheme })
    await page.screenshot({ path: join(shots, `${name}-${colorScheme}.png`), animations: 'disabled' })
    if (!await page.evaluate('"axe" in window')) await page.evaluate(axe)
    const { violations } = await page.evaluate<AxeResults>('axe.run({ resultTypes: ["violations"] })')
    const serious = violations.filter(v => v.impact === 'serious' || v.impact === 'critical')
    expect(serious.map(v => `${v.id}: ${v.nodes.map(n => n.html).join(' | ')}`), `${name}, ${colorScheme}`).toEqual([])
    shown.set(page, colorScheme)
  }
}

/** Waits until nothing is loading any more. */
async function settled(page: Page) {
  await expect(page.getByRole('progressbar', { name: 'Loading' })).toHaveCount(0)
  await page.evaluate(() => document.fonts.ready)
}
