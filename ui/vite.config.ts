/// <reference types="vitest/config" />
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

const appliance = process.env.UNDERSTUDY_URL ?? 'https://127.0.0.1:8443'

export default defineConfig({
  plugins: [react()],
  build: {
    // Kept: dist/unbuilt.html, which stands in for the console in a clone where npm has not run.
    emptyOutDir: false,
    // Inlined files would be data: addresses, which the Content-Security-Policy forbids.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1200,
  },
  // `npm run dev` serves the sources and passes requests on to an appliance, which believes that they come from itself.
  server: {
    proxy: {
      '/api': {
        target: appliance, secure: false,
        headers: { Origin: appliance, ...(process.env.UNDERSTUDY_TOKEN && { Authorization: `Bearer ${process.env.UNDERSTUDY_TOKEN}` }) },
      },
    },
  },
  test: { include: ['src/**/*.test.ts'], environment: 'node', setupFiles: 'test-setup.ts' },
})
