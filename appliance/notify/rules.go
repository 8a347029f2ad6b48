package notify

import (
	"slices"

	"understudy/api"
)

// chosen gives the channels that are to be told, in order; only enabled ones.
func (n *Notifier) chosen(notice Notice) []string {
	var ids []string
	if notice.State == stateResolved {
		ids = n.told[notice.ID].Channels
	} else {
		for _, r := range n.rules {
			if matches(r.RuleSpec, notice) {
				ids = append(ids, r.Channels...)
			}
		}
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool {
		l, ok := n.channels[id]
		return !ok || !l.Enabled
	})
}

// matches says whether a rule wants a notice. What belongs to no group, such as a host that is down, is for rules without
// groups alone.
func matches(r api.RuleSpec, notice Notice) bool {
	return r.Enabled && notice.Severity.Reaches(r.MinSeverity) &&
		(len(r.Groups) == 0 || slices.Contains(r.Groups, notice.Group)) &&
		(len(r.Kinds) == 0 || slices.Contains(r.Kinds, notice.Kind) || notice.JobKind != "" && slices.Contains(r.Kinds, notice.JobKind))
}
