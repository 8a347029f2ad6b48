// @ts-check
// Measures the console in Debian's Chromium: row C1 of ../../appliance/bench, which starts this, writes an order in JSON
// on a line and reads the answer from a line.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { chromium } from '@playwright/test'

const url = process.env.UNDERSTUDY_URL ?? ''
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
})
/** Where each view has what it is opened for. */
const views = { '/overview': '.donut-counts strong', '/machines': 'tr[data-index="0"] strong' }

/** @param {import('@playwright/test').BrowserContextOptions['storageState']} [storageState] */
const fresh = storageState => browser.newContext({ baseURL: url, ignoreHTTPSErrors: true, locale: 'en-GB', viewport: { width: 1440, height: 900 }, storageState })

/** Makes the first administrator; what the browser keeps of that lets all others in. */
async function signIn() {
  const context = await fresh()
  const page = await context.newPage()
  await page.goto('/')
  const status = await page.evaluate(async token => {
    const body = JSON.stringify({ token, name: 'bench', password: 'correct horse battery' })
    return (await fetch('/api/v1/setup', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } })).status
  }, process.env.UNDERSTUDY_SETUP)
  if (status >= 300) throw new Error(`setup answered ${status}`)
  const state = await context.storageState()
  await context.close()
  return state
}
const state = await signIn()

/**
 * Opens a view and tells when it was painted, in milliseconds since the navigation began.
 * @param {import('@playwright/test').BrowserContext} context
 * @param {keyof typeof views} path
 */
async function open(context, path) {
  const page = await context.newPage()
  await page.addInitScript(selector => {
    const look = () =>
      document.querySelector(selector) ? requestAnimationFrame(() => setTimeout(() => Object.assign(window, { seen: performance.now() }))) : requestAnimationFrame(look)
    look()
  }, views[path])
  await page.goto(path)
  const seen = await page.waitForFunction(() => 'seen' in window && window.seen)
  const sizes = await page.evaluate(() => performance.getEntriesByType('resource').map(e => /** @type {PerformanceResourceTiming} */ (e).transferSize))
  return { page, ms: Number(await seen.jsonValue()), requests: sizes.length + 1, bytes: sizes.reduce((a, b) => a + b, 0) }
}

/** Memory and processor time of the processes that draw pages. */
async function renderers() {
  const session = await browser.newBrowserCDPSession()
  const { processInfo } = await session.send('SystemInfo.getProcessInfo')
  await session.detach()
  const all = processInfo.filter(p => p.type === 'renderer')
  const rss = all.map(p => Number(readFileSync(`/proc/${p.id}/statm`, 'utf8').split(' ')[1]) * 4096)
  return { rss: Math.max(...rss), cpu: all.reduce((sum, p) => sum + p.cpuTime, 0) }
}

/**
 * Nothing here takes this long unless it never ends.
 * @template T
 * @param {Promise<T>} work
 * @returns {Promise<T>}
 */
const bounded = work => Promise.race([work, new Promise((_, reject) => setTimeout(reject, 600_000, new Error('not done after ten minutes')).unref())])

/** A page that stays open between orders. @type {import('@playwright/test').Page | undefined} */
let held

const orders = {
  /** First view with nothing cached, then again. @param {{ path: keyof typeof views }} o */
  async view({ path }) {
    const context = await fresh(state)
    const cold = await open(context, path)
    await cold.page.close()
    const warm = await open(context, path)
    await context.close()
    return { cold: cold.ms, warm: warm.ms, requests: cold.requests, bytes: cold.bytes }
  },

  /** Leaves a page open. @param {{ path: keyof typeof views }} o */
  async open({ path }) {
    held = (await open(await fresh(state), path)).page
    return {}
  },

  async close() {
    await held?.context().close()
    return {}
  },

  /** From the last key pressed until only rows that match are on the screen. @param {{ text: string }} o */
  async filter({ text }) {
    const page = held
    if (!page) throw new Error('no page is open')
    const field = page.getByRole('main').locator('input[type=search], .pf-v6-c-text-input-group__text-input').first()
    const all = () => page.waitForFunction(text => [...document.querySelectorAll('tr[data-index] strong')].some(e => !e.textContent?.includes(text)), text)
    await field.fill('')
    await all()
    await field.focus()
    const took = page.evaluate(text => new Promise(resolve => {
      let pressed = 0
      addEventListener('keydown', () => (pressed = performance.now()), { capture: true })
      const look = () => {
        const names = [...document.querySelectorAll('tr[data-index] strong')]
        if (pressed && names.length > 0 && names.every(e => e.textContent?.includes(text))) setTimeout(() => resolve(performance.now() - pressed))
        else requestAnimationFrame(look)
      }
      look()
    }), text)
    await page.keyboard.type(text, { delay: 60 })
    const ms = Number(await took)
    await field.fill('')
    await all()
    return { ms }
  },

  /** Through all rows, a little in each frame. @param {{ pixels: number }} o */
  async scroll({ pixels }) {
    const page = held
    if (!page) throw new Error('no page is open')
    let requests = 0
    const count = () => requests++
    page.on('request', count)
    const out = await page.evaluate(async pixels => {
      const box = document.querySelector('.table-scroller')
      if (!box) throw new Error('there is no long table')
      const frame = () => new Promise(resolve => requestAnimationFrame(resolve))
      box.scrollTop = 0
      let last = await frame()
      const frames = []
      let blank = 0
      while (box.scrollTop + box.clientHeight < box.scrollHeight - 1) {
        box.scrollTop += pixels
        const now = await frame()
        frames.push(now - last)
        last = now
        if (box.querySelector('.pf-v6-c-skeleton')) blank++
      }
      const end = performance.now()
      while (box.querySelector('.pf-v6-c-skeleton')) await frame()
      return { frames, blank, settled: performance.now() - end, rows: Number(box.querySelector('tr[data-index]:last-of-type')?.getAttribute('data-index')) }
    }, pixels)
    page.off('request', count)
    return { ...out, requests }
  },

  /** What an open page does when nobody touches it. @param {{ seconds: number }} o */
  async watch({ seconds }) {
    const page = held
    if (!page) throw new Error('no page is open')
    const session = await page.context().newCDPSession(page)
    const heap = async () => {
      await session.send('HeapProfiler.collectGarbage')
      const { metrics } = await session.send('Performance.getMetrics')
      return metrics.find(m => m.name === 'JSHeapUsedSize')?.value ?? 0
    }
    await session.send('Performance.enable')
    await session.send('Network.enable')
    const heapBefore = await heap()
    let requests = 0
    let bytes = 0
    /** @type {Record<string, number>} */
    const asked = {}
    page.on('request', r => {
      requests++
      const path = new URL(r.url()).pathname
      asked[path] = (asked[path] ?? 0) + 1
    })
    session.on('Network.dataReceived', e => (bytes += e.dataLength))
    const before = await renderers()
    await new Promise(resolve => setTimeout(resolve, seconds * 1000))
    const after = await renderers()
    page.removeAllListeners('request')
    const heapAfter = await heap()
    await session.detach()
    return { requests, asked, bytes, heapBefore, heapAfter, rss: after.rss, cpu: (after.cpu - before.cpu) / seconds }
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  console.log(JSON.stringify(await bounded(orders[/** @type {keyof typeof orders} */ (order.do)](order))))
}
await browser.close()
