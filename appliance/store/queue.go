package store

import (
	"errors"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"

	"understudy/api"
)

// queue writes changes that wait at the same time in one transaction: they share its two syncs. Nobody waits for others to
// come, as in bbolt's own Batch: whoever finds the file free writes what is there by then.
type queue struct {
	mu      sync.Mutex
	waiting []*change
	writer  sync.Mutex // held while a transaction is open
}

type change struct {
	do   func(*bbolt.Tx) error
	done bool // from here on covered by queue.writer
	err  error
}

// write makes a change, durable on return, and with all other changes that wait. do must not fail for a reason of its own:
// the others would fail with it.
func (q *queue) write(db *bbolt.DB, do func(*bbolt.Tx) error) error {
	c := &change{do: do, err: errLost} // unless it is settled: bbolt itself may panic on the way
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	q.mu.Unlock()

	q.writer.Lock()
	defer q.writer.Unlock()
	if c.done {
		return c.err
	}
	q.mu.Lock()
	all := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	if len(all) > 0 {
		settle(db, all)
	}
	return c.err
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
		c.done, c.err = true, err
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
