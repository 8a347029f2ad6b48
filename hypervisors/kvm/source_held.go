package kvm

import (
	"context"
	"errors"
	"path"
	"strings"
)

// A guest that is held still has a file at its host that says so, for the one case in which nobody lets it go: that
// this process is killed in that very moment. Clean finds it.
const heldSuffix = "held"

func (h *host) heldFile(vm string) string { return path.Join(exportDir, h.name(vm, heldSuffix)) }

func (h *host) markHeld(ctx context.Context, vm string) error {
	_, err := h.place.Run(ctx, nil, "sh", "-c", `mkdir -p -m 0711 -- "$1" && : >"$2"`, "hold", exportDir, h.heldFile(vm))
	return err
}

func (h *host) unmarkHeld(ctx context.Context, vm string) error {
	return removeAll(ctx, h.place, h.heldFile(vm))
}

// cleanHeld lets guests go that an earlier run of ours held still.
func (h *host) cleanHeld(ctx context.Context) ([]string, error) {
	names, err := list(ctx, h.place, exportDir)
	if err != nil {
		return nil, err
	}
	var done []string
	var all []error
	for _, name := range names {
		vm, ok := strings.CutPrefix(name, h.name(""))
		if !ok {
			continue
		}
		if vm, ok = strings.CutSuffix(vm, "."+heldSuffix); !ok {
			continue
		}
		if err := errors.Join(h.resume(ctx, vm), h.thaw(ctx, vm)); err != nil {
			all = append(all, err)
			continue
		}
		all = append(all, h.unmarkHeld(ctx, vm))
		done = append(done, "hold on machine "+vm)
	}
	return done, errors.Join(all...)
}
