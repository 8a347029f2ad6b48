package main_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// Random runs: those of `make crash`, how many of them are on the lab, and those of `make test`.
const (
	allSeeds   = 500
	labSeeds   = 20
	shortSeeds = 8
)

// crashAll says whether everything is to be tried, as `make crash` does, which takes half an hour.
func crashAll() bool { return os.Getenv("CRASH") == "all" }

// seeds are the random runs to make.
func seeds(t *testing.T) (all []uint64) {
	if one := os.Getenv("SEED"); one != "" {
		n, err := strconv.ParseUint(one, 10, 64)
		require.NoError(t, err, "SEED")
		return []uint64{n}
	}
	n := uint64(shortSeeds)
	if crashAll() {
		n = allSeeds
	}
	for seed := range n {
		all = append(all, seed+1)
	}
	return all
}

// onLab says whether the run of a seed is on the lab: one in 25.
func onLab(seed uint64) bool { return seed%(allSeeds/labSeeds) == 0 }

// TestCrashSeeds gives random orders, kills the real daemon at random moments of them, calls to the hosts and restarts
// included, and lets the guests write meanwhile; each run in a world of its own.
func TestCrashSeeds(t *testing.T) {
	for _, seed := range seeds(t) {
		if onLab(seed) {
			continue
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 0))
			w := newMemoryWorld(t)
			v := newVictim(t, w)
			v.wander(r, named("mirror"), 1+r.IntN(5))
			if t.Failed() {
				t.Logf("SEED=%d repeats it", seed)
			}
		})
	}
}

// wander gives an order and n more that are possible after it, and kills in each.
func (v *victim) wander(r *rand.Rand, o order, n int) {
	for {
		job, deaths := v.play(o, randomly(r))
		v.settled(o, job)
		v.progress("%s: died at %v, %s", o.name, deaths, job.State)
		if n--; n < 0 {
			return
		}
		o = v.next(r)
	}
}

// next picks an order that is possible now.
func (v *victim) next(r *rand.Rand) order {
	g, points := v.look()
	var names []string
	switch {
	case g == nil:
		names = []string{"mirror"}
	case g.State == api.StateFailedOver:
		names = []string{"commit", "rollback"}
	case g.State == api.StateCommitted:
		names = []string{"failback", "fence"}
		if !g.Reversed {
			names = append(names, "reprotect", "cancelled reprotect")
		}
	case g.Reversed:
		names = []string{"cycle", "verification", "test", "cancelled test", "failback", "cancelled failback"}
	default:
		names = []string{"cycle", "cancelled cycle", "verification", "test", "cancelled test", "failover", "cancelled failover", "removal"}
	}
	if len(points) > 1 && g.State == api.StateProtected {
		names = append(names, "drop of a point")
	}
	o := named(names[r.IntN(len(names))])
	if g != nil && g.Reversed && o.kind != "failback" {
		o.reversed = true
	}
	return o
}

// randomly picks a few moments of any kind, most of them early.
func randomly(r *rand.Rand) func(moment) bool {
	left, lives := r.IntN(1<<r.IntN(10)), 1+r.IntN(3)
	return func(moment) bool {
		if lives == 0 {
			return false
		}
		if left--; left >= 0 {
			return false
		}
		left, lives = r.IntN(1<<r.IntN(10)), lives-1
		return true
	}
}

// tally counts the kills of a run of the tests, by world and moment.
type tally struct {
	mu    sync.Mutex
	rows  map[tallied]int
	began time.Time
}

type tallied struct{ World, Kind, Step string }

var kills = tally{rows: map[tallied]int{}, began: time.Now()}

func (k *tally) add(world string, o order, m moment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case m == anyTime:
		m.Kind = o.kind
	case m.Kind == "":
		m = moment{Kind: o.kind, Step: "calls to hosts"}
	}
	k.rows[tallied{world, m.Kind, m.Step}]++
}

// print shows the table, outcome last.
func (k *tally) print(failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var rows []tallied
	total := 0
	for row, n := range k.rows {
		rows = append(rows, row)
		total += n
	}
	slices.SortFunc(rows, func(a, b tallied) int {
		return strings.Compare(a.World+"\t"+a.Kind+"\t"+a.Step, b.World+"\t"+b.Kind+"\t"+b.Step)
	})
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "world\tkind\tstep\tkills")
	for _, row := range rows {
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\n", row.World, row.Kind, row.Step, k.rows[row])
	}
	_ = out.Flush()
	outcome := "all invariants held"
	if failed {
		outcome = "FAILED, see above"
	}
	fmt.Printf("%d kills in %v: %s\n", total, time.Since(k.began).Round(time.Second), outcome)
}

// progress tells people that something moves in a run that takes long.
func (v *victim) progress(format string, args ...any) {
	if crashAll() || os.Getenv("SEED") != "" {
		fmt.Printf("%7.1f s  %s  %s\n", time.Since(kills.began).Seconds(), v.t.Name(), fmt.Sprintf(format, args...))
	}
}
