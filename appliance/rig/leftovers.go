package rig

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
)

// Leftovers names what an appliance with no job at work and no test up should not have on the hosts of a lab: networks,
// machines, checkpoints beyond the one to go on from, backup jobs, files of no point, processes. machine is the guest
// that it protects, target the host with the points of the direction in force; nil: it was removed with its replica, and
// its tracking must be gone too.
func Leftovers(ctx context.Context, l *lab.Lab, machine string, target *lab.Host, points []api.Point) (left []string) {
	add := func(h *lab.Host, format string, args ...any) {
		left = append(left, fmt.Sprintf(format, args...)+" on "+h.Name)
	}
	for _, h := range []*lab.Host{l.Source, l.Target} {
		networks, err := h.Virsh(ctx, "net-list", "--all", "--name")
		if err != nil || networks != lab.Production {
			add(h, "networks %q (%v)", networks, err)
		}
		machines, err := h.Virsh(ctx, "list", "--all", "--name")
		want := machine
		if target == nil && h == l.Target {
			want = ""
		}
		if err != nil || machines != want {
			add(h, "machines %q (%v)", machines, err)
		}
		if !slices.Contains(strings.Fields(machines), machine) {
			continue
		}
		list, err := h.Virsh(ctx, "checkpoint-list", machine, "--name")
		if n := len(strings.Fields(list)); err != nil || n > 1 || n > 0 && target == nil {
			add(h, "checkpoints %q (%v)", strings.Fields(list), err)
		}
		if job, err := h.Virsh(ctx, "domjobinfo", machine); err == nil && !strings.Contains(job, "None") {
			add(h, "job %q", job)
		}
	}
	for _, h := range []*lab.Host{l.Source, l.Target} {
		for _, name := range strayFiles(h, h == target || target == nil, points) {
			add(h, "file %s", name)
		}
	}
	return append(left, Strangers(l)...)
}

// strayFiles finds files below the images of a host that belong to no moment but the one at work, and where all points
// are known, to no point. Those of the other direction wait on the other host and are not listed.
func strayFiles(h *lab.Host, known bool, points []api.Point) (stray []string) {
	root := h.Outside(h.Images)
	_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it went meanwhile
		}
		of := func(p api.Point) bool { return strings.Contains(d.Name(), "."+p.ID+".") }
		ofPoint := strings.HasPrefix(d.Name(), "vd") && strings.Count(d.Name(), ".") >= 3
		if strings.HasSuffix(d.Name(), ".scratch") || strings.HasSuffix(d.Name(), ".new") || known && ofPoint && !slices.ContainsFunc(points, of) {
			stray = append(stray, strings.TrimPrefix(name, root))
		}
		return nil
	})
	return stray
}

// Strangers are what the appliance left running in the hosts. What it runs there notices its end within seconds and ends
// too, so those get a little time.
func Strangers(l *lab.Lab) []string {
	const grace = 20 * time.Second
	for deadline := time.Now().Add(grace); ; time.Sleep(200 * time.Millisecond) {
		if found := l.Strangers(); len(found) == 0 || time.Now().After(deadline) {
			return found
		}
	}
}
