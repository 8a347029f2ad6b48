package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"understudy/api"
)

// keepEvents bounds the log: enough to resume after a night without a reader, a few MB at most.
const keepEvents = 10_000

// AppendEvent gives the event the next id and keeps it. Ids ascend without gaps, over restarts too; the newest 10,000
// events are kept.
func (db *DB) AppendEvent(e api.Event) (api.Event, error) {
	kept, err := db.appendEvents([]api.Event{e})
	if err != nil {
		return api.Event{}, err
	}
	return kept[0], nil
}

// appendEvents keeps several, all of them or none.
func (db *DB) appendEvents(events []api.Event) ([]api.Event, error) {
	kept := slices.Clone(events)
	err := db.queue.write(db.bolt, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(eventsBucket))
		for i := range kept {
			if err := appendEvent(b, &kept[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("keep event: %w", err)
	}
	return kept, nil
}

func appendEvent(b *bbolt.Bucket, e *api.Event) (err error) {
	if e.ID, err = b.NextSequence(); err != nil {
		return err
	}
	value, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := b.Put(eventKey(e.ID), value); err != nil {
		return err
	}
	if e.ID <= keepEvents {
		return nil
	}
	return b.Delete(eventKey(e.ID - keepEvents))
}

// EventsAfter gives at most limit of the events with an id above this one, ascending. Where the first one is not id+1,
// older ones are no longer kept.
func (db *DB) EventsAfter(id uint64, limit int) ([]api.Event, error) {
	var events []api.Event
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(eventsBucket)).Cursor()
		for k, v := c.Seek(eventKey(id + 1)); k != nil && len(events) < limit; k, v = c.Next() {
			var e api.Event
			if err := decode(eventsBucket, fmt.Sprint(binary.BigEndian.Uint64(k)), v, &e); err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return events, err
}

// LastEvent is the id of the newest event; 0 when there never was one.
func (db *DB) LastEvent() uint64 {
	var id uint64
	// View fails only on a closed database, which has no events.
	_ = db.bolt.View(func(tx *bbolt.Tx) error {
		id = tx.Bucket([]byte(eventsBucket)).Sequence()
		return nil
	})
	return id
}

// eventKey sorts as the number does.
func eventKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }
