package store

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"
)

// migrations lead from each format to the next: the first one from format 0 (a file that has no format yet) to 1. Their
// number is the format that this version writes. Never change one that was released; add one.
var migrations = []func(tx *bbolt.Tx) error{
	0: makeEvents,
}

// makeEvents starts the log of events.
func makeEvents(tx *bbolt.Tx) error {
	_, err := tx.CreateBucketIfNotExists([]byte(eventsBucket))
	return err
}

var versionKey = []byte("format")

// migrate brings the database to the current format in one transaction: all of it or nothing.
func migrate(db *bbolt.DB, migrations []func(tx *bbolt.Tx) error) error {
	return db.Update(func(tx *bbolt.Tx) error {
		version, err := versionOf(tx)
		if err != nil {
			return err
		}
		// Asked again although inspect did: a newer daemon may have come and gone in between.
		if version > len(migrations) {
			return fmt.Errorf("%w: it has format %d, this version knows %d", ErrNewer, version, len(migrations))
		}
		if version == len(migrations) {
			return nil
		}
		for i, step := range migrations[version:] {
			if err := step(tx); err != nil {
				return fmt.Errorf("migrate to format %d: %w", version+i+1, err)
			}
		}
		meta, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
		if err != nil {
			return err
		}
		value, err := json.Marshal(len(migrations))
		if err != nil {
			return err
		}
		return meta.Put(versionKey, value)
	})
}

// versionOf is 0 for a file that has no format yet.
func versionOf(tx *bbolt.Tx) (int, error) {
	meta := tx.Bucket([]byte(metaBucket))
	if meta == nil {
		return 0, nil
	}
	var version int
	value := meta.Get(versionKey)
	if err := json.Unmarshal(value, &version); err != nil || version < 0 {
		return 0, fmt.Errorf("format %q is not a number", value)
	}
	return version, nil
}
