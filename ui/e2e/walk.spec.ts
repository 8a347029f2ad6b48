// What an administrator does in the first hour and in the worst night, by clicking, against real hosts.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from '@playwright/test'
import { expect, test } from './console'
import { look } from './look'

interface Told {
  setupToken: string
  source: string
  target: string
  machine: string
  /** What the guest answers by HTTP, and an address beside it. */
  check: string
  from: string
}

const password = 'correct horse battery'

test('from the first sign-in to failover and home again', async ({ page }) => {
  const told = JSON.parse(process.env.UNDERSTUDY_WALK!) as Told
  const changes = watchChanges(page)

  await test.step('sign in for the first time', async () => {
    await page.goto('/')
    await look(page, 'set-up')
    await page.getByLabel('One-time setup token').fill(told.setupToken)
    await page.getByLabel('User name').fill('jo')
    await page.getByRole('textbox', { name: 'New password', exact: true }).fill(password)
    await page.getByLabel('Repeat the new password').fill(password)
    await page.getByRole('button', { name: 'Create and sign in' }).click()
    await expect(page.getByRole('heading', { level: 1, name: 'Overview' })).toBeVisible()
    await look(page, 'overview-empty')
  })

  await test.step('connect both hosts', async () => {
    await page.getByRole('link', { name: 'Connect a host' }).click()
    await connect(page, 'source', told.source)
    await page.getByRole('navigation').getByRole('link', { name: 'Overview' }).click()
    await page.getByRole('link', { name: 'Connect the second host' }).click()
    await connect(page, 'target', told.target)
  })

  await test.step('protect by the wizard', async () => {
    await page.getByRole('navigation', { name: 'Navigation' }).getByRole('link', { name: 'Overview' }).click()
    await page.getByRole('link', { name: 'Protect machines' }).click()
    const next = page.getByRole('button', { name: 'Next' })
    await page.getByRole('textbox', { name: 'Name of the group' }).fill('shop')
    await page.getByRole('group', { name: 'Host that runs the machines' }).getByRole('radio', { name: 'source', exact: true }).check()
    await look(page, 'protect-1-host')
    await next.click()
    await page.getByRole('checkbox', { name: told.machine, exact: true }).check()
    await look(page, 'protect-2-machines')
    await next.click()
    await page.getByRole('group', { name: 'Host that shall hold the replicas' }).getByRole('radio', { name: 'target' }).check()
    await expect(page.getByLabel('Storage for the replicas')).toBeVisible()
    await look(page, 'protect-3-target')
    await next.click()
    await look(page, 'protect-4-policy')
    await next.click()
    await page.getByRole('button', { name: new RegExp(`^${told.machine}`) }).click()
    await page.getByRole('button', { name: 'Add a check' }).click()
    await page.getByLabel('What', { exact: true }).selectOption({ label: 'web page answers' })
    await page.getByRole('textbox', { name: 'Address of the page' }).fill(told.check)
    await page.getByRole('textbox', { name: 'Asked from (in tests)' }).fill(told.from)
    await look(page, 'protect-5-boot')
    await next.click()
    await expect(page.getByRole('status').filter({ hasText: /^Ready/ })).toBeVisible()
    await look(page, 'protect-6-review')
    await page.context().clearCookies() // the session ends at the very last click
    await page.getByRole('button', { name: 'Protect', exact: true }).click()
    const again = page.getByRole('dialog', { name: 'Your session has ended' })
    await expect(again).toBeVisible()
    await look(page, 'session-expired')
    await again.getByLabel('Password').fill(password)
    await again.getByRole('button', { name: 'Sign in' }).click()
  })

  await test.step('watch the first copy', async () => {
    await expect(page.getByRole('heading', { level: 1, name: 'shop' })).toBeVisible()
    await look(page, 'group-first-copy')
    await expect(page.getByRole('heading', { name: 'Protected, but not proven' })).toBeVisible()
    await look(page, 'group-protected')
  })

  await test.step('test failover, with a screenshot and a report', async () => {
    await order(page, 'Test failover', 'Start test failover')
    await expect(page.getByRole('heading', { name: 'A test failover is running' })).toBeVisible()
    await look(page, 'group-testing')
    await order(page, 'End test', 'End test now')
    await expect(page.getByRole('heading', { name: 'All is well' })).toBeVisible()
    await page.getByRole('tab', { name: 'Tests and reports' }).click()
    await look(page, 'group-reports')
    await page.getByRole('link', { name: 'Test failover', exact: true }).click()
    await expect(page.getByText('Passed').first()).toBeVisible()
    const screen = page.getByRole('img', { name: `Screen of ${told.machine}` })
    await expect(screen).toBeVisible()
    await expect.poll(() => screen.evaluate((i: HTMLImageElement) => i.complete && i.naturalWidth)).toBeGreaterThan(300)
    await look(page, 'report-test')
    const [printable] = await Promise.all([page.waitForEvent('popup'), page.getByRole('link', { name: 'Printable report' }).click()])
    await expect(printable.getByRole('heading', { level: 1 })).toBeVisible()
    await look(printable, 'report-printable')
    await printable.close()
  })

  await test.step('fail over, and commit', async () => {
    await toGroup(page)
    await order(page, 'Fail over', 'Fail over now')
    await expect(page.getByRole('heading', { name: 'Failed over: the machines run on target' })).toBeVisible()
    await look(page, 'group-failed-over')
    await order(page, 'Commit', 'Commit now', 'shop')
    await expect(page.getByRole('heading', { name: 'target is production, and nothing protects it' })).toBeVisible()
    await look(page, 'group-committed')
  })

  await test.step('fail back', async () => {
    await order(page, 'Fail back', 'Fail back now', 'shop')
    await expect(page.getByRole('heading', { name: 'All is well' })).toBeVisible()
    await look(page, 'group-home')
  })

  await test.step('look at every other page', async () => {
    for (const tab of ['Recovery points', 'RPO history', 'Jobs', 'Boot order and runbook', 'Settings']) {
      await page.getByRole('tab', { name: tab }).click()
      await look(page, `group-${tab.toLowerCase().replaceAll(' ', '-')}`)
    }
    for (const name of ['Overview', 'Alerts', 'Protection groups', 'Machines', 'Jobs', 'Reports', 'Hosts', 'Audit log', 'Settings']) {
      await page.getByRole('navigation', { name: 'Navigation' }).getByRole('link', { name, exact: true }).click()
      await expect(page.getByRole('heading', { level: 1, name })).toBeVisible()
      await look(page, name.toLowerCase().replaceAll(' ', '-'))
    }
  })

  writeFileSync(join(process.env.UNDERSTUDY_SHOTS!, 'changes.json'), JSON.stringify(changes))
})

async function connect(page: Page, name: string, uri: string) {
  await page.getByRole('textbox', { name: 'Name', exact: true }).fill(name)
  await page.getByRole('radio', { name: 'Another address' }).check()
  await page.getByRole('textbox', { name: 'Address', exact: true }).fill(uri)
  await look(page, `host-${name}-new`)
  await page.getByRole('button', { name: 'Connect a host' }).click()
  await expect(page.getByRole('heading', { level: 1, name })).toBeVisible()
  await look(page, `host-${name}`)
}

/** Gives an order by its button and the page that says what will happen, and waits until its job has ended. */
async function order(page: Page, button: string, go: string, typed?: string) {
  await page.getByRole('button', { name: button, exact: true }).click()
  await expect(page.getByRole('button', { name: go })).toBeVisible()
  if (typed) await page.getByLabel(`Type ${typed} to confirm`).fill(typed)
  await look(page, `order-${go.toLowerCase().replaceAll(' ', '-')}`)
  await page.getByRole('button', { name: go }).click()
  await expect(page).toHaveURL(/\/jobs\//)
  await look(page, `job-${go.toLowerCase().replaceAll(' ', '-')}`)
  await expect(page.getByText('Succeeded').first()).toBeVisible()
  await toGroup(page)
}

async function toGroup(page: Page) {
  await page.getByRole('main').getByRole('link', { name: 'shop', exact: true }).first().click()
  await expect(page.getByRole('heading', { level: 1, name: 'shop' })).toBeVisible()
}

/** Everything that the page asks the appliance to change, with what became of it. */
function watchChanges(page: Page) {
  const changes: { method: string; path: string; status: number }[] = []
  page.on('response', r => {
    const { pathname } = new URL(r.url())
    if (r.request().method() !== 'GET' && pathname.startsWith('/api/')) changes.push({ method: r.request().method(), path: pathname, status: r.status() })
  })
  return changes
}
