package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

const labMachine = "web1"

// labWorld is two libvirt hosts with a guest that writes.
type labWorld struct {
	t     testing.TB
	lab   *lab.Lab
	guest *lab.Guest

	witness *rig.Witness

	mu    sync.Mutex
	order order
	boots uint64 // of the guest, when the order at work was given
}

func newLabWorld(t testing.TB) *labWorld {
	ctx := t.Context()
	l := startLab(t)
	w := &labWorld{t: t, lab: l}
	var err error
	w.guest, err = l.StartGuest(ctx, l.Source, lab.GuestOptions{Name: labMachine, Number: 1, Fill: 4 << 20})
	require.NoError(t, err)
	w.witness = rig.NewWitness(w.guest)
	return w
}

// hosts are reached in both ways that there are.
func (w *labWorld) hosts() map[string]string {
	return map[string]string{"home": w.lab.Source.URI, "away": w.lab.Target.SSHURI()}
}

func (w *labWorld) spec() api.GroupSpec {
	return api.GroupSpec{Name: groupName, SourceHost: "home", TargetHost: "away", Policy: api.Policy{RPOSeconds: 86400, VerifyCycles: true},
		Machines: []api.GroupMachine{{VM: labMachine, Checks: []api.Check{{Kind: "http", Address: "http://" + w.guest.Addr + "/", Contains: labMachine}}}}}
}

func (w *labWorld) name() string { return "lab" }
func (w *labWorld) calm()        {}
func (w *labWorld) tick()        {} // the guest writes by itself
func (w *labWorld) doubt()       { w.witness.Doubt() }

// anyTime is a moment of the lab that no kill point names: nobody there sees the appliance's calls.
var anyTime = moment{Step: "at work", Phase: "any time"}

// serve offers moments in between those of the code.
func (w *labWorld) serve(t testing.TB, _ string, v *victim) {
	ctx, cancel := context.WithCancel(t.Context())
	var offering sync.WaitGroup
	offering.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(5 * tick):
				v.strikes(anyTime)
			}
		}
	})
	t.Cleanup(func() { cancel(); offering.Wait() })
}

func (w *labWorld) begin(o order) {
	s := w.guestNow()
	w.mu.Lock()
	w.order, w.boots = o, s.Boots
	w.mu.Unlock()
	if o.kind == "rollback" {
		w.witness.TurnBack()
	}
}

// guestNow asks the guest how it is, on whichever host it is production.
func (w *labWorld) guestNow() record.Status {
	w.t.Helper()
	for deadline := time.Now().Add(waitFor); ; time.Sleep(tick) {
		for _, h := range []*lab.Host{w.lab.Source, w.lab.Target} {
			s, err := w.witness.Ask(w.t.Context(), h)
			require.NotErrorIs(w.t, err, rig.ErrGuest)
			if err == nil {
				return s
			}
		}
		require.True(w.t, time.Now().Before(deadline), "the guest answers on neither host")
	}
}

// target is the host with the points of the direction in force.
func (w *labWorld) target(g api.Group) *lab.Host {
	if g.Reversed {
		return w.lab.Source
	}
	return w.lab.Target
}

func (w *labWorld) holds(g api.Group, points []api.Point) (wrong []string) {
	h := w.target(g)
	for _, p := range points {
		if err := w.witness.Holds(w.t.Context(), h, p); err != nil {
			wrong = append(wrong, fmt.Sprintf("point %s on %s: %v", p.ID, h.Name, err))
		}
	}
	return wrong
}

func (w *labWorld) runs(g api.Group) (wrong []string) {
	here, there := w.lab.Source, w.lab.Target
	if away(g) {
		here, there = there, here
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitFor)
	defer cancel()
	s, err := here.WaitStatus(ctx, w.guest.Addr)
	if err != nil {
		return []string{fmt.Sprintf("%v; its console ends with:\n%s", err, lastWords(here))}
	}
	if err := rig.Wrong(s); err != nil {
		wrong = append(wrong, err.Error())
	}
	w.mu.Lock()
	if !w.order.stops && s.Boots != w.boots {
		wrong = append(wrong, fmt.Sprintf("the guest booted during a %s: %d, was %d", w.order.name, s.Boots, w.boots))
	}
	w.mu.Unlock()
	names, err := there.Virsh(ctx, "list", "--name")
	if err != nil || slices.Contains(strings.Fields(names), labMachine) {
		wrong = append(wrong, fmt.Sprintf("the guest runs on %s too (%v)", there.Name, err))
	}
	return wrong
}

// lastWords is the end of what the guest said on its serial console.
func lastWords(h *lab.Host) string {
	b, err := os.ReadFile(h.Outside("/var/log/libvirt/" + labMachine + ".serial"))
	if err != nil {
		return err.Error()
	}
	const enough = 2000
	return string(b[max(0, len(b)-enough):])
}

func (w *labWorld) leftovers(g *api.Group, points []api.Point) []string {
	var target *lab.Host
	if g != nil {
		target = w.target(*g)
	}
	return rig.Leftovers(w.t.Context(), w.lab, labMachine, target, points)
}

// TestCrashLab kills the real daemon at every kill point of every order on real hosts: one job dies many times, and
// goes on from where it was, until each of its moments has been struck once. Random runs follow.
func TestCrashLab(t *testing.T) {
	chosen := slices.DeleteFunc(seeds(t), func(seed uint64) bool { return !onLab(seed) })
	if len(chosen) == 0 {
		t.Skip("takes half an hour: make crash; TestKilledDaemon is a short form")
	}
	w := newLabWorld(t)
	v := newVictim(t, w)
	if crashAll() {
		require.Empty(t, unvisited(v.storm()), "nobody was killed there")
	}
	for _, seed := range chosen {
		r := rand.New(rand.NewPCG(seed, 0))
		v.homecoming()
		v.wander(r, v.next(r), 0)
	}
}

// storm gives every order and kills at each of its kill points. It gives the moments of the deaths.
func (v *victim) storm() (deaths []moment) {
	quietly := func(names ...string) {
		for _, name := range names {
			v.quietly(name)
		}
	}
	storm := func(names ...string) {
		for _, name := range names {
			o := named(name)
			job, died := v.play(o, everyMomentOnce())
			v.settled(o, job)
			v.progress("%s: died %d times, %s", name, len(died), job.State)
			deaths = append(deaths, died...)
		}
	}
	storm("mirror", "cycle", "cancelled cycle", "verification", "drop of a point", "test")
	quietly("test")
	storm("end of a test", "cancelled test", "failover", "rollback", "cancelled failover")
	quietly("failover")
	storm("commit", "fence", "cancelled reprotect", "reprotect", "failback")
	quietly("failover", "commit")
	storm("cancelled failback")
	quietly("failback")
	storm("removal")
	return deaths
}

// quietly gives an order without any death.
func (v *victim) quietly(name string) {
	v.t.Helper()
	job, _ := v.play(named(name), nil)
	require.Equal(v.t, api.JobSucceeded, job.State, "%s: %s", name, job.Error)
}

// homecoming brings the group to where most orders can be given, without any death.
func (v *victim) homecoming() {
	v.t.Helper()
	switch g, _ := v.look(); {
	case g == nil:
		v.quietly("mirror")
	case g.State == api.StateFailedOver:
		v.quietly("rollback")
	case g.State == api.StateCommitted || g.Reversed:
		v.quietly("failback")
	}
}

// everyMomentOnce picks each kill point the first time that it is met, counting those of one name apart.
func everyMomentOnce() func(moment) bool {
	struck, life := map[string]bool{}, map[moment]int{}
	return func(m moment) bool {
		if m == anyTime {
			return false
		}
		life[m]++
		key := fmt.Sprint(m, life[m])
		if struck[key] {
			return false
		}
		struck[key] = true
		clear(life)
		return true
	}
}
