package jobs

import (
	"cmp"
	"slices"
)

// index finds jobs without walking over all of them. The Runner's lock covers it.
type index struct {
	byID    map[string]*Run
	all     []*Run            // ids ascend
	byGroup map[string][]*Run // likewise
	// locks has the job that took each last. One that has ended holds it no more.
	locks map[string]*Run
}

func newIndex() *index {
	return &index{byID: map[string]*Run{}, byGroup: map[string][]*Run{}, locks: map[string]*Run{}}
}

func (x *index) add(run *Run) {
	job := run.shown.Load()
	x.byID[job.ID] = run
	x.all = insert(x.all, run)
	x.byGroup[job.Group] = insert(x.byGroup[job.Group], run)
}

func (x *index) remove(id string) {
	run, known := x.byID[id]
	if !known {
		return
	}
	group := run.shown.Load().Group
	delete(x.byID, id)
	x.all = without(x.all, id)
	if x.byGroup[group] = without(x.byGroup[group], id); len(x.byGroup[group]) == 0 {
		delete(x.byGroup, group)
	}
}

// holder is the unfinished job that holds a lock, or nil.
func (x *index) holder(lock string) *Run {
	if run := x.locks[lock]; run != nil && !run.shown.Load().State.Ended() {
		return run
	}
	return nil
}

// settling tells whether one of the locks is held by a job that is not durable yet.
func (x *index) settling(locks []string) bool {
	return slices.ContainsFunc(locks, func(key string) bool {
		holder := x.holder(key)
		return holder != nil && x.byID[holder.ID()] == nil
	})
}

func (x *index) lock(run *Run, locks []string) {
	for _, key := range locks {
		x.locks[key] = run
	}
}

func (x *index) unlock(run *Run, locks []string) {
	for _, key := range locks {
		if x.locks[key] == run {
			delete(x.locks, key)
		}
	}
}

// of gives the jobs of a group, or all of them when it is empty.
func (x *index) of(group string) []*Run {
	if group == "" {
		return x.all
	}
	return x.byGroup[group]
}

func place(runs []*Run, id string) (int, bool) {
	return slices.BinarySearchFunc(runs, id, func(run *Run, id string) int { return cmp.Compare(run.shown.Load().ID, id) })
}

func insert(runs []*Run, run *Run) []*Run {
	i, _ := place(runs, run.shown.Load().ID)
	return slices.Insert(runs, i, run)
}

func without(runs []*Run, id string) []*Run {
	i, found := place(runs, id)
	if !found {
		return runs
	}
	return slices.Delete(runs, i, i+1)
}
