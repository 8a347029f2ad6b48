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

// appendEvents gives the events the next ids and keeps them, all of them or none. Ids ascend without gaps, over restarts
// too; the newest 10,000 events are kept.
func (db *DB) appendEvents(events []api.Event) ([]api.Event, error) {
	kept, values := slices.Clone(events), make([][]byte, len(events))
	for i, e := range events { // here, where it keeps nobody else waiting; the id is in the key
		var err error
		if values[i], err = json.Marshal(e); err != nil {
			return nil, fmt.Errorf("keep event: %w", err)
		}
	}
	err := db.queue.write(db.bolt, func(tx *bbolt.Tx) (err error) {
		b := tx.Bucket([]byte(eventsBucket))
		for i := range kept {
			if kept[i].ID, err = appendEvent(b, values[i]); err != nil {
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

func appendEvent(b *bbolt.Bucket, value []byte) (id uint64, err error) {
	if id, err = b.NextSequence(); err != nil {
		return 0, err
	}
	if err := b.Put(eventKey(id), value); err != nil {
		return 0, err
	}
	if id <= keepEvents {
		return id, nil
	}
	return id, b.Delete(eventKey(id - keepEvents))
}

// EventsAfter gives at most limit of the events with an id above this one, ascending. Where the first one is not id+1,
// older ones are no longer kept.
func (db *DB) EventsAfter(id uint64, limit int) ([]api.Event, error) {
	var events []api.Event
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(eventsBucket)).Cursor()
		for k, v := c.Seek(eventKey(id + 1)); k != nil && len(events) < limit; k, v = c.Next() {
			var e api.Event
			at := binary.BigEndian.Uint64(k)
			if err := decode(eventsBucket, fmt.Sprint(at), v, &e); err != nil {
				return err
			}
			e.ID = at
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
