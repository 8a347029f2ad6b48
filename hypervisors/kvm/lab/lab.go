// Package lab is two libvirt hosts and their guests on one Linux machine, for tests and for the demo: a "source" and a
// "target", each with its own mount, network, process and host name namespaces, its own libvirtd and its own sshd. It
// needs root and Debian's packages (install.sh beside this file), but neither systemd nor a container engine.
//
// It owns everything below one directory, two pairs of virtual Ethernet devices and the processes in its namespaces,
// and nothing else on the machine. Several labs may stand side by side. It knows nothing of Understudy itself.
//
// The first process of each host ends when the lab's owner does, even by SIGKILL, and the kernel then ends everything
// in its namespace and removes its devices. Only files remain, which the next [Start] sweeps away.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// dirPrefix starts the name of every lab's directory, so that a sweep finds the dead ones.
const dirPrefix = "understudy-lab-"

// Options of a lab. The zero value is good.
type Options struct {
	// Dir is where the lab's own directory is made; empty means os.TempDir. Keep it short: socket paths are bounded.
	Dir string
	// Cache keeps what guests are built from between runs; empty means understudy-lab in os.UserCacheDir.
	Cache string
	// Emulated hosts have no KVM, whatever the machine has: for guests from elsewhere, of which a host does not know that
	// KVM does not work here.
	Emulated bool
	// Log hears what the lab does; nil means silence.
	Log *slog.Logger
}

// Lab is a pair of running hosts.
type Lab struct {
	// ID tells labs apart; it is part of every name that the lab gives outside its namespaces.
	ID string
	// Dir holds all files of the lab.
	Dir string
	// Source and Target are alike; the names say what they are meant for.
	Source, Target *Host

	log      *slog.Logger
	cache    string
	emulated bool

	mu   sync.Mutex
	undo []func(context.Context) error

	bootOnce sync.Mutex // guards what guests start from, found out with the first one
	template template
	kvm      bool
}

// Start sweeps dead labs away and starts both hosts. After an error nothing is left behind.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root, for its namespaces")
	}
	l, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start lab: %w", err), l.Close(ctx))
	}
	return l, nil
}

func prepare(ctx context.Context, o Options) (*Lab, error) {
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a cache directory: %w", err)
		}
		o.Cache = filepath.Join(base, "understudy-lab")
	}
	if swept, err := Sweep(ctx, o.Dir); err != nil {
		return nil, fmt.Errorf("sweep dead labs: %w", err)
	} else if len(swept) > 0 {
		o.Log.Info("swept dead labs", "dirs", swept)
	}
	var id [3]byte
	rand.Read(id[:])
	l := &Lab{ID: hex.EncodeToString(id[:]), log: o.Log, cache: o.Cache, emulated: o.Emulated}
	dir, err := filepath.Abs(filepath.Join(o.Dir, dirPrefix+l.ID))
	if err != nil {
		return nil, err
	}
	l.Dir = dir
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	if err := os.Mkdir(l.Dir, 0o700); err != nil {
		return err
	}
	l.onClose(func(context.Context) error { return os.RemoveAll(l.Dir) })
	if err := writeOwner(l.Dir); err != nil {
		return err
	}
	key, err := newClientKey(l.Dir)
	if err != nil {
		return err
	}
	subnets, err := freeSubnets(2)
	if err != nil {
		return err
	}
	l.Source = &Host{Name: "source", lab: l}
	l.Target = &Host{Name: "target", lab: l}
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for i, h := range []*Host{l.Source, l.Target} {
		g.Go(func() error {
			if err := h.start(gctx, subnets[i], key); err != nil {
				return fmt.Errorf("host %s: %w", h.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.log.Info("lab is up", "dir", l.Dir, "source", l.Source.URI, "target", l.Target.URI, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// onClose registers the undo of a side effect that has just happened. Close runs them in reverse.
func (l *Lab) onClose(undo func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undo = append(l.undo, undo)
}

// closeBudget bounds Close, which must end even when a process cannot be killed.
const closeBudget = time.Minute

// Close ends both hosts with everything that runs on them, at once as if power failed, and removes every file. It works
// after ctx was cancelled, and a second time it does nothing.
func (l *Lab) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBudget)
	defer cancel()
	l.mu.Lock()
	undo := l.undo
	l.undo = nil
	l.mu.Unlock()
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		errs = append(errs, undo[i](ctx))
	}
	return errors.Join(errs...)
}

// Leftovers names everything of this lab that still exists on the machine: processes, devices, mounts, files. After
// Close it is empty, never nil.
func (l *Lab) Leftovers() []string {
	return leftovers(l.Dir, l.ID)
}
