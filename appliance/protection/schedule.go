package protection

import (
	"hash/fnv"
	"time"

	"understudy/api"
)

// Pauses after failed cycles: the first, doubled each time, and the longest.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
)

// History is how a group's cycles went so far.
type History struct {
	// LastTaken is the start of the cycle that made the newest point; zero: there is none.
	LastTaken time.Time
	// LastAttempt is when the last attempt ended, well or not; zero: there was none.
	LastAttempt time.Time
	// Expected is how long a cycle takes by experience, from its start to its commit; 0: unknown.
	Expected time.Duration
	// Failures since the last success.
	Failures int
}

// Due is when the next cycle is to start; now when it is overdue. It is asked when no cycle runs.
//
// A point's age counts from the start of its cycle, and the next point exists only when the next cycle has committed. So
// with cycles started every I and taking D, the newest point gets as old as I + D. Due plans for
//
//	I = min(RPO/2, RPO − 2·Expected), at least 0,
//
// with which any cycle may take twice its expectation and the target still holds, as far as Expected is at most RPO/4,
// and every cycle may take its expectation as far as that is at most RPO/2; from there on cycles follow each other
// without pause. Up to a tenth of I is taken off, the same for a group each time, so that groups with the same policy do
// not all start at once.
//
// After failures the next try starts 5 s, 10 s, 20 s … after the last one ended, at most 5 min.
func Due(p api.Policy, h History, now time.Time, jitterSeed string) time.Time {
	// A clock that was set back must not stop protection: nobody knows how long ago that was which lies ahead of now. It
	// must not be taken for now either, for as often as it is asked the pause would begin anew.
	if h.Failures > 0 {
		if h.LastAttempt.After(now) {
			return now
		}
		return later(h.LastAttempt.Add(retryAfter(h.Failures)), now)
	}
	if h.LastTaken.IsZero() || h.LastTaken.After(now) {
		return now
	}
	rpo := rpoOf(p)
	interval := max(0, min(rpo/2, rpo-2*h.Expected))
	return later(h.LastTaken.Add(interval-jitter(jitterSeed, interval/10)), now)
}

// verifyRetry is the longest pause after a verification that did not come to its end.
const verifyRetry = time.Hour

// VerifyDue is when the next verification is to start, now when it is overdue; false: never by itself. last is when the
// last one started that came to its end (zero: none did), attempt when any was tried last, created when the group was:
// its first mirror has just read everything. A tenth of the interval is taken off at most, as for Due.
func VerifyDue(p api.Policy, last, attempt, created, now time.Time, jitterSeed string) (time.Time, bool) {
	every := time.Duration(p.VerifyEverySeconds) * time.Second
	if every <= 0 {
		return time.Time{}, false
	}
	// What lies ahead of now, since the clock was set back, is as in Due.
	due := now
	if before := later(last, created); !before.After(now) {
		due = before.Add(every - jitter(jitterSeed, every/10))
	}
	if attempt.After(last) && !attempt.After(now) {
		due = later(due, attempt.Add(min(every, verifyRetry)))
	}
	return later(due, now), true
}

func retryAfter(failures int) time.Duration {
	return min(firstRetry<<min(failures-1, 16), lastRetry)
}

// jitter is in [0, most), by the seed alone.
func jitter(seed string, most time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed)) // a hash never fails
	return time.Duration(float64(most) * float64(h.Sum64()>>11) / (1 << 53))
}

// RPO is the status now. newest is the start of the newest point's cycle (zero: none); worstSeconds what WorstSeconds
// was so far. The age is at its largest just before a new point is recorded: the engine asks then, with the old point,
// and keeps WorstSeconds.
func RPO(p api.Policy, newest time.Time, worstSeconds float64, now time.Time) api.RPOStatus {
	if newest.IsZero() {
		return api.RPOStatus{WorstSeconds: worstSeconds}
	}
	age := max(0, now.Sub(newest))
	taken := newest.UTC()
	return api.RPOStatus{
		AgeSeconds:   age.Seconds(),
		NewestTaken:  &taken,
		Met:          age <= rpoOf(p),
		WorstSeconds: max(worstSeconds, age.Seconds()),
	}
}

func rpoOf(p api.Policy) time.Duration { return time.Duration(p.RPOSeconds) * time.Second }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
