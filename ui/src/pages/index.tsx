// Every page: its address, who may see it, and its place in the navigation. Each is loaded when it is opened.
import { lazy, type ComponentType, type LazyExoticComponent } from 'react'
import type { Role } from '../session'
import type en from '../words/en.json'

const page = (load: () => Promise<ComponentType>) => lazy(async () => ({ default: await load() }))

export interface Route {
  path: string
  need: Role
  /** Not for those who may only see some groups. */
  whole?: boolean
  page: LazyExoticComponent<ComponentType>
  /** Key of its words below "nav"; without one it is reached from other pages only. */
  nav?: keyof typeof en.nav
}

export const routes: Route[] = [
  { path: '/overview', need: 'viewer', page: page(() => import('./overview').then(m => m.OverviewPage)), nav: 'overview' },
  { path: '/alerts', need: 'viewer', page: page(() => import('./alerts').then(m => m.Alerts)), nav: 'alerts' },
  { path: '/groups', need: 'viewer', page: page(() => import('./groups').then(m => m.Groups)), nav: 'groups' },
  { path: '/groups/new', need: 'administrator', whole: true, page: page(() => import('./protect/wizard').then(m => m.Protect)) },
  { path: '/groups/:id', need: 'viewer', page: page(() => import('./group').then(m => m.GroupPage)) },
  { path: '/groups/:id/order/:order', need: 'viewer', page: page(() => import('./order').then(m => m.OrderPage)) },
  { path: '/machines', need: 'viewer', page: page(() => import('./machines').then(m => m.Machines)), nav: 'machines' },
  { path: '/jobs', need: 'viewer', page: page(() => import('./jobs').then(m => m.Jobs)), nav: 'jobs' },
  { path: '/jobs/:id', need: 'viewer', page: page(() => import('./jobs').then(m => m.JobPage)) },
  { path: '/reports', need: 'viewer', page: page(() => import('./reports').then(m => m.Reports)), nav: 'reports' },
  { path: '/reports/:id', need: 'viewer', page: page(() => import('./reports').then(m => m.ReportPage)) },
  { path: '/hosts', need: 'viewer', whole: true, page: page(() => import('./hosts').then(m => m.Hosts)), nav: 'hosts' },
  { path: '/hosts/new', need: 'administrator', page: page(() => import('./host-form').then(m => m.AddHost)) },
  { path: '/hosts/:id/edit', need: 'administrator', page: page(() => import('./host-form').then(m => m.EditHost)) },
  { path: '/hosts/:id', need: 'viewer', whole: true, page: page(() => import('./hosts').then(m => m.HostPage)) },
  { path: '/audit', need: 'administrator', page: page(() => import('./audit').then(m => m.Audit)), nav: 'audit' },
  { path: '/settings', need: 'administrator', page: page(() => import('./settings/page').then(m => m.Settings)), nav: 'settings' },
  { path: '/account', need: 'viewer', page: page(() => import('./account').then(m => m.Account)) },
]
