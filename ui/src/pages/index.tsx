// Every page: its address, who may see it, and its place in the navigation. Each is loaded when it is opened.
import { lazy, type ComponentType, type LazyExoticComponent } from 'react'
import type { Role } from '../session'

const page = (load: () => Promise<ComponentType>) => lazy(async () => ({ default: await load() }))

export interface Route {
  path: string
  need: Role
  page: LazyExoticComponent<ComponentType>
  /** Key of its words below "nav"; without one it is reached from other pages only. */
  nav?: 'overview' | 'hosts'
}

export const routes: Route[] = [
  { path: '/hosts', need: 'viewer', page: page(() => import('./hosts').then(m => m.Hosts)), nav: 'hosts' },
  { path: '/hosts/new', need: 'administrator', page: page(() => import('./host-form').then(m => m.AddHost)) },
  { path: '/hosts/:id', need: 'viewer', page: page(() => import('./hosts').then(m => m.HostPage)) },
]
