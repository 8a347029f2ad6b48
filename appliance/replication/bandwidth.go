package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"understudy/api"
	"understudy/appliance/protection"
	"understudy/snapshot"
)

// keyCalendar is where the bandwidth calendar is kept in bucketSystem.
const keyCalendar = "bandwidth"

// line is the bandwidth that all copies of the appliance share, by the time of day.
type line struct {
	limit *snapshot.Limiter

	mu       sync.Mutex // held over the write of a new calendar
	calendar api.BandwidthCalendar
	mbit     int // that limit has
}

func (e *Engine) loadCalendar() error {
	e.line.mu.Lock()
	defer e.line.mu.Unlock()
	e.line.calendar = api.BandwidthCalendar{Revision: 1}
	if err := e.loadSystem(keyCalendar, &e.line.calendar); err != nil {
		return fmt.Errorf("load bandwidth calendar: %w", err)
	}
	e.line.keep(e.Clock())
	return nil
}

// keepLine gives all copies the bandwidth that the calendar has for now.
func (e *Engine) keepLine(now time.Time) {
	e.line.mu.Lock()
	defer e.line.mu.Unlock()
	e.line.keep(now)
}

func (l *line) keep(now time.Time) {
	if mbit := protection.Mbit(l.calendar, now); mbit != l.mbit {
		l.mbit = mbit
		l.limit.Set(bytesPerSecond(mbit))
	}
}

func bytesPerSecond(mbit int) int64 { return int64(mbit) * 1e6 / 8 }

// Bandwidth gives the calendar of all copies together.
func (e *Engine) Bandwidth(context.Context) (api.BandwidthCalendar, error) {
	e.line.mu.Lock()
	defer e.line.mu.Unlock()
	return e.line.view(), nil
}

func (l *line) view() api.BandwidthCalendar {
	c := l.calendar
	c.Rules = append([]api.BandwidthRule{}, c.Rules...)
	return c
}

// SetBandwidth replaces the calendar of which the caller has seen the revision.
func (e *Engine) SetBandwidth(_ context.Context, revision int64, c api.BandwidthCalendar) (api.BandwidthCalendar, error) {
	if err := c.Validate(); err != nil {
		return api.BandwidthCalendar{}, err
	}
	l := &e.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calendar.Revision != revision {
		return api.BandwidthCalendar{}, stale("the bandwidth calendar", l.calendar.Revision, revision)
	}
	c.Revision = revision + 1
	if err := e.Store.Put(bucketSystem, keyCalendar, c); err != nil {
		return api.BandwidthCalendar{}, fmt.Errorf("record bandwidth calendar: %w", err)
	}
	l.calendar = c
	l.keep(e.Clock())
	e.publish("settings", "updated", keyCalendar, "", "bandwidth calendar changed")
	return l.view(), nil
}

// stale refuses an edit of something that somebody else has edited since.
func stale(what string, is, seen int64) error {
	return api.Errorf(api.CodeStale, "Read it again and repeat the change.", "%s was changed meanwhile (revision %d, not %d)", what, is, seen)
}
