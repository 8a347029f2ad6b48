package replication

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"understudy/api"
)

// How much of reports is kept.
const (
	keepReports = 10_000
	// keepScreens is how many of the newest reports of a group keep the pictures of screens; keepScreenBytes bounds those
	// of all together.
	keepScreens     = 20
	keepScreenBytes = 256 << 20
)

// archive is the reports that are kept, oldest first: their ids, which are those of jobs, ascend. A report is never
// changed in place.
type archive struct {
	mu      sync.Mutex
	reports []*reportRecord
}

func (a *archive) all() []*reportRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.reports)
}

func (a *archive) place(id string) (int, bool) {
	return slices.BinarySearchFunc(a.reports, id, func(r *reportRecord, id string) int { return cmp.Compare(r.ID, id) })
}

func (a *archive) get(id string) (reportRecord, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, found := a.place(id); found {
		return *a.reports[i], true
	}
	return reportRecord{}, false
}

// find gives the newest that fits.
func (a *archive) find(fits func(reportRecord) bool) (reportRecord, bool) {
	for _, r := range slices.Backward(a.all()) {
		if fits(*r) {
			return *r, true
		}
	}
	return reportRecord{}, false
}

func (a *archive) put(r reportRecord) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := a.place(r.ID)
	if found {
		a.reports[i] = &r
		return
	}
	a.reports = slices.Insert(a.reports, i, &r)
}

func (a *archive) remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, found := a.place(id); found {
		a.reports = slices.Delete(a.reports, i, i+1)
	}
}

// loadReports reads what is kept. One that cannot be read is left out: no recovery must wait for what is past.
func (e *Engine) loadReports() error {
	return e.Store.Each(bucketReports, func(key string, decode func(any) error) error {
		var rec reportRecord
		if err := decode(&rec); err != nil || rec.ID != key {
			e.Log.Error("report cannot be read", "report", key, "error", err)
			return nil
		}
		e.archive.put(rec)
		return nil
	})
}

// keepReport writes a report down, and lets go of what need not be kept behind it.
func (e *Engine) keepReport(rec reportRecord) error {
	_, known := e.archive.get(rec.ID)
	if err := e.Store.Put(bucketReports, rec.ID, rec); err != nil {
		return err
	}
	e.archive.put(rec)
	action := "created"
	if known {
		action = "updated"
	}
	e.publish("report", action, rec.ID, rec.Group, "")
	if err := e.trimReports(rec.Group); err != nil {
		e.Log.Warn("old reports stay", "error", err)
	}
	return nil
}

// trimReports keeps the bounds. The pictures go before their report is written without them; one whose picture is gone
// answers as if it had none.
func (e *Engine) trimReports(group string) error {
	all := e.archive.all()
	for len(all) > e.KeepReports {
		if err := e.dropReport(*all[0]); err != nil {
			return err
		}
		all = all[1:]
	}
	ofGroup, total := 0, int64(0)
	for _, rec := range slices.Backward(all) {
		if len(rec.Screens) == 0 {
			continue
		}
		for _, s := range rec.Screens {
			total += s.Bytes
		}
		if rec.Group == group {
			ofGroup++
		}
		if rec.Group == group && ofGroup > keepScreens || total > keepScreenBytes {
			if err := e.dropScreens(*rec); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) dropReport(rec reportRecord) error {
	var err error
	for _, s := range rec.Screens {
		err = errors.Join(err, e.Store.Delete(bucketScreens, s.Key))
	}
	for i := range rec.Actions {
		err = errors.Join(err, e.Store.Delete(bucketOutputs, outputKey(rec.ID, i)))
	}
	if err = errors.Join(err, e.Store.Delete(bucketReports, rec.ID)); err == nil {
		e.archive.remove(rec.ID)
	}
	return err
}

func (e *Engine) dropScreens(rec reportRecord) error {
	for _, s := range rec.Screens {
		if err := e.Store.Delete(bucketScreens, s.Key); err != nil {
			return err
		}
	}
	rec.Screens = nil
	rec.Machines = slices.Clone(rec.Machines)
	for i := range rec.Machines {
		if rec.Machines[i].Screen {
			rec.Machines[i].Screen, rec.Machines[i].ScreenProblem = false, "it is not kept any more"
		}
	}
	if err := e.Store.Put(bucketReports, rec.ID, rec); err != nil {
		return err
	}
	e.archive.put(rec)
	return nil
}

// ListReports gives the newest first.
func (e *Engine) ListReports(_ context.Context, q api.ReportQuery) (api.Page[api.Report], error) {
	if err := q.Validate(); err != nil {
		return api.Page[api.Report]{}, err
	}
	all := e.archive.all()
	found := []api.Report{}
	for _, rec := range slices.Backward(all) {
		if q.Scope.Has(rec.Group) && (q.Group == "" || q.Group == rec.Group || q.Group == rec.GroupName) && (q.Kind == "" || q.Kind == rec.Kind) {
			found = append(found, rec.Report)
		}
	}
	return api.PageOf(found, q.Paging), nil
}

// GetReport gives one, with the output of its actions.
func (e *Engine) GetReport(_ context.Context, id string) (api.Report, error) {
	rec, found := e.archive.get(id)
	if !found {
		return api.Report{}, noReport(id)
	}
	r := rec.Report
	r.Actions = slices.Clone(r.Actions)
	for i := range r.Actions {
		// Not every action wrote something.
		_ = e.Store.Get(bucketOutputs, outputKey(id, i), &r.Actions[i].Output)
	}
	return r, nil
}

func noReport(id string) error {
	return api.Errorf(api.CodeNotFound, "List the reports to see which there are.", "there is no report %q", id)
}

// ReportScreen gives the picture of a machine's screen.
func (e *Engine) ReportScreen(_ context.Context, id, machine string) ([]byte, error) {
	rec, found := e.archive.get(id)
	if !found {
		return nil, noReport(id)
	}
	var shot []byte
	if s, kept := rec.Screens[machine]; !kept || e.Store.Get(bucketScreens, s.Key, &shot) != nil {
		return nil, api.Errorf(api.CodeNotFound, "", "report %s has no picture of the screen of %q", id, machine)
	}
	return shot, nil
}
