// Walks through the console in Debian's Chromium. The Go tests of ../appliance start the appliance and then this.
import { defineConfig } from '@playwright/test'

export default defineConfig({
  testDir: 'e2e',
  outputDir: '../bin/console/failed',
  workers: 1,
  reporter: 'list',
  // Bounds for a machine that is very slow; nothing waits for a time, all for what is seen.
  timeout: 30 * 60_000,
  expect: { timeout: 10 * 60_000 },
  use: {
    actionTimeout: 5 * 60_000,
    baseURL: process.env.UNDERSTUDY_URL,
    ignoreHTTPSErrors: true, // the appliance made its certificate itself
    locale: 'en-GB',
    contextOptions: { reducedMotion: 'reduce' }, // what turns while it waits costs half a core to draw
    viewport: { width: 1440, height: 900 },
    screenshot: 'only-on-failure',
    launchOptions: {
      executablePath: '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    },
  },
})
