// A part of the settings: what it is for, its one action, and the thing itself.
import { Content, Flex, FlexItem } from '@patternfly/react-core'
import type { ReactNode } from 'react'
import { Heading } from '../../parts/page'

export const Section = ({ title, lead, action, children }: { title?: string; lead: ReactNode; action?: ReactNode; children?: ReactNode }) => (
  <section className="setting">
    <Flex justifyContent={{ default: 'justifyContentSpaceBetween' }} alignItems={{ default: 'alignItemsFlexStart' }} flexWrap={{ default: 'nowrap' }} className="page-alert">
      <FlexItem>
        {title && <Heading>{title}</Heading>}
        <Content component="p" className="page-lead">{lead}</Content>
      </FlexItem>
      {action && <FlexItem className="setting-action">{action}</FlexItem>}
    </Flex>
    {children}
  </section>
)
