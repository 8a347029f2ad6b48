// Charts, each with a table of the same numbers for those who cannot see them, or want them exactly.
import { Chart, ChartArea, ChartAxis, ChartDonut, ChartGroup, ChartLine, ChartThreshold, ChartThemeColor, ChartVoronoiContainer } from '@patternfly/react-charts/victory'
import { ExpandableSection } from '@patternfly/react-core'
import { useEffect, useRef, useState } from 'react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router-dom'
import { useFormat } from './values'

export interface Slice {
  name: string
  value: number
  color: string
  /** Where a click leads. */
  to: string
}

/** Colours of states, the same as those of labels. */
export const colors = {
  good: 'var(--pf-t--global--icon--color--status--success--default)',
  warn: 'var(--pf-t--global--icon--color--status--warning--default)',
  bad: 'var(--pf-t--global--icon--color--status--danger--default)',
  off: 'var(--pf-t--global--icon--color--disabled)',
}

/** A ring, and beside it the counts as links: those are what is clicked, and what is read aloud. */
export function Donut({ title, subtitle, slices }: { title: string; subtitle: string; slices: Slice[] }) {
  const f = useFormat()
  const shown = slices.filter(s => s.value > 0)
  return (
    <div className="donut">
      <div className="donut-ring" aria-hidden="true">
        <ChartDonut width={180} height={180} padding={4} title={title} subTitle={subtitle} innerRadius={66}
          data={shown.length > 0 ? shown.map(s => ({ x: s.name, y: s.value })) : [{ x: '', y: 1 }]}
          colorScale={shown.length > 0 ? shown.map(s => s.color) : [colors.off]} labels={() => null} />
      </div>
      <ul className="donut-counts">
        {slices.map(s => (
          <li key={s.name}>
            <Link to={s.to} className={s.value === 0 ? 'zero' : undefined}>
              <span className="dot" style={{ background: s.color }} />
              <strong>{f.count(s.value)}</strong> {s.name}
            </Link>
          </li>
        ))}
      </ul>
    </div>
  )
}

export interface Series {
  name: string
  points: { x: Date; y: number }[]
}

interface TimeChartProps {
  title: string
  series: Series[]
  /** How a value is written. */
  format: (y: number) => string
  /** A line that must not be crossed. */
  limit?: { name: string; y: number }
  filled?: boolean
  height?: number
}

export function TimeChart({ title, series, format, limit, filled, height = 220 }: TimeChartProps) {
  const { t, i18n } = useTranslation()
  const box = useRef<HTMLDivElement>(null)
  const [width, setWidth] = useState(600)
  useEffect(() => {
    const observer = new ResizeObserver(([e]) => e && setWidth(Math.max(240, Math.floor(e.contentRect.width))))
    if (box.current) observer.observe(box.current)
    return () => observer.disconnect()
  }, [])
  const clockTime = (d: Date) => new Intl.DateTimeFormat(i18n.language, { hour: '2-digit', minute: '2-digit' }).format(d)
  const highest = Math.max(limit?.y ?? 0, ...series.flatMap(s => s.points.map(p => p.y)), Number.MIN_VALUE)
  const Shape = filled ? ChartArea : ChartLine
  const empty = series.every(s => s.points.length === 0)
  return (
    <figure className="chart" aria-label={title}>
      <div ref={box} aria-hidden="true">
        {empty ? <p className="none">{t('chart.none')}</p> : (
          <Chart width={width} height={height} themeColor={ChartThemeColor.multiOrdered} scale={{ x: 'time', y: 'linear' }} domain={{ y: [0, highest * 1.1] }}
            padding={{ left: 104, right: 36, top: 12, bottom: series.length > 1 || limit ? 64 : 36 }}
            legendData={series.length > 1 || limit ? [...series.map(s => ({ name: s.name })), ...(limit ? [{ name: limit.name, symbol: { type: 'threshold', fill: colors.bad } }] : [])] : undefined}
            legendPosition="bottom-left"
            containerComponent={<ChartVoronoiContainer voronoiDimension="x" constrainToVisibleArea labels={({ datum }: { datum: { x: Date; y: number; childName: string } }) => (datum.childName.startsWith('series') ? `${clockTime(datum.x)}  ${format(datum.y)}` : '')} />}>
            <ChartAxis tickCount={Math.max(2, Math.floor(width / 110))} tickFormat={clockTime} />
            <ChartAxis dependentAxis showGrid tickCount={4} tickFormat={format} />
            <ChartGroup>{series.map((s, i) => <Shape key={s.name} name={`series-${i}`} data={s.points} interpolation="monotoneX" />)}</ChartGroup>
            {limit && series[0]?.points.length ? <ChartThreshold name="limit" style={{ data: { stroke: colors.bad } }} data={[{ x: series[0].points[0]!.x, y: limit.y }, { x: series[0].points.at(-1)!.x, y: limit.y }]} /> : undefined}
          </Chart>
        )}
      </div>
      {!empty && (
        <ExpandableSection toggleText={t('chart.table')} className="chart-table">
          <div className="chart-table-rows" tabIndex={0} role="region" aria-label={title}>
            <table>
              <caption>{title}</caption>
              <thead><tr><th scope="col">{t('chart.time')}</th>{series.map(s => <th key={s.name} scope="col">{s.name}</th>)}</tr></thead>
              <tbody>{series[0]!.points.map((p, i) => <tr key={+p.x}><th scope="row">{clockTime(p.x)}</th>{series.map(s => <td key={s.name}>{s.points[i] ? format(s.points[i].y) : ''}</td>)}</tr>)}</tbody>
            </table>
          </div>
        </ExpandableSection>
      )}
    </figure>
  )
}
