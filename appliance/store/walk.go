package store

import (
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// Walk calls fn for the keys of the bucket in byte order, or against it, beginning with from, or at the end where that is
// empty, until fn fails. Unlike Each it holds only a part of them in memory; what changes meanwhile may be seen or not;
// and it takes no value apart, so that one can look for text in many.
func (db *DB) Walk(bucket, from string, backwards bool, fn func(key string, value []byte) error) error {
	var keys, values [walkAtOnce][]byte
	next := []byte(from)
	for {
		n := 0
		err := db.bolt.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			if b == nil {
				return nil
			}
			c := b.Cursor()
			step := c.Next
			if backwards {
				step = c.Prev
			}
			for k, v := begin(c, next, backwards); k != nil; k, v = step() {
				if n == walkAtOnce {
					next = slices.Clone(k)
					return nil
				}
				keys[n], values[n] = slices.Clone(k), slices.Clone(v) // bbolt's slices end with the transaction
				n++
			}
			next = nil
			return nil
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", bucket, err)
		}
		for i := range n {
			if err := fn(string(keys[i]), values[i]); err != nil {
				return err
			}
		}
		if n < walkAtOnce || next == nil {
			return nil
		}
	}
}

// walkAtOnce is how many values a walk holds.
const walkAtOnce = 256

// begin moves a cursor to the first key of a walk.
func begin(c *bbolt.Cursor, from []byte, backwards bool) (k, v []byte) {
	switch {
	case len(from) == 0 && backwards:
		return c.Last()
	case len(from) == 0:
		return c.First()
	}
	k, v = c.Seek(from)
	if backwards && k == nil {
		return c.Last()
	}
	if backwards && string(k) != string(from) {
		return c.Prev()
	}
	return k, v
}
