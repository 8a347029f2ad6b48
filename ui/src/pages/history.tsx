// What happened to a group over time: how old its newest point became, and what was copied.
import { Card, CardBody, CardTitle, Grid, GridItem, ToggleGroup, ToggleGroupItem } from '@patternfly/react-core'
import { useState } from 'react'
import { useTranslation } from 'react-i18next'
import { api } from '../api/client'
import type { Group, Sample } from '../api/schema'
import { TimeChart } from '../parts/charts'
import { Answer } from '../parts/page'
import { useFormat } from '../parts/values'

const spans = [3, 24, 168, 744] as const

export function History({ group }: { group: Group }) {
  const { t } = useTranslation()
  const f = useFormat()
  const [hours, setHours] = useState<number>(24)
  const history = api.useQuery('get', '/groups/{id}/history', { params: { path: { id: group.id }, query: { hours } } }, { refetchInterval: 300_000, refetchOnMount: 'always' })
  const series = (samples: Sample[], value: (s: Sample) => number) => samples.map(s => ({ x: new Date(s.time), y: value(s) }))
  return (
    <Answer query={history}>
      {({ samples }) => (
        <Grid hasGutter>
          <GridItem>
            <ToggleGroup aria-label={t('history.span')}>
              {spans.map(h => <ToggleGroupItem key={h} text={f.duration(h * 3600)} isSelected={hours === h} onChange={() => setHours(h)} />)}
            </ToggleGroup>
          </GridItem>
          <GridItem>
            <Card>
              <CardTitle component="h2">{t('history.age')}</CardTitle>
              <CardBody><TimeChart title={t('history.age')} format={f.duration} limit={{ name: t('history.target'), y: group.policy.rpoSeconds }} series={[{ name: t('group.age'), points: series(samples, s => s.worstAge) }]} /></CardBody>
            </Card>
          </GridItem>
          <GridItem>
            <Card>
              <CardTitle component="h2">{t('history.copied')}</CardTitle>
              <CardBody><TimeChart filled title={t('history.copied')} format={f.rate} series={[{ name: t('history.written'), points: series(samples, s => s.bytesWritten / s.seconds) }]} /></CardBody>
            </Card>
          </GridItem>
        </Grid>
      )}
    </Answer>
  )
}
