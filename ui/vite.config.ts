/// <reference types="vitest/config" />
import react from '@vitejs/plugin-react'
import { defineConfig, type Plugin } from 'vite'

const appliance = process.env.UNDERSTUDY_URL ?? 'https://127.0.0.1:8443'

/**
 * Rules of PatternFly about siblings of any name. Because of them the browser works out the style of a whole table again
 * for each row that comes or goes: 12 ms instead of 2 for 30 rows. The first are for what the console has none of.
 */
const dear: [RegExp, string][] = [
  [/\.pf-v6-c-text-input-group__utilities > \* \+ \* \{[^}]*\}/, ''],
  [/:not\(\.pf-v6-c-table__control-row\) ~ \.pf-v6-c-table__expandable-row > [^{]*\{[^}]*\}/, ''],
  [/\.pf-v6-c-list\.pf-m-bordered > \* \+ \* \{[^}]*\}/, ''],
  [/\.pf-v6-c-alert-group > \* \+ \*(?= \{)/, '.pf-v6-c-alert-group__item + .pf-v6-c-alert-group__item'],
]

function cheaperRules(): Plugin {
  const met = new Set<RegExp>()
  return {
    name: 'cheaper-rules', enforce: 'pre',
    transform(code, id) {
      if (!/\.css($|\?)/.test(id)) return null
      const css = dear.reduce((css, [rule, other]) => css.replace(rule, () => (met.add(rule), other)), code)
      return css === code ? null : { code: css, map: null }
    },
    generateBundle(_, bundle) {
      const gone = dear.filter(([rule]) => !met.has(rule))
      if (gone.length > 0) this.error(`vite.config.ts names rules that PatternFly has no more: ${gone.join(', ')}`)
      for (const [name, file] of Object.entries(bundle)) {
        if (!name.endsWith('.css') || file.type !== 'asset') continue
        const css = String(file.source), at = css.search(/\*\s*[+~]\s*\*/)
        if (at >= 0) this.error(`${name} has a rule about siblings of any name, which makes long tables slow (see vite.config.ts): ${css.slice(css.lastIndexOf('}', at) + 1, css.indexOf('{', at))}`)
      }
    },
  }
}

export default defineConfig({
  plugins: [cheaperRules(), react()],
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
