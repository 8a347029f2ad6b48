// Every page: its address, who may see it, and its place in the navigation. Each is loaded when it is opened.
import { lazy, type ComponentType, type LazyExoticComponent } from 'react'
import type { Role } from '../session'

const page = (load: () => Promise<Record<string, ComponentType>>, name: string) =>
  lazy(async () => ({ default: (await load())[name]! }))

export interface Route {
  path: string
  need: Role
  page: LazyExoticComponent<ComponentType>
  /** Key of its words below "nav"; without one it is reached from other pages only. */
  nav?: 'overview' | 'hosts'
}

export const routes: Route[] = [
  { path: '/hosts', need: 'viewer', page: page(() => import('./hosts'), 'Hosts'), nav: 'hosts' },
]
