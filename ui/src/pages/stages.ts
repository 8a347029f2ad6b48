// Stages of a runbook.
import type { GroupMachine, Runbook, RunbookStage } from '../api/schema'

/** A stage for each that machines are in or that something is wished for, in order. */
export function staged(machines: Pick<GroupMachine, 'stage'>[], runbook: Runbook | undefined): RunbookStage[] {
  const known = runbook?.stages ?? []
  const used = machines.map(m => m.stage || 1)
  return [...new Set([...used, ...known.map(s => s.stage)])].sort((a, b) => a - b).map(stage => known.find(s => s.stage === stage) ?? { stage })
}

/** Whether something is wished for a stage. Those without a wish are left out when a runbook is sent. */
export const wanted = (s: RunbookStage) => Boolean(s.waitForChecks || s.delaySeconds || s.before?.length || s.after?.length)
