package store

import (
	"errors"
	"fmt"
	"math"
	"strings"
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
		if err := db.queue.write(db.bolt, func(*bbolt.Tx) error { close(held); <-let; return nil }); err != nil {
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

// What cannot be kept is refused before it waits together with others, who would fail with it.
func TestAChangeThatFailsFailsAlone(t *testing.T) {
	db := open(t, newPath(t))
	settle := gather(t, db, 3, func(i int) error { return db.Put("things", fmt.Sprint(i), i) })
	long := strings.Repeat("k", bbolt.MaxKeySize+1)
	for _, err := range []error{
		db.Put(metaBucket, "a", 1), db.Put(eventsBucket, "a", 1), db.Put("", "a", 1), db.Put("things", "", 1),
		db.Put(long, "a", 1), db.Put("things", long, 1), db.Put("things", "a", math.Inf(1)), db.Put("things", "a", func() {}),
		db.Delete(metaBucket, "a"), db.Delete(eventsBucket, "a"), db.Delete("", "a"),
	} {
		require.Error(t, err)
	}
	for _, err := range settle() {
		require.NoError(t, err)
	}
}

// When bbolt itself gives up in the middle, whoever waited with it is told that nothing was kept.
func TestWhoeverWaitedWithAPanicIsTold(t *testing.T) {
	db := open(t, newPath(t))
	settle := gather(t, db, 5, func(i int) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic %v", p)
			}
		}()
		if i == 2 {
			return db.queue.write(db.bolt, func(*bbolt.Tx) error { panic("page 7") })
		}
		return db.Put("things", fmt.Sprint(i), i)
	})
	panics := 0
	for _, err := range settle() {
		if !errors.Is(err, errLost) {
			require.EqualError(t, err, "panic page 7") // in whoever was the one to write
			panics++
		}
	}
	require.Equal(t, 1, panics)
	require.NoError(t, db.Put("things", "after", 1))
	require.ErrorIs(t, db.Get("things", "0", new(int)), ErrNotFound)
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
