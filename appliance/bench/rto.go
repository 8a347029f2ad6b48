package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/appliance/store"
	"understudy/hypervisors"
	"understudy/hypervisors/kvm"
	"understudy/hypervisors/kvm/lab"
)

// rto is row P8: from the order of an unplanned failover until its job has ended, that is: the source seen to be off, every
// replica started and seen to run, and all of it in the state on the disk. The peer starts the same replicas on the same
// host by hand. Machines have 64 MiB of emulated memory and nothing to boot.
func rto(ctx context.Context, b bench) ([]Figure, error) {
	return onStage(ctx, b.dir, func(s *stage) (figures []Figure, err error) {
		r, err := newRecovery(ctx, s, filepath.Join(b.dir, "state"))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.close(context.WithoutCancel(ctx))) }()
		const many = 20
		if err := r.protect(ctx, "one", 1); err != nil {
			return nil, err
		}
		if err := r.protect(ctx, "many", many); err != nil {
			return nil, err
		}
		var ours, theirs, oursMany, slowest, atOnce []float64
		for run := range b.runs {
			one, byHand := r.failover(ctx, "one"), r.byHand(ctx, "one", 1)
			all, inTurn, together := r.failover(ctx, "many"), r.byHand(ctx, "many", 1), r.byHand(ctx, "many", many)
			if r.err != nil {
				return nil, r.err
			}
			fmt.Fprintf(os.Stderr, "P8: run %d of %d: one %.3f s, by hand %.3f s; %d %.3f s, by hand slowest four %.3f s, all at once %.3f s\n",
				run+1, b.runs, one, byHand.took, many, all, inTurn.worst(4), together.took)
			ours, theirs = append(ours, one), append(theirs, byHand.took)
			oursMany, slowest, atOnce = append(oursMany, all), append(slowest, inTurn.worst(4)), append(atOnce, together.took)
		}
		return []Figure{
			within("1 machine: failover, order to started and checked", "s", median(ours), "virsh start + 2 s", median(theirs)+2),
			within("20 machines: failover, order to started and checked", "s", median(oursMany), "20 virsh starts at once + 2 s", median(atOnce)+2),
			within("20 machines: failover, order to started and checked", "s", median(oursMany), "slowest 4 virsh starts", median(slowest)),
		}, nil
	})
}

// recovery is an appliance in this process, with groups whose machines have died. The first error stays.
type recovery struct {
	*stage
	db     *store.DB
	engine *replication.Engine
	made   int
	names  map[string][]string // of the machines, by group
	err    error
}

func newRecovery(ctx context.Context, s *stage, dir string) (*recovery, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	db, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	engine, err := replication.New(ctx, replication.Options{Store: db, Bus: store.NewBus(db, time.Now, log), Log: log,
		Connect: func(ctx context.Context, to replication.Login, owner string) (hypervisors.Host, error) {
			return kvm.Connect(ctx, to.URI, kvm.Options{Owner: owner, Log: log})
		}})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	r := &recovery{stage: s, db: db, engine: engine, names: map[string][]string{}}
	for _, h := range []*lab.Host{s.Source, s.Target} {
		if _, err := engine.AddHost(ctx, api.HostSpec{Name: h.Name, URI: h.URI}); err != nil {
			return nil, errors.Join(err, r.close(ctx))
		}
	}
	return r, nil
}

func (r *recovery) close(ctx context.Context) error {
	return errors.Join(r.engine.Close(ctx), r.db.Close())
}

// protect makes a group of so many machines, waits for their mirror and kills them.
func (r *recovery) protect(ctx context.Context, group string, machines int) error {
	spec := api.GroupSpec{Name: group, SourceHost: r.Source.Name, TargetHost: r.Target.Name, Policy: api.Policy{RPOSeconds: 3600}}
	for range machines {
		r.made++
		name := fmt.Sprintf("m%02d", r.made)
		image := filepath.Join(r.Dir, name+".qcow2")
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", image, "16M"); err != nil {
			return err
		}
		if _, err := r.machine(ctx, name, image); err != nil {
			return err
		}
		r.names[group] = append(r.names[group], name)
		spec.Machines = append(spec.Machines, api.GroupMachine{VM: name})
	}
	g, err := r.engine.CreateGroup(ctx, spec)
	if err != nil {
		return err
	}
	if err := r.wait(ctx, g.Job); err != nil {
		return err
	}
	for _, name := range r.names[group] {
		if _, err := r.Source.Virsh(ctx, "destroy", name); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) wait(ctx context.Context, job string) error {
	for {
		j, err := r.engine.GetJob(ctx, job)
		if err != nil {
			return err
		}
		if j.State.Ended() {
			if j.State != api.JobSucceeded {
				return fmt.Errorf("%s: step %s: %s", j.Kind, j.Step, j.Error)
			}
			return nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// failover says how long a failover took, in seconds, and takes it back.
func (r *recovery) failover(ctx context.Context, group string) float64 {
	if r.err != nil {
		return 0
	}
	start := time.Now()
	job, err := r.engine.Failover(ctx, group, api.FailoverOrder{})
	if err == nil {
		err = r.wait(ctx, job.ID)
	}
	took := time.Since(start)
	for _, name := range r.names[group] {
		if err == nil {
			var state string
			if state, err = r.Target.Virsh(ctx, "domstate", name); err == nil && firstLine(state) != "running" {
				err = fmt.Errorf("machine %s is %s after its failover", name, state)
			}
		}
	}
	if err == nil {
		job, err = r.engine.Rollback(ctx, group)
	}
	if err == nil {
		err = r.wait(ctx, job.ID)
	}
	r.err = err
	return took.Seconds()
}

// starts are starts by hand.
type starts struct {
	took float64   // seconds from the first order to the last machine
	each []float64 // seconds
}

// worst adds up the slowest n.
func (s starts) worst(n int) (sum float64) {
	slices.SortFunc(s.each, func(a, b float64) int { return cmp.Compare(b, a) })
	for _, took := range s.each[:min(n, len(s.each))] {
		sum += took
	}
	return sum
}

// byHand starts the replicas of a group with virsh, so many at once, each on a connection that is open, and turns them off.
func (r *recovery) byHand(ctx context.Context, group string, atOnce int) (s starts) {
	if r.err != nil {
		return s
	}
	names := r.names[group]
	hands := make(chan *virsh, atOnce)
	for range atOnce {
		v, err := newVirsh(r.Target)
		if err != nil {
			r.err = err
			return s
		}
		defer v.close()
		hands <- v
	}
	s.each = make([]float64, len(names))
	var work errgroup.Group
	work.SetLimit(atOnce)
	start := time.Now()
	for i, name := range names {
		work.Go(func() error {
			v := <-hands
			defer func() { hands <- v }()
			took, said, err := v.do("start " + name)
			s.each[i] = took.Seconds()
			if err == nil && !strings.Contains(said, "started") && said != "" {
				err = fmt.Errorf("virsh start %s: %s", name, said)
			}
			return err
		})
	}
	err := work.Wait()
	s.took = time.Since(start).Seconds()
	for _, name := range names {
		if _, off := r.Target.Virsh(ctx, "destroy", name); off != nil {
			err = errors.Join(err, off)
		}
	}
	r.err = err
	return s
}
