// Package store is the only code that touches the state database: one bbolt file with JSON values by bucket and key,
// the log of events, and the bus that hands events on. It knows how to keep values, never what they mean, and it never
// touches a host: what a host says about points and machines is the truth, whatever stands here.
//
// Every change is durable when its method returns; changes that wait at the same time are written together. The file is
// checked in full, read-only, before anything is written, so that a damaged or a newer one is left exactly as it was found.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// Why the state database cannot be used, or has no answer. Open wraps the first three in an *api.Error whose Hint says
// what to do.
var (
	ErrLocked   = errors.New("in use by another process")
	ErrNewer    = errors.New("written by a newer version")
	ErrCorrupt  = errors.New("damaged")
	ErrNotFound = errors.New("not found")
)

// Buckets that belong to this package.
const (
	metaBucket   = "meta"
	eventsBucket = "events"
)

// DB is the open state database. All methods are safe for concurrent use.
type DB struct {
	bolt   *bbolt.DB
	queue  queue          // of changes
	behind sync.WaitGroup // writers that go on after their caller: see Bus
}

// Close gives the file free for another process. It waits for transactions that are open, and until the events that were
// published are kept.
func (db *DB) Close() error {
	db.behind.Wait()
	return db.bolt.Close()
}

// Answers fails when the database is closed, or when writing it has not ended before ctx does.
func (db *DB) Answers(ctx context.Context) error {
	if err := db.bolt.View(func(*bbolt.Tx) error { return nil }); err != nil {
		return err
	}
	// The one who writes holds it up for as long as the disk takes.
	before := db.queue.written()
	for !db.queue.moved(before) {
		select {
		case <-ctx.Done():
			return errors.New("a write does not end")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// Put keeps v, as JSON, under the key. It replaces what was there.
func (db *DB) Put(bucket, key string, v any) error {
	value, err := json.Marshal(v) // here, where it keeps nobody else waiting
	if err == nil {
		err = allowed(bucket, key, value)
	}
	if err == nil {
		err = db.queue.write(db.bolt, func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(bucket))
			if err != nil {
				return err
			}
			return b.Put([]byte(key), value)
		})
	}
	if err != nil {
		return fmt.Errorf("keep %s %s: %w", bucket, key, err)
	}
	return nil
}

// Get reads the value into v; ErrNotFound when there is none.
func (db *DB) Get(bucket, key string, v any) error {
	var value []byte
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(bucket)); b != nil {
			value = slices.Clone(b.Get([]byte(key)))
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("read %s %s: %w", bucket, key, err)
	case value == nil:
		return fmt.Errorf("%s %s: %w", bucket, key, ErrNotFound)
	}
	return decode(bucket, key, value, v)
}

// Delete removes the value. None there is success.
func (db *DB) Delete(bucket, key string) error {
	err := allowed(bucket, key, nil)
	if err == nil {
		err = db.queue.write(db.bolt, func(tx *bbolt.Tx) error {
			if b := tx.Bucket([]byte(bucket)); b != nil {
				return b.Delete([]byte(key))
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", bucket, key, err)
	}
	return nil
}

// Drop removes a bucket with everything in it. None there is success.
func (db *DB) Drop(bucket string) error {
	err := allowed(bucket, "all", nil)
	if err == nil {
		err = db.queue.write(db.bolt, func(tx *bbolt.Tx) error {
			if tx.Bucket([]byte(bucket)) == nil {
				return nil
			}
			return tx.DeleteBucket([]byte(bucket))
		})
	}
	if err != nil {
		return fmt.Errorf("drop %s: %w", bucket, err)
	}
	return nil
}

// Each calls fn for all keys of the bucket in byte order, as they were at one moment, until fn fails. It holds no
// transaction meanwhile: fn may change the database.
func (db *DB) Each(bucket string, fn func(key string, decode func(v any) error) error) error {
	type pair struct{ key, value []byte }
	var pairs []pair
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { // bbolt's slices end with the transaction
			pairs = append(pairs, pair{slices.Clone(k), slices.Clone(v)})
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, p := range pairs {
		key := string(p.key)
		if err := fn(key, func(v any) error { return decode(bucket, key, p.value, v) }); err != nil {
			return err
		}
	}
	return nil
}

func decode(bucket, key string, value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("read %s %s: %w", bucket, key, err)
	}
	return nil
}

// allowed refuses what would fail within a transaction, and take along the changes of others that are written with it.
func allowed(bucket, key string, value []byte) error {
	switch {
	case bucket == metaBucket || bucket == eventsBucket:
		return fmt.Errorf("bucket %s belongs to the store", bucket)
	case bucket == "" || key == "":
		return errors.New("no bucket or no key")
	case len(bucket) > bbolt.MaxKeySize || len(key) > bbolt.MaxKeySize || len(value) > bbolt.MaxValueSize:
		return errors.New("too large")
	}
	return nil
}
