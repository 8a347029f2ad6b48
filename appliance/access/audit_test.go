package access

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// change tries something that ends with the status.
func (w *world) change(action string, outcome string) {
	w.t.Helper()
	e := api.AuditEntry{User: "ada", Method: api.MethodSession, Action: action}
	key, err := w.BeginAudit(&e)
	require.NoError(w.t, err)
	e.Outcome = outcome
	require.NoError(w.t, w.EndAudit(key, e))
}

func (w *world) exported() []api.AuditEntry {
	w.t.Helper()
	var all []api.AuditEntry
	require.NoError(w.t, w.ExportAudit(w.t.Context(), time.Time{}, time.Time{}, func(e api.AuditEntry) error {
		all = append(all, e)
		return nil
	}))
	return all
}

func check(entries []api.AuditEntry) error {
	var chain api.AuditChain
	for _, e := range entries {
		if err := chain.Next(e); err != nil {
			return err
		}
	}
	return nil
}

func TestAuditChainFindsWhatWasChanged(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.change(fmt.Sprint("action", i), api.OutcomeDone)
	}
	w.restart()
	w.change("after a restart", api.OutcomeFailed)
	all := w.exported()
	require.Len(t, all, 6)
	require.NoError(t, check(all))
	require.NoError(t, check(all[2:]), "a part can be checked in itself")
	for i := range all {
		changed := append([]api.AuditEntry{}, all...)
		changed[i].User = "eve"
		require.Error(t, check(changed), i)
		require.Error(t, check(append(append([]api.AuditEntry{}, all[:i]...), append([]api.AuditEntry{all[0]}, all[i:]...)...)), "put in at %d", i)
		if i > 0 && i < len(all)-1 {
			require.Error(t, check(append(append([]api.AuditEntry{}, all[:i]...), all[i+1:]...)), "left out at %d", i)
		}
		// Nor can the hash of a changed one be made anew without all that follow.
		if i < len(all)-1 {
			changed[i].Hash = changed[i].Chained(map[bool]string{true: "", false: all[max(0, i-1)].Hash}[i == 0])
			require.Error(t, check(changed), i)
		}
	}
}

func TestWhatWasUnderWayIsNotForgotten(t *testing.T) {
	w := newWorld(t)
	e := api.AuditEntry{User: "ada", Action: "failover"}
	_, err := w.BeginAudit(&e)
	require.NoError(t, err)
	w.restart() // the appliance ends before the answer
	w.restart()
	all := w.exported()
	require.Len(t, all, 1)
	require.Equal(t, api.OutcomeUnknown, all[0].Outcome)
	require.Equal(t, "failover", all[0].Action)
}

// failing is a disk that is full while it is told so.
type failing struct {
	Store
	full bool
}

func (f *failing) Put(bucket, key string, v any) error {
	if f.full {
		return api.Errorf(api.CodeNoSpace, "", "no space left")
	}
	return f.Store.Put(bucket, key, v)
}

func TestNothingGoesUnaudited(t *testing.T) {
	w := newWorld(t)
	disk := &failing{Store: w.db}
	w.Store = disk
	e := api.AuditEntry{User: "ada", Action: "first"}
	key, err := w.BeginAudit(&e)
	require.NoError(t, err)
	disk.full = true
	_, err = w.BeginAudit(&api.AuditEntry{})
	require.Equal(t, api.CodeNoSpace, code(err), "what cannot be written down is not tried")
	e.Outcome = api.OutcomeDone
	require.Error(t, w.EndAudit(key, e))
	disk.full = false
	w.change("second", api.OutcomeDone)
	all := w.exported()
	require.Len(t, all, 2)
	require.Equal(t, "first", all[0].Action)
	require.Equal(t, api.OutcomeDone, all[0].Outcome)
	require.NoError(t, check(all))
}

// An entry that was appended before the appliance died is not appended again.
func TestAppendedTwiceIsOnce(t *testing.T) {
	w := newWorld(t)
	e := api.AuditEntry{User: "ada", Action: "failover", Outcome: api.OutcomeDone}
	key, err := w.BeginAudit(&e)
	require.NoError(t, err)
	require.NoError(t, w.append(auditRecord{e, key})) // and dies here
	w.restart()
	require.Len(t, w.exported(), 1)
}

func TestStrangersCannotFillTheLog(t *testing.T) {
	w := newWorld(t)
	refuse := func(from string) {
		require.NoError(t, w.EndAudit("", api.AuditEntry{Method: "none", Source: from, Action: "sign-in", Outcome: api.OutcomeRefused}))
	}
	for i := range 2000 {
		refuse(fmt.Sprintf("198.51.%d.%d", 100+i/250, i%250))
	}
	require.Len(t, w.exported(), strangerAtOnce.burst)
	w.change("what matters", api.OutcomeDone)
	w.pass(time.Hour)
	refuse(away)
	all := w.exported()
	require.Equal(t, "what matters", all[len(all)-2].Action)
	require.Contains(t, all[len(all)-1].Message, "1800 more")
	require.NoError(t, check(all))
}

func TestAuditPages(t *testing.T) {
	w := newWorld(t)
	began := w.clock()
	for i := range 25 {
		w.pass(time.Minute)
		w.change(fmt.Sprintf("action-%02d", i), []string{api.OutcomeDone, api.OutcomeRefused}[i%2])
	}
	list := func(q api.AuditQuery) (actions []string, total int) {
		t.Helper()
		page, err := w.ListAudit(t.Context(), q)
		require.NoError(t, err)
		for _, e := range page.Items {
			actions = append(actions, e.Action)
		}
		return actions, page.Total
	}
	got, total := list(api.AuditQuery{Limit: 2, Offset: 1})
	require.Equal(t, []string{"action-23", "action-22"}, got)
	require.Equal(t, 25, total)
	got, total = list(api.AuditQuery{Limit: 2, Offset: 1, Q: "REFUSED"})
	require.Equal(t, []string{"action-21", "action-19"}, got)
	require.Equal(t, 12, total)
	got, total = list(api.AuditQuery{From: began.Add(2 * time.Minute), To: began.Add(4 * time.Minute), User: "Ada"})
	require.Equal(t, []string{"action-02", "action-01"}, got)
	require.Equal(t, 2, total)
	got, total = list(api.AuditQuery{Offset: 25})
	require.Empty(t, got)
	require.Equal(t, 25, total)
	_, total = list(api.AuditQuery{User: "eve"})
	require.Zero(t, total)
	_, total = list(api.AuditQuery{Action: "action-07"})
	require.Equal(t, 1, total)
	stop := errors.New("stop")
	require.ErrorIs(t, w.ExportAudit(t.Context(), time.Time{}, time.Time{}, func(api.AuditEntry) error { return stop }), stop)
}

func TestOrdersThatComeAgain(t *testing.T) {
	w := newWorld(t)
	ada, bob := api.Principal{User: "1"}, api.Principal{User: "2"}
	begin := func(p api.Principal, key, request string) (*api.Answer, api.Code) {
		answer, err := w.BeginOrder(t.Context(), p, key, request)
		return answer, code(err)
	}
	answer, c := begin(ada, "k", "failover")
	require.Nil(t, answer)
	require.Empty(t, c)
	gone, leave := context.WithCancel(t.Context())
	leave()
	_, err := w.BeginOrder(gone, ada, "k", "failover")
	require.Equal(t, api.CodeConflict, code(err), "at work")
	kept := &api.Answer{Status: 202, Header: map[string]string{"Location": "/x"}, Body: []byte(`{"id":"j1"}`)}
	require.NoError(t, w.EndOrder(ada, "k", kept))
	w.restart()
	answer, c = begin(ada, "k", "failover")
	require.Empty(t, c)
	require.Equal(t, kept, answer, "also after a restart")
	_, c = begin(ada, "k", "rollback")
	require.Equal(t, api.CodeInvalid, c)
	answer, c = begin(bob, "k", "failover")
	require.Nil(t, answer, "of another user")
	require.Empty(t, c)
	require.NoError(t, w.EndOrder(bob, "k", nil)) // it was refused
	answer, c = begin(bob, "k", "failover")
	require.Nil(t, answer)
	require.Empty(t, c)
	w.restart() // in the middle of it
	_, c = begin(bob, "k", "failover")
	require.Equal(t, api.CodeConflict, c, "nobody knows whether it was done")
	w.pass(keepOrders)
	answer, c = begin(ada, "k", "rollback")
	require.Nil(t, answer)
	require.Empty(t, c, "a day later a key is free again")
}

func TestOrderComesAgainWhileAtWork(t *testing.T) {
	w := newWorld(t)
	ada := api.Principal{User: "1"}
	kept := &api.Answer{Status: 202, Header: map[string]string{}, Body: []byte(`{"id":"j1"}`)}
	ends := map[string]func() error{
		"carried out": func() error { return w.EndOrder(ada, "carried out", kept) },
		"refused":     func() error { return w.EndOrder(ada, "refused", nil) },
		"lost":        func() error { w.LoseOrder(ada, "lost"); return nil },
	}
	for key, end := range ends {
		_, err := w.BeginOrder(t.Context(), ada, key, "failover")
		require.NoError(t, err)
		type outcome struct {
			answer *api.Answer
			err    error
		}
		again := make(chan outcome)
		go func() {
			answer, err := w.BeginOrder(t.Context(), ada, key, "failover")
			again <- outcome{answer, err}
		}()
		select {
		case got := <-again:
			t.Fatalf("%s: did not wait: %v", key, got)
		case <-time.After(10 * time.Millisecond): // long enough to see one that never waits
		}
		require.NoError(t, end())
		got := <-again
		switch key {
		case "carried out":
			require.Equal(t, outcome{answer: kept}, got)
		case "refused":
			require.Equal(t, outcome{}, got, "it is carried out now")
		default:
			require.Equal(t, api.CodeConflict, code(got.err))
		}
	}
}
