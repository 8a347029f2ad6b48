package esx

import (
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

// Marks in the extra configuration of machines that are ours: an appliance's id; a replica's id; for a test its run's id.
const (
	tagOwner   = "understudy.owner"
	tagReplica = "understudy.replica"
	tagRun     = "understudy.run"
)

// prefix begins the names of what can carry no mark: snapshots, virtual switches.
const prefix = "understudy."

// newUUID for a machine.
func newUUID() string { return uuid.NewString() }

// ours is the prefix of this appliance.
func (h *host) ours() string { return prefix + h.owner + "." }

// tag of a machine; empty: it has none.
func tag(config *types.VirtualMachineConfigInfo, name string) string {
	for _, o := range config.ExtraConfig {
		if v := o.GetOptionValue(); strings.EqualFold(v.Key, name) {
			text, _ := v.Value.(string)
			return text
		}
	}
	return ""
}
