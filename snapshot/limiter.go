package snapshot

import (
	"context"
	"sync"
	"time"
)

// Limiter spreads bytes over time so that they stay below a rate. Several copies may share one. A nil Limiter has no
// limit. It grants no bursts: what was not used is gone.
type Limiter struct {
	mu    sync.Mutex
	rate  float64   // bytes per second; 0: no limit
	free  time.Time // when the line is free again
	outer *Limiter
	// changed is closed when the rate is set, so that those who wait reckon anew.
	changed chan struct{}
}

// NewLimiter makes a limiter of bytesPerSecond; 0 or less is no limit.
func NewLimiter(bytesPerSecond int64) *Limiter {
	l := &Limiter{changed: make(chan struct{})}
	l.rate = float64(max(bytesPerSecond, 0))
	return l
}

// Within puts a limiter inside another, before it is used: what goes through it counts for both, and the tighter one
// holds. It gives the limiter back.
func (l *Limiter) Within(outer *Limiter) *Limiter {
	l.outer = outer
	return l
}

// Set changes the rate, also for those who wait already.
func (l *Limiter) Set(bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = float64(max(bytesPerSecond, 0))
	l.free = time.Time{}
	close(l.changed)
	l.changed = make(chan struct{})
}

// Rate gives the bytes per second; 0: no limit.
func (l *Limiter) Rate() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.rate)
}

// Wait returns when n more bytes may go, or when ctx ends.
func (l *Limiter) Wait(ctx context.Context, n int64) error {
	for ; l != nil && ctx.Err() == nil; l = l.outer {
		l.wait(ctx, n)
	}
	return context.Cause(ctx)
}

func (l *Limiter) wait(ctx context.Context, n int64) {
	for ctx.Err() == nil {
		wait, changed := l.reserve(n)
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// reserve takes the line for n bytes if it is free, or says how long to wait before asking again.
func (l *Limiter) reserve(n int64) (time.Duration, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return 0, nil
	}
	now := time.Now()
	if wait := l.free.Sub(now); wait > 0 {
		return wait, l.changed
	}
	l.free = now.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return 0, nil
}
