// The frame of a page: title, what it is for, its one next step; and what is shown while there is nothing to show yet.
import {
  Alert, Breadcrumb, BreadcrumbItem, Bullseye, Button, Content, DescriptionList, DescriptionListDescription, DescriptionListGroup, DescriptionListTerm, EmptyState, EmptyStateActions, EmptyStateBody, EmptyStateFooter, Flex, FlexItem,
  PageSection, Spinner, Tab, Tabs, TabTitleText, Title,
} from '@patternfly/react-core'
import { Component, useEffect, useRef, type ComponentType, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { Link, useLocation, useSearchParams } from 'react-router-dom'
import { Problem } from '../api/client'
import { useSaid } from '../words/codes'

interface PageProps {
  title: string
  /** One line on what the page is for. */
  lead?: ReactNode
  /** Where it belongs: [address, words]. */
  within?: [string, string][]
  /** Labels beside the title. */
  labels?: ReactNode
  /** The next step, and others. */
  actions?: ReactNode
  children: ReactNode
}

let firstPage = true

/** Names the window and moves the focus to the heading, so that screen readers tell where one has come to. */
export function Page({ title, lead, within = [], labels, actions, children }: PageProps) {
  const heading = useRef<HTMLHeadingElement>(null)
  const { pathname } = useLocation()
  useEffect(() => {
    document.title = `${title} · Understudy`
  }, [title])
  useEffect(() => {
    if (!firstPage) heading.current?.focus()
    firstPage = false
  }, [pathname])
  return (
    <>
      <PageSection hasBodyWrapper={false}>
        {within.length > 0 && (
          <Breadcrumb className="page-breadcrumb">
            {within.map(([to, text]) => <BreadcrumbItem key={to} render={() => <Link className="pf-v6-c-breadcrumb__link" to={to}>{text}</Link>} />)}
            <BreadcrumbItem isActive>{title}</BreadcrumbItem>
          </Breadcrumb>
        )}
        <Flex justifyContent={{ default: 'justifyContentSpaceBetween' }} alignItems={{ default: 'alignItemsFlexStart' }}>
          <FlexItem>
            <Flex alignItems={{ default: 'alignItemsCenter' }} columnGap={{ default: 'columnGapMd' }}>
              <h1 ref={heading} tabIndex={-1} className="pf-v6-c-title pf-m-2xl page-title">{title}</h1>
              {labels}
            </Flex>
            {lead && <Content component="p" className="page-lead">{lead}</Content>}
          </FlexItem>
          {actions && <FlexItem><Flex columnGap={{ default: 'columnGapSm' }}>{actions}</Flex></FlexItem>}
        </Flex>
      </PageSection>
      <PageSection hasBodyWrapper={false} isFilled className="page-body">{children}</PageSection>
    </>
  )
}

export function Loading() {
  const { t } = useTranslation()
  return <Bullseye><Spinner aria-label={t('common.loading')} /></Bullseye>
}

interface EmptyProps {
  title: string
  icon?: ComponentType
  children?: ReactNode
  /** The one next step. */
  action?: ReactNode
}

export const Empty = ({ title, icon, children, action }: EmptyProps) => (
  <EmptyState titleText={title} headingLevel="h2" icon={icon}>
    {children && <EmptyStateBody>{children}</EmptyStateBody>}
    {action && <EmptyStateFooter><EmptyStateActions>{action}</EmptyStateActions></EmptyStateFooter>}
  </EmptyState>
)

/** What happened, and what to do. */
export function ProblemAlert({ error, title, retry }: { error: unknown; title?: string; retry?: () => void }) {
  const { t } = useTranslation()
  const say = useSaid()
  const problem = error instanceof Problem ? error : undefined
  const what = problem ? say('problem', problem.code, sentence(problem.message)) : { title: t('problem.unreachable') }
  const hint = problem ? problem.hint : t('problem.unreachableHint')
  return (
    <Alert variant="danger" isInline title={title ?? what.title} className="problem"
      actionLinks={retry && <Button variant="link" isInline onClick={retry}>{t('common.retry')}</Button>}>
      {title && <p>{what.title}</p>}
      {what.detail && <p>{what.detail}</p>}
      {hint && <p>{hint}</p>}
    </Alert>
  )
}

/** Messages of the appliance begin small; a title does not. */
export const sentence = (s: string) => s.charAt(0).toUpperCase() + s.slice(1)

interface Query<T> {
  data: T | undefined
  error: unknown
  isPending: boolean
  refetch: () => unknown
}

/** Shows the answer, or that it is awaited, or why there is none. What is there stays when it cannot be asked for again. */
export function Answer<T>({ query, children }: { query: Query<T>; children: (data: T) => ReactNode }) {
  if (query.data !== undefined) return children(query.data)
  if (query.isPending) return <Loading />
  return <ProblemAlert error={query.error} retry={() => void query.refetch()} />
}

/** An answer that is a whole page, with its own [Page]. */
export function PageAnswer<T>({ query, children }: { query: Query<T>; children: (data: T) => ReactNode }) {
  return query.data === undefined && query.error
    ? <PageSection hasBodyWrapper={false}><Answer query={query}>{children}</Answer></PageSection>
    : <Answer query={query}>{children}</Answer>
}

export const Heading = ({ children, id }: { children: ReactNode; id?: string }) => <Title headingLevel="h2" size="lg" id={id} className="section-title">{children}</Title>

/** Names and values, one below the other; what has no value is left out. */
export const Facts = ({ of, label, narrow }: { of: [name: string, value: ReactNode][]; label?: string; narrow?: boolean }) => (
  <DescriptionList isHorizontal isCompact aria-label={label} horizontalTermWidthModifier={{ default: narrow ? '7rem' : '14rem' }}>
    {of.filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false).map(([name, value]) => (
      <DescriptionListGroup key={name}>
        <DescriptionListTerm>{name}</DescriptionListTerm>
        <DescriptionListDescription>{value}</DescriptionListDescription>
      </DescriptionListGroup>
    ))}
  </DescriptionList>
)

interface TabsProps {
  label: string
  tabs: { key: string; title: string; content: () => ReactNode }[]
}

/** Parts of a page, of which one is shown; which one is in the address. */
export function PageTabs({ label, tabs }: TabsProps) {
  const [params, setParams] = useSearchParams()
  const active = tabs.find(t => t.key === params.get('tab')) ?? tabs[0]!
  return (
    <>
      <Tabs aria-label={label} activeKey={active.key} onSelect={(_, key) => setParams(key === tabs[0]!.key ? {} : { tab: String(key) })} className="page-tabs">
        {tabs.map(t => <Tab key={t.key} eventKey={t.key} title={<TabTitleText>{t.title}</TabTitleText>} tabContentId={`tab-${t.key}`} />)}
      </Tabs>
      <section id={`tab-${active.key}`} role="tabpanel" aria-label={active.title}>{active.content()}</section>
    </>
  )
}

/** Keeps a mistake of one page from taking the others with it. */
export class Mishap extends Component<{ children: ReactNode }, { error?: unknown }> {
  state: { error?: unknown } = {}
  static getDerivedStateFromError = (error: unknown) => ({ error })
  render = () => (this.state.error === undefined ? this.props.children : <Failed error={this.state.error} />)
}

function Failed({ error }: { error: unknown }) {
  const { t } = useTranslation()
  return (
    <Empty title={t('app.failed')} action={<Button onClick={() => location.reload()}>{t('app.reload')}</Button>}>
      <p>{t('app.failedHint')}</p>
      <p><code>{String(error)}</code></p>
    </Empty>
  )
}
