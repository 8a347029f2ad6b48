package access

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"understudy/api"
)

// rate says how many wrong tries are possible at once, and how long it takes until one more is.
type rate struct {
	burst int
	every time.Duration
}

// Wrong sign-ins. An address is bounded for all names, and a name for all addresses together, so that many machines
// cannot guess one password. A name cannot be locked by strangers though: from where its user has signed in before, it has
// a bound of its own.
var (
	perAddress = rate{10, 30 * time.Second}
	perName    = rate{10, time.Minute}
	perPlace   = rate{10, time.Minute} // a name from an address that is known
)

// maxBuckets bounds the memory of the throttle. Beyond it, strangers share one bucket of each rate.
const maxBuckets = 10_000

// throttle counts what was tried, in memory: a restart forgives.
type throttle struct {
	clock   func() time.Time
	mu      sync.Mutex
	buckets map[string]*bucket
}

// bucket has room for tries. They come back with time.
type bucket struct {
	rate
	left float64
	at   time.Time
}

func newThrottle(clock func() time.Time) *throttle {
	return &throttle{clock: clock, buckets: map[string]*bucket{}}
}

// try is one use of a bucket.
type try struct {
	key  string
	rate rate
}

// take uses all of tries, or none and fails with CodeThrottled. It counts before anybody knows whether the try is wrong,
// so that many at once are not more than one after the other; forgive takes it back.
func (t *throttle) take(tries ...try) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var wait time.Duration
	var taken []*bucket
	for _, try := range tries {
		b := t.bucket(try)
		if b.left < 1 {
			wait = max(wait, time.Duration((1-b.left)*float64(b.every)))
			continue
		}
		taken = append(taken, b)
	}
	if wait > 0 {
		e := api.Errorf(api.CodeThrottled, "Wait, or sign in from where you have signed in before.", "too many wrong tries")
		e.RetryAfter = wait
		return e
	}
	for _, b := range taken {
		b.left--
	}
	return nil
}

// forgive takes tries back that were right.
func (t *throttle) forgive(tries ...try) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, try := range tries {
		b := t.bucket(try)
		b.left = math.Min(float64(b.burst), b.left+1)
	}
}

// bucket gives the bucket with what came back until now. The lock is held.
func (t *throttle) bucket(try try) *bucket {
	now := t.clock()
	b, known := t.buckets[try.key]
	if !known {
		if len(t.buckets) >= maxBuckets {
			t.sweep(now)
		}
		if len(t.buckets) >= maxBuckets {
			try.key = "everybody else, " + try.rate.every.String()
			b, known = t.buckets[try.key]
		}
	}
	if !known {
		b = &bucket{rate: try.rate, left: float64(try.rate.burst), at: now}
		t.buckets[try.key] = b
	}
	b.refill(now)
	return b
}

func (b *bucket) refill(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.left = math.Min(float64(b.burst), b.left+float64(passed)/float64(b.every))
	}
	b.at = now // also when the clock was set back
}

// sweep forgets buckets that are as new.
func (t *throttle) sweep(now time.Time) {
	for key, b := range t.buckets {
		if b.refill(now); b.left >= float64(b.burst) {
			delete(t.buckets, key)
		}
	}
}

// place is what an address counts as: whoever has one IPv6 address has all of its /64.
func place(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		prefix, err := a.Prefix(64)
		if err == nil {
			return prefix.String()
		}
	}
	return a.String()
}
