// Who looks at the console, and what they may do.
import { createContext, useContext } from 'react'

const ranks = ['viewer', 'operator', 'administrator'] as const
export type Role = (typeof ranks)[number]

const Me = createContext<{ role: Role }>({ role: 'administrator' })

/** `const { may } = useMe(); may('operator') && <Button …>` */
export function useMe() {
  const me = useContext(Me)
  return { ...me, may: (need: Role) => ranks.indexOf(me.role) >= ranks.indexOf(need) }
}
