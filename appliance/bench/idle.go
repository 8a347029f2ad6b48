package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"understudy/hypervisors/kvm/lab"
)

const (
	idleOverhead = 300 // ms for a cycle beside the hypervisor's own calls
	writeBudget  = 100 // ms that a guest's worst write may take longer than without cycles
	windowWrites = 500 // writes of the guest in one window
)

// idle is row P3: what a cycle costs when there is nothing to copy, and what cycles cost the guest.
func idle(ctx context.Context, b bench) ([]Figure, error) {
	image := filepath.Join(b.dir, "source.qcow2")
	if err := noisy(ctx, image, 64<<20, 1<<20); err != nil {
		return nil, err
	}
	return onStage(ctx, b.dir, func(s *stage) ([]Figure, error) {
		cycles, err := s.idleCycles(ctx, image, b.runs)
		if err != nil {
			return nil, err
		}
		writes, err := s.guestWrites(ctx, b.runs)
		return append(cycles, writes...), err
	})
}

// idleCycles takes turns with the same calls to libvirt and QEMU made bare.
func (s *stage) idleCycles(ctx context.Context, image string, runs int) ([]Figure, error) {
	m, err := s.machine(ctx, "idle", image)
	if err != nil {
		return nil, err
	}
	p, err := s.protect(ctx, m.id)
	if err != nil {
		return nil, err
	}
	if _, err := p.cycle(ctx); err != nil {
		return nil, err
	}
	calls, err := newCalls(s, m, p)
	if err != nil {
		return nil, err
	}
	defer calls.close()
	var ours, bare []float64
	for run := range runs {
		c, err := p.cycle(ctx)
		if err != nil {
			return nil, err
		}
		took, err := calls.make(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "idle cycle: run %d of %d: %v to the commit, %v in all; bare calls %v\n", run+1, runs, c.commit, c.all, took)
		ours, bare = append(ours, milliseconds(c.commit)), append(bare, milliseconds(took))
	}
	return []Figure{within("cycle of an idle machine, until committed", "ms", median(ours),
		fmt.Sprintf("%d ms + bare calls of %.0f ms", idleOverhead, median(bare)), idleOverhead+median(bare))}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// calls are those that a cycle makes to the hypervisors until its commit, made bare: one pull backup with its checkpoint;
// two images, a qemu-storage-daemon for them, one image to boot from, one definition.
type calls struct {
	stage          *stage
	machine        *machine
	protected      *protected
	source, target *virsh
	definition     string
}

const bareBackup = `<domainbackup mode='pull'><incremental>%s</incremental><server transport='unix' socket='/run/bare.nbd'/>
<disks><disk name='vda' backup='yes' type='file' exportname='vda'><scratch file='%s'/></disk></disks></domainbackup>`

const bareCheckpoint = `<domaincheckpoint><name>bare</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>`

func newCalls(s *stage, m *machine, p *protected) (*calls, error) {
	c := &calls{stage: s, machine: m, protected: p, definition: filepath.Join(s.Dir, "bare.xml")}
	if err := os.WriteFile(c.definition, fmt.Appendf(nil, domain, "bare", path.Join(s.Target.Images, "bare.qcow2"), "/run/bare.qmp"), 0o600); err != nil {
		return nil, err
	}
	var err error
	if c.source, err = newVirsh(s.Source); err != nil {
		return nil, err
	}
	if c.target, err = newVirsh(s.Target); err != nil {
		c.source.close()
	}
	return c, err
}

func (c *calls) close() {
	c.source.close()
	c.target.close()
}

func (c *calls) make(ctx context.Context) (took time.Duration, err error) {
	begun, err := c.begin()
	if err != nil {
		return 0, err
	}
	dir := c.stage.Target.Images
	below := c.stage.Target.Images + "/understudy/" + c.protected.replica + "/"
	image := func(file, under string) []string {
		return []string{"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", under, file}
	}
	data, blocks := path.Join(dir, "bare-data.qcow2"), path.Join(dir, "bare-map.qcow2")
	point := c.protected.newest.ID
	start := time.Now()
	for _, argv := range [][]string{
		image(data, below+"vda."+point+".qcow2"), image(blocks, below+"vda."+point+".map"), image(path.Join(dir, "bare.qcow2"), data),
	} {
		if _, err := c.stage.Target.Exec(ctx, argv...); err != nil {
			return 0, err
		}
	}
	if err := c.export(ctx, data, blocks); err != nil {
		return 0, err
	}
	made := time.Since(start)
	defined, said, err := c.target.do("define " + c.definition)
	if err != nil {
		return 0, err
	}
	if _, _, err := c.target.do("undefine bare"); err != nil {
		return 0, fmt.Errorf("%w: %s", err, said)
	}
	return begun + made + defined, nil
}

// begin times the beginning of a backup, and undoes it.
func (c *calls) begin() (time.Duration, error) {
	scratch := path.Join(c.stage.Source.Images, "bare.scratch")
	files := []string{filepath.Join(c.stage.Dir, "bare-backup.xml"), filepath.Join(c.stage.Dir, "bare-checkpoint.xml")}
	for i, text := range []string{fmt.Sprintf(bareBackup, c.protected.newest.ChangeID, scratch), bareCheckpoint} {
		if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
			return 0, err
		}
	}
	took, said, err := c.source.do(fmt.Sprintf("backup-begin %s %s %s", c.machine.name, files[0], files[1]))
	if err != nil {
		return 0, err
	}
	for _, order := range []string{"domjobabort " + c.machine.name, "checkpoint-delete " + c.machine.name + " bare"} {
		_, more, err := c.source.do(order)
		if err != nil {
			return 0, err
		}
		said += "\n" + more
	}
	if !slices.Contains([]string{"", "Backup started"}, firstLine(said)) {
		return 0, fmt.Errorf("bare backup: %s", said)
	}
	return took, os.RemoveAll(c.stage.Source.Outside(scratch))
}

// export starts a qemu-storage-daemon, waits until it serves, and ends it.
func (c *calls) export(ctx context.Context, images ...string) error {
	const socket = "/run/bare.nbd"
	outside := c.stage.Target.Outside(socket)
	_ = os.Remove(outside)
	cmd := c.stage.Target.Command(ctx, append([]string{"qemu-storage-daemon"}, storage(socket, "qcow2", true, images...)...)...)
	s, err := started(ctx, cmd, outside)
	if err != nil {
		return err
	}
	s.stop()
	return nil
}

// guestWrites lets a guest write with cycles and without in turn.
func (s *stage) guestWrites(ctx context.Context, runs int) ([]Figure, error) {
	g, err := s.StartGuest(ctx, s.Source, lab.GuestOptions{Name: "writer", Number: 1, Delay: 5 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	id, err := s.Source.Virsh(ctx, "domuuid", g.Name)
	if err != nil {
		return nil, err
	}
	p, err := s.protect(ctx, id)
	if err != nil {
		return nil, err
	}
	if _, err := p.cycle(ctx); err != nil {
		return nil, err
	}
	var alone, beside, worstAlone, worstBeside []float64
	for run := range runs {
		quiet, err := window(ctx, g, func() error { return nil })
		if err != nil {
			return nil, err
		}
		busy, err := window(ctx, g, func() error { _, err := p.cycle(ctx); return err })
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "guest writes: run %d of %d: worst %.1f ms alone, %.1f ms beside cycles\n", run+1, runs, slices.Max(quiet), slices.Max(busy))
		alone, beside = append(alone, quiet...), append(beside, busy...)
		worstAlone, worstBeside = append(worstAlone, slices.Max(quiet)), append(worstBeside, slices.Max(busy))
	}
	return []Figure{
		within("worst guest write beside cycles, worst of all runs", "ms", slices.Max(worstBeside), fmt.Sprintf("%d ms over without", writeBudget), slices.Max(worstAlone)+writeBudget),
		against("worst guest write beside cycles, median of runs", "ms", median(worstBeside), "without cycles", median(worstAlone), 0),
		against("p99 of guest writes beside cycles", "ms", percentile(beside, 99), "without cycles", percentile(alone, 99), 0),
		against("median of guest writes beside cycles", "ms", median(beside), "without cycles", median(alone), 0),
	}, nil
}

// window repeats work until the guest has made enough writes, and returns what each of them took.
func window(ctx context.Context, g *lab.Guest, work func() error) ([]float64, error) {
	before, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	for {
		if err := work(); err != nil {
			return nil, err
		}
		now, err := g.Status(ctx)
		if err != nil {
			return nil, err
		}
		if n := now.Writes - before.Writes; n >= windowWrites {
			return g.Writes(ctx, n)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func percentile(v []float64, p int) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, len(v)*p/100)]
}
