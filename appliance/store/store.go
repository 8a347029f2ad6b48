// Package store is the only code that touches the state database: one bbolt file with JSON values by bucket and key,
// the log of events, and the bus that hands events on. It knows how to keep values, never what they mean, and it never
// touches a host: what a host says about points and machines is the truth, whatever stands here.
//
// Every change is durable when its method returns; changes that wait at the same time are written together. The file is
// checked in full, read-only, before anything is written, so that a damaged or a newer one is left exactly as it was found.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

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

// Put keeps v, as JSON, under the key. It replaces what was there.
func (db *DB) Put(bucket, key string, v any) error {
	value, err := marshal(bucket, key, v) // here, where it keeps nobody else waiting
	if err != nil {
		return err
	}
	return db.Update(func(tx *Tx) error { return tx.put(bucket, key, value) })
}

// Get reads the value into v; ErrNotFound when there is none.
func (db *DB) Get(bucket, key string, v any) error {
	return db.bolt.View(func(tx *bbolt.Tx) error { return (&Tx{tx}).Get(bucket, key, v) })
}

// Delete removes the value. None there is success.
func (db *DB) Delete(bucket, key string) error {
	return db.Update(func(tx *Tx) error { return tx.Delete(bucket, key) })
}

// Each calls fn for all keys of the bucket in byte order, as they were at one moment, until fn fails. It holds no
// transaction meanwhile: fn may change the database.
func (db *DB) Each(bucket string, fn func(key string, decode func(v any) error) error) error {
	var pairs []pair
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		pairs = (&Tx{tx}).pairs(bucket)
		return nil
	})
	if err != nil {
		return err
	}
	return each(bucket, pairs, fn)
}

// Update makes several changes at once: all of them when fn returns nil, else none. fn must use tx only, not the DB; it
// is called again when another change that is written with it fails.
func (db *DB) Update(fn func(tx *Tx) error) error {
	return db.queue.write(db.bolt, func(tx *bbolt.Tx) error { return fn(&Tx{tx}) })
}

// Tx is a set of changes that happen together; see Update.
type Tx struct {
	bolt *bbolt.Tx
}

// Put is as DB.Put.
func (tx *Tx) Put(bucket, key string, v any) error {
	value, err := marshal(bucket, key, v)
	if err != nil {
		return err
	}
	return tx.put(bucket, key, value)
}

func marshal(bucket, key string, v any) ([]byte, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("keep %s %s: %w", bucket, key, err)
	}
	return value, nil
}

func (tx *Tx) put(bucket, key string, value []byte) error {
	if err := foreign(bucket); err != nil {
		return err
	}
	b, err := tx.bolt.CreateBucketIfNotExists([]byte(bucket))
	if err == nil {
		err = b.Put([]byte(key), value)
	}
	if err != nil {
		return fmt.Errorf("keep %s %s: %w", bucket, key, err)
	}
	return nil
}

// Get is as DB.Get.
func (tx *Tx) Get(bucket, key string, v any) error {
	var value []byte
	if b := tx.bolt.Bucket([]byte(bucket)); b != nil {
		value = b.Get([]byte(key))
	}
	if value == nil {
		return fmt.Errorf("%s %s: %w", bucket, key, ErrNotFound)
	}
	return decode(bucket, key, value, v)
}

// Delete is as DB.Delete.
func (tx *Tx) Delete(bucket, key string) error {
	if err := foreign(bucket); err != nil {
		return err
	}
	b := tx.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	if err := b.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s %s: %w", bucket, key, err)
	}
	return nil
}

// Each is as DB.Each, over the values as this transaction found or made them.
func (tx *Tx) Each(bucket string, fn func(key string, decode func(v any) error) error) error {
	return each(bucket, tx.pairs(bucket), fn)
}

type pair struct{ key, value []byte }

// pairs copies, because bbolt's slices end with the transaction and its cursors do not survive changes.
func (tx *Tx) pairs(bucket string) []pair {
	b := tx.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	var all []pair
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		all = append(all, pair{slices.Clone(k), slices.Clone(v)})
	}
	return all
}

func each(bucket string, pairs []pair, fn func(key string, decode func(v any) error) error) error {
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

func foreign(bucket string) error {
	if bucket == metaBucket || bucket == eventsBucket {
		return fmt.Errorf("bucket %s belongs to the store", bucket)
	}
	return nil
}
