package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/api"
)

// The log is written in two steps. Before something is tried, it is put into the second bucket: what cannot be written
// down is not tried. Afterwards its outcome is appended to the first one, which is only ever appended to. What is found in
// the second one at a start was under way when the appliance ended.
const (
	bucketAudit   = "audit"
	bucketPending = "audit-pending"
)

// Attempts that change nothing are written down up to these rates, so that nobody can fill the disk: those of one address
// or user, and those of all strangers together. The next one that is written says how many were left out.
var (
	refusedAtOnce  = rate{50, 10 * time.Second}
	strangerAtOnce = rate{200, time.Minute}
)

// maxLate bounds the memory for entries that the disk did not take.
const maxLate = 1000

// lookBack is how far at a start is searched for entries whose begin was not forgotten.
const lookBack = 1000

// auditRecord is an entry as it is kept.
type auditRecord struct {
	api.AuditEntry
	Pending string `json:"pending,omitempty"` // key of its beginning; not part of the chain
}

type audit struct {
	mu      sync.Mutex // one after the other: each entry hashes the one before
	last    api.AuditEntry
	late    []auditRecord
	omitted int
}

func auditKey(id uint64) string { return fmt.Sprintf("%020d", id) }

// loadAudit finds the end of the chain, and closes what was under way when the appliance ended.
func (a *Access) loadAudit() error {
	closed, n, enough := map[string]bool{}, 0, errors.New("enough")
	err := a.Store.Walk(bucketAudit, "", true, func(_ string, value []byte) error {
		var r auditRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return err
		}
		if closed[r.Pending] = true; n == 0 {
			a.audit.last = r.AuditEntry
		}
		if n++; n >= lookBack {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return fmt.Errorf("read audit log: %w", err)
	}
	var open []auditRecord
	if err := each(a.Store, bucketPending, func(key string, e api.AuditEntry) { open = append(open, auditRecord{e, key}) }); err != nil {
		return err
	}
	slices.SortFunc(open, func(x, y auditRecord) int { return x.Time.Compare(y.Time) })
	for _, r := range open {
		if !closed[r.Pending] {
			r.Outcome, r.Message = api.OutcomeUnknown, "the appliance ended before this did"
			if err := a.append(r); err != nil {
				return err
			}
		}
		if err := a.Store.Delete(bucketPending, r.Pending); err != nil {
			return err
		}
	}
	if a.audit.last.ID > 0 {
		a.Log.Info("audit log goes on", "entry", a.audit.last.ID, "hash", a.audit.last.Hash)
	}
	return nil
}

// append makes r the next entry, durably. The lock is held, or nobody else is there yet.
func (a *Access) append(r auditRecord) error {
	r.ID = a.audit.last.ID + 1
	r.Hash = r.Chained(a.audit.last.Hash)
	if err := a.Store.Put(bucketAudit, auditKey(r.ID), r); err != nil {
		return err
	}
	a.audit.last = r.AuditEntry
	return nil
}

// BeginAudit writes down that something is going to be tried, and gives it its time. When that fails, it must not be tried.
func (a *Access) BeginAudit(e *api.AuditEntry) (key string, err error) {
	e.Time = a.Clock().UTC()
	key = newID()
	if err := a.Store.Put(bucketPending, key, e); err != nil {
		return "", api.Errorf(api.CodeOf(err), "Free space where the appliance keeps its state.",
			"nothing was changed, because it cannot be written into the audit log: %w", err)
	}
	return key, nil
}

// EndAudit writes down the outcome of what began with the key, or of what was refused before it began (""). When that
// fails, the beginning stays on the disk, the outcome is tried again with the next one, and the error is for the log alone:
// the change has happened. Too many refused attempts are counted instead.
func (a *Access) EndAudit(key string, e api.AuditEntry) error {
	l := &a.audit
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = a.Clock().UTC()
	}
	if e.Outcome == api.OutcomeRefused {
		if a.throttle.take(attempt(e)...) != nil {
			l.omitted++
			return a.forgetPending(key)
		}
		if l.omitted > 0 {
			e.Message = strings.TrimSpace(fmt.Sprintf("%s (%d more refused attempts before were not written down)", e.Message, l.omitted))
			l.omitted = 0
		}
	}
	l.late = append(l.late, auditRecord{e, key})
	for len(l.late) > 0 {
		if err := a.append(l.late[0]); err != nil {
			if len(l.late) > maxLate {
				a.Log.Error("entry of the audit log is lost", "action", l.late[0].Action, "user", l.late[0].User)
				l.late = l.late[1:]
			}
			return fmt.Errorf("audit log is behind by %d entries: %w", len(l.late), err)
		}
		key := l.late[0].Pending
		l.late = l.late[1:]
		if err := a.forgetPending(key); err != nil {
			return err
		}
	}
	return nil
}

// attempt is what a refused attempt counts as.
func attempt(e api.AuditEntry) []try {
	if e.Method == "none" {
		return []try{{"refused from " + place(e.Source), refusedAtOnce}, {"refused strangers", strangerAtOnce}}
	}
	return []try{{"refused " + e.User, refusedAtOnce}}
}

func (a *Access) forgetPending(key string) error {
	if key == "" {
		return nil
	}
	if err := a.Store.Delete(bucketPending, key); err != nil {
		return fmt.Errorf("forget the beginning of an audit entry: %w", err)
	}
	return nil
}

// ListAudit implements api.AuditLog. Without filters it reads only what it gives: ids have no gaps.
func (a *Access) ListAudit(_ context.Context, q api.AuditQuery) (api.Page[api.AuditEntry], error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	a.audit.mu.Lock()
	last := a.audit.last.ID
	a.audit.mu.Unlock()
	page := api.Page[api.AuditEntry]{Items: []api.AuditEntry{}}
	f := newAuditFilter(q)
	from, skip := last, q.Offset
	if f == (auditFilter{}) {
		page.Total = int(last)
		if uint64(q.Offset) >= last {
			return page, nil
		}
		from, skip = last-uint64(q.Offset), 0
	}
	done := errors.New("done")
	err := a.Store.Walk(bucketAudit, auditKey(from), true, func(_ string, value []byte) error {
		fits, err := f.fits(value)
		if err != nil || !fits {
			return err
		}
		full := len(page.Items) == q.Limit
		switch {
		case f != (auditFilter{}):
			page.Total++
		case full:
			return done
		}
		if skip > 0 || full {
			skip--
			return nil
		}
		var e api.AuditEntry
		if err := json.Unmarshal(value, &e); err != nil {
			return err
		}
		page.Items = append(page.Items, e)
		return nil
	})
	if errors.Is(err, done) {
		err = nil
	}
	return page, err
}

// auditFilter lets all entries through that fit; the zero filter lets all through.
type auditFilter struct {
	text, user, action string // text is in lower case
	from, to           time.Time
}

func newAuditFilter(q api.AuditQuery) auditFilter {
	return auditFilter{text: strings.ToLower(q.Q), user: q.User, action: q.Action, from: q.From, to: q.To}
}

// fits tells whether the entry, in JSON, is let through. A search looks at the whole log, so nothing is taken apart for it
// that need not be.
func (f auditFilter) fits(value []byte) (bool, error) {
	if f.text != "" && !bytes.Contains(bytes.ToLower(value), []byte(f.text)) {
		return false, nil
	}
	if f == (auditFilter{text: f.text}) {
		return true, nil
	}
	var e struct {
		Time         time.Time
		User, Action string
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return false, err
	}
	return (f.user == "" || strings.EqualFold(f.user, e.User)) && (f.action == "" || f.action == e.Action) &&
		(f.from.IsZero() || !e.Time.Before(f.from)) && (f.to.IsZero() || e.Time.Before(f.to)), nil
}

// ExportAudit implements api.AuditLog.
func (a *Access) ExportAudit(ctx context.Context, from, to time.Time, fn func(api.AuditEntry) error) error {
	f := auditFilter{from: from, to: to}
	return a.Store.Walk(bucketAudit, "", false, func(_ string, value []byte) error {
		fits, err := f.fits(value)
		if err != nil || !fits {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var e api.AuditEntry
		if err := json.Unmarshal(value, &e); err != nil {
			return err
		}
		return fn(e)
	})
}
