package store

import (
	"errors"
	"sync"

	"go.etcd.io/bbolt"
)

// queue writes changes that wait at the same time in one transaction: they share its two syncs. Nobody waits for others to
// come, as in bbolt's own Batch: whoever finds the file free writes what is there by then.
type queue struct {
	mu      sync.Mutex
	waiting []*change
	writer  sync.Mutex // held while a transaction is open
}

type change struct {
	do       func(*bbolt.Tx) error
	done     bool // from here on covered by queue.writer
	err      error
	panicked any
}

// write makes a change, durable on return, and with all other changes that wait: when one fails, the others are made
// without it.
func (q *queue) write(db *bbolt.DB, do func(*bbolt.Tx) error) error {
	c := &change{do: do}
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	q.mu.Unlock()

	q.turn(db, c)
	if c.panicked != nil {
		panic(c.panicked) // where the mistake is, and not where somebody else happened to write
	}
	return c.err
}

// turn waits until c is settled, or settles it together with all others that wait.
func (q *queue) turn(db *bbolt.DB, c *change) {
	q.writer.Lock()
	defer q.writer.Unlock()
	if c.done {
		return
	}
	q.mu.Lock()
	all := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	commit(db, all)
	if !c.done { // whoever had taken it died on the way, by a panic of bbolt's own
		c.err = errLost
	}
}

// commit settles every change.
func commit(db *bbolt.DB, all []*change) {
	for len(all) > 0 {
		bad := -1
		err := db.Update(func(tx *bbolt.Tx) error {
			for i, c := range all {
				if err := c.try(tx); err != nil {
					bad = i
					return err
				}
			}
			return nil
		})
		if bad < 0 { // written, or nothing can be
			for _, c := range all {
				c.done, c.err = true, err
			}
			return
		}
		all[bad].done, all[bad].err = true, err
		all = append(all[:bad:bad], all[bad+1:]...)
	}
}

// try makes the change in tx, which is given up when it fails.
func (c *change) try(tx *bbolt.Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked, err = p, errPanicked
		}
	}()
	return c.do(tx)
}

var (
	errPanicked = errors.New("the change panicked")
	errLost     = errors.New("the state database gave up in the middle of a write")
)
