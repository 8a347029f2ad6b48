package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// hold keeps the file busy until release, so that changes gather behind it.
func hold(t *testing.T, db *DB) (release func()) {
	t.Helper()
	held, let := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Update(func(*Tx) error { close(held); <-let; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-held
	return func() { close(let); wg.Wait() }
}

// gather makes n changes at once and waits until they wait together; the errors come by number.
func gather(t *testing.T, db *DB, n int, change func(i int) error) (settle func() []error) {
	t.Helper()
	release := hold(t, db)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = change(i) })
	}
	require.Eventually(t, func() bool {
		db.queue.mu.Lock()
		defer db.queue.mu.Unlock()
		return len(db.queue.waiting) == n
	}, time.Minute, time.Millisecond)
	return func() []error {
		release()
		wg.Wait()
		return errs
	}
}

func transactions(db *DB) (id int) {
	_ = db.bolt.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil })
	return id
}

func TestChangesThatWaitAreWrittenTogether(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	const n = 50
	settle := gather(t, db, n, func(i int) error { return db.Put("things", fmt.Sprint(i), i) })
	before := transactions(db)
	for _, err := range settle() {
		require.NoError(t, err)
	}
	require.Equal(t, before+2, transactions(db), "one that held the file, one for all that waited")
	require.NoError(t, db.Close())
	db = open(t, path)
	for i := range n {
		var got int
		require.NoError(t, db.Get("things", fmt.Sprint(i), &got))
		require.Equal(t, i, got)
	}
}

// A change that fails takes nothing with it, and leaves nothing of its own.
func TestAChangeThatFailsFailsAlone(t *testing.T) {
	db := open(t, newPath(t))
	broken := errors.New("broken")
	settle := gather(t, db, 9, func(i int) error {
		return db.Update(func(tx *Tx) error {
			if err := tx.Put("things", fmt.Sprint(i), i); err != nil || i%3 != 0 {
				return err
			}
			return broken
		})
	})
	for i, err := range settle() {
		var got int
		if i%3 == 0 {
			require.ErrorIs(t, err, broken)
			require.ErrorIs(t, db.Get("things", fmt.Sprint(i), &got), ErrNotFound)
			continue
		}
		require.NoError(t, err)
		require.NoError(t, db.Get("things", fmt.Sprint(i), &got))
	}
}

func TestAPanicStaysWithTheChangeThatMadeIt(t *testing.T) {
	db := open(t, newPath(t))
	settle := gather(t, db, 5, func(i int) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic %v", p)
			}
		}()
		return db.Update(func(tx *Tx) error {
			if i == 2 {
				panic(i)
			}
			return tx.Put("things", fmt.Sprint(i), i)
		})
	})
	for i, err := range settle() {
		if i == 2 {
			require.EqualError(t, err, "panic 2")
		} else {
			require.NoError(t, err)
		}
	}
}

// Whoever waits is told when nothing can be written.
func TestAllHearThatTheFileIsClosed(t *testing.T) {
	db := open(t, newPath(t))
	require.NoError(t, db.Close())
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := db.Put("things", fmt.Sprint(i), i); err == nil {
				t.Error("written to a closed file")
			}
		})
	}
	wg.Wait()
}
