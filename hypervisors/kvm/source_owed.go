package kvm

import (
	"context"
	"path"
	"slices"
	"strconv"
	"sync"

	"libvirt.org/go/libvirt"
)

// A host that is away cannot be cleaned up. What is left there is taken away when the machine is frozen the next time,
// so that an appliance that runs for months leaves no more behind than one that is started anew and calls Clean.

// owed are the checkpoints of machines that are to be deleted and could not be.
type owed struct {
	mu   sync.Mutex
	byVM map[string][]string
}

func (o *owed) add(vm string, names ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byVM == nil {
		o.byVM = map[string][]string{}
	}
	for _, name := range names {
		if !slices.Contains(o.byVM[vm], name) { // who could not delete it tries again, and fails again
			o.byVM[vm] = append(o.byVM[vm], name)
		}
	}
}

func (o *owed) take(vm string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := o.byVM[vm]
	delete(o.byVM, vm)
	return names
}

// settle deletes what is owed of a machine that is ours alone and whose disks are open in some QEMU, its own or a reader;
// since is needed still.
func (h *host) settle(d *libvirt.Domain, vm, since string) error {
	names := h.owed.take(vm)
	for i, name := range names {
		if name == since {
			continue
		}
		if err := h.deleteCheckpoint(d, name); err != nil {
			h.owed.add(vm, names[i:]...)
			return err
		}
	}
	return nil
}

// removeOld removes what earlier checkpoints of machines, which are ours alone, have left in files. QEMU and libvirt
// remove them themselves, unless they were killed.
func (h *host) removeOld(ctx context.Context, plans []*plan) error {
	const script = `sockets=$1; shift
while [ "$sockets" -gt 0 ]; do rm -f -- "$1"; shift; sockets=$((sockets-1)); done
find "$@" -delete`
	argv := []string{"sh", "-c", script, "remove", strconv.Itoa(len(plans))}
	for _, p := range plans {
		argv = append(argv, p.socket)
	}
	var dirs, names []string
	for _, p := range plans {
		names = append(names, "-o", "-name", h.name(p.vm, "*.scratch"))
		for _, k := range p.disks {
			if dir := path.Dir(k.scratch); !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	argv = append(append(argv, dirs...), "-mindepth", "1", "-maxdepth", "1", "(", "-false")
	_, err := h.place.Run(ctx, nil, append(append(argv, names...), ")")...)
	return err
}
