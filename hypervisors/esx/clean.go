package esx

import (
	"context"

	"understudy/hypervisors"
)

// Clean removes what earlier runs of this appliance left behind.
func (h *host) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	removed, err := h.cleanSource(ctx)
	if err != nil {
		return removed, err
	}
	more, err := h.cleanNetworks(ctx, keep.Networks)
	return append(removed, more...), err
}
