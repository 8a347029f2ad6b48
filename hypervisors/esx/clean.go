package esx

import (
	"context"

	"understudy/hypervisors"
)

// Clean removes what earlier runs of this appliance left behind.
func (h *host) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	return h.cleanNetworks(ctx, keep.Networks)
}
