package store

import (
	"errors"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"

	"understudy/api"
)

// queue writes changes that wait at the same time in one transaction: they share its two syncs. Nobody waits for others to
// come, as in bbolt's own Batch: whoever finds the file free writes what is there by then, and then leaves it to the first
// of those that came meanwhile.
type queue struct {
	mu      sync.Mutex
	waiting []*change
	writing bool // somebody writes, or was told to
	turns   int  // how many have written
}

type change struct {
	do   func(*bbolt.Tx) error
	err  error
	told chan bool // true: it is settled; false: its turn to write
}

// write makes a change, durable on return, and with all other changes that wait. do must not fail for a reason of its own:
// the others would fail with it.
func (q *queue) write(db *bbolt.DB, do func(*bbolt.Tx) error) error {
	c := &change{do: do, err: errLost, told: make(chan bool, 1)} // errLost unless it is settled: bbolt itself may panic on the way
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	first := !q.writing
	q.writing = true
	q.mu.Unlock()
	if !first && <-c.told {
		return c.err
	}
	q.mu.Lock()
	all := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	defer q.leave(all, c)
	settle(db, all)
	return c.err
}

// leave tells all whose changes were settled but the one that settled them, each by itself: as many as they are, none waits
// for another. It lets the next one write.
func (q *queue) leave(settled []*change, by *change) {
	for _, c := range settled {
		if c != by {
			c.told <- true
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns++
	if q.writing = len(q.waiting) > 0; q.writing {
		q.waiting[0].told <- false
	}
}

// written is how many have had their turn.
func (q *queue) written() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.turns
}

// moved says that nobody writes, or another than when so many had had their turn.
func (q *queue) moved(turns int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.writing || q.turns != turns
}

// settle makes all changes or none.
func settle(db *bbolt.DB, all []*change) {
	err := db.Update(func(tx *bbolt.Tx) error {
		for _, c := range all {
			if err := c.do(tx); err != nil {
				return err
			}
		}
		return nil
	})
	err = full(err)
	for _, c := range all {
		c.err = err
	}
}

// full says what to do where there is no room.
func full(err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return api.Errorf(api.CodeNoSpace, "Free space where the appliance keeps its state: nothing can be ordered until it can be written down.",
		"state database: %w", err)
}

var errLost = errors.New("the state database gave up in the middle of a write")
