package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"

	"go.etcd.io/bbolt"
)

// exchangeKey is where the metadata keep which exchange was the last.
var exchangeKey = []byte("exchange")

// Exchange gives buckets a new content, by key, and empties others; all the rest stays. It makes the whole change or
// nothing, durable when it returns, and remembers its id with it: see Exchanged.
func (db *DB) Exchange(id string, replace map[string]map[string]json.RawMessage, clear []string) error {
	buckets := map[string]map[string]json.RawMessage{}
	for _, name := range clear {
		buckets[name] = nil
	}
	maps.Copy(buckets, replace)
	if err := exchangeable(buckets); err != nil {
		return err
	}
	remembered, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return db.queue.write(db.bolt, func(tx *bbolt.Tx) error {
		for name, values := range buckets {
			if err := refill(tx, []byte(name), values); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put(exchangeKey, remembered)
	})
}

func exchangeable(buckets map[string]map[string]json.RawMessage) error {
	for name, values := range buckets {
		if err := allowed(name, "any", nil); err != nil {
			return err
		}
		for key, value := range values {
			if err := allowed(name, key, value); err != nil {
				return err
			}
			if !json.Valid(value) {
				return fmt.Errorf("value %q of %s cannot be read", key, name)
			}
		}
	}
	return nil
}

func refill(tx *bbolt.Tx, name []byte, values map[string]json.RawMessage) error {
	if tx.Bucket(name) != nil {
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
	}
	b, err := tx.CreateBucket(name)
	if err != nil {
		return err
	}
	for key, value := range values {
		if err := b.Put([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

// Exchanged is the id of the last exchange; empty: there was none.
func (db *DB) Exchanged() (id string, err error) {
	err = db.bolt.View(func(tx *bbolt.Tx) error {
		if value := tx.Bucket([]byte(metaBucket)).Get(exchangeKey); value != nil {
			return json.Unmarshal(value, &id)
		}
		return nil
	})
	return id, err
}

// Buckets are the names of all buckets, without those of this package.
func (db *DB) Buckets() (names []string, err error) {
	err = db.bolt.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if s := string(name); s != metaBucket && s != eventsBucket {
				names = append(names, s)
			}
			return nil
		})
	})
	return names, err
}

// CopyTo writes a consistent copy of the database, durable before it has its name. One that is there stays.
func (db *DB) CopyTo(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return db.bolt.View(func(tx *bbolt.Tx) error { return backup(path, tx) })
}
