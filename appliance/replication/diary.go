package replication

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"understudy/api"
)

// How long history is kept, and how exactly.
const (
	fineSlot   = 5 * time.Minute
	coarseSlot = time.Hour
	keepFine   = 48 * time.Hour
	keepCoarse = 31 * 24 * time.Hour
)

// slot is what happened in a piece of time, in the state database a row of six numbers.
type slot struct {
	at      int64 // its start, Unix time
	age     int64 // largest age of the newest point, seconds
	read    int64 // bytes
	written int64 // bytes
	cycles  int64
	failed  int64
}

func (s slot) MarshalJSON() ([]byte, error) {
	return json.Marshal([6]int64{s.at, s.age, s.read, s.written, s.cycles, s.failed})
}

func (s *slot) UnmarshalJSON(text []byte) error {
	var row [6]int64
	if err := json.Unmarshal(text, &row); err != nil {
		return err
	}
	*s = slot{row[0], row[1], row[2], row[3], row[4], row[5]}
	return nil
}

// plus adds what happened in the same time, or in a part of it.
func (s slot) plus(o slot) slot {
	return slot{s.at, max(s.age, o.age), s.read + o.read, s.written + o.written, s.cycles + o.cycles, s.failed + o.failed}
}

// row is slots in the order of time.
type row []slot

// add adds a slot to the one of the same time, or puts it into its place.
func (r row) add(s slot) row {
	i, known := slices.BinarySearchFunc(r, s.at, func(a slot, at int64) int { return cmp.Compare(a.at, at) })
	if known {
		r[i] = r[i].plus(s)
		return r
	}
	return slices.Insert(r, i, s)
}

// sum makes one slot of all.
func (r row) sum(at int64) slot {
	sum := slot{at: at}
	for _, s := range r {
		sum = sum.plus(s)
	}
	return sum
}

// startOf is the start of the piece of time that a moment is in, Unix time.
func startOf(at int64, length time.Duration) int64 {
	n := int64(length / time.Second)
	return at - ((at%n)+n)%n
}

// diary is the history of one group, or of all together. The state database has a bucket for it, with a row for each hour of
// the last two days (its key is "f" and the hour) and for each day before (its key is "c" and the day). So at 5,000 groups
// each is written once in five minutes, all of them spread over that time, and what is written is short.
type diary struct {
	id    string
	store Store

	mu   sync.Mutex // held while it is read or written
	open row        // not written yet
	// last is the row that was written last, by its key.
	key  string
	last row
	gone bool // with its group
}

func (d *diary) bucket() string { return "history-" + d.id }

func fineKey(at int64) string   { return fmt.Sprintf("f%011d", startOf(at, time.Hour)) }
func coarseKey(at int64) string { return fmt.Sprintf("c%011d", startOf(at, 24*time.Hour)) }

// seed spreads what diaries do over time.
func (d *diary) seed() int64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(d.id)) // a hash never fails
	return int64(h.Sum32())
}

func (d *diary) note(now time.Time, s slot) {
	s.at = startOf(now.Unix(), fineSlot)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.gone {
		d.open = d.open.add(s)
	}
}

// due says that slots have ended long enough ago to be written.
func (d *diary) due(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait := int64(fineSlot/time.Second) + d.seed()%240
	return slices.ContainsFunc(d.open, func(s slot) bool { return d.ended(s, now) && (now.Unix()-s.at >= wait || s.at > now.Unix()) })
}

// ended says that nothing will be added to a slot; one that lies ahead was begun before the clock was set back.
func (d *diary) ended(s slot, now time.Time) bool { return s.at != startOf(now.Unix(), fineSlot) }

// write writes the slots that have ended, or all. What cannot be written stays.
func (d *diary) write(now time.Time, all bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	compact := false
	for len(d.open) > 0 {
		s := d.open[0]
		if !all && !d.ended(s, now) {
			break
		}
		if err := d.append(fineKey(s.at), s, row.add); err != nil {
			return err
		}
		d.open = d.open[1:]
		compact = compact || s.at/300%12 == d.seed()%12
	}
	if compact {
		return d.compact(now)
	}
	return nil
}

// append puts a slot into the row of a key.
func (d *diary) append(key string, s slot, put func(row, slot) row) error {
	if d.key != key {
		var err error
		if d.last, err = d.load(key); err != nil {
			return err
		}
		d.key = key
	}
	next := put(slices.Clone(d.last), s)
	if err := d.store.Put(d.bucket(), key, next); err != nil {
		return err
	}
	d.last = next
	return nil
}

func (d *diary) load(key string) (found row, err error) {
	err = d.store.Each(d.bucket(), func(k string, decode func(any) error) error {
		if k != key {
			return nil
		}
		return decode(&found)
	})
	return found, err
}

// compact makes one slot of each hour that is no longer kept exactly, and drops what is too old.
func (d *diary) compact(now time.Time) error {
	fine, coarse := now.Add(-keepFine).Unix(), now.Add(-keepCoarse).Unix()
	return d.store.Each(d.bucket(), func(key string, decode func(any) error) error {
		switch {
		case key[0] == 'c' && key < coarseKey(coarse):
		case key[0] == 'f' && key < fineKey(fine):
			var exact row
			if err := decode(&exact); err != nil {
				return err
			}
			if len(exact) > 0 && exact[0].at >= coarse {
				hour := exact.sum(startOf(exact[0].at, coarseSlot))
				// Set, not added: the appliance may have died before it dropped what it had summed up.
				if err := d.append(coarseKey(hour.at), hour, row.set); err != nil {
					return err
				}
			}
		default:
			return nil
		}
		return d.store.Delete(d.bucket(), key)
	})
}

// set puts a slot in the place of the one of the same time.
func (r row) set(s slot) row {
	r = slices.DeleteFunc(r, func(o slot) bool { return o.at == s.at })
	return r.add(s)
}

// forget drops all of it, for good.
func (d *diary) forget() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone, d.open, d.last, d.key = true, nil, nil, ""
	return d.store.Drop(d.bucket())
}

// read gives the slots since a moment: hours, and five minutes from where they are kept.
func (d *diary) read(from, now time.Time) (hours, exact row, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	cut := startOf(now.Add(-keepFine).Unix(), coarseSlot)
	earlier := row{} // exact ones that nobody has summed up yet
	sort := func(s slot) {
		if s.at >= cut {
			exact = exact.add(s)
		} else {
			s.at = startOf(s.at, coarseSlot)
			earlier = earlier.add(s)
		}
	}
	err = d.store.Each(d.bucket(), func(key string, decode func(any) error) error {
		if key[0] == 'c' && key < coarseKey(from.Unix()) || key[0] == 'f' && key < fineKey(from.Unix()) {
			return nil
		}
		var slots row
		if err := decode(&slots); err != nil {
			return err
		}
		for _, s := range slots {
			if key[0] == 'c' {
				hours = hours.set(s)
			} else {
				sort(s)
			}
		}
		return nil
	})
	for _, s := range d.open {
		sort(s)
	}
	for _, s := range earlier {
		hours = hours.set(s)
	}
	return hours, exact, err
}

// samples shows slots of a length that have not ended before a moment.
func (r row) samples(length time.Duration, from time.Time) (out []api.Sample) {
	for _, s := range r {
		if s.at+int64(length/time.Second) > from.Unix() {
			out = append(out, api.Sample{Time: time.Unix(s.at, 0).UTC(), Seconds: int(length / time.Second), WorstAge: float64(s.age),
				BytesRead: s.read, BytesWritten: s.written, Cycles: int(s.cycles), Failed: int(s.failed)})
		}
	}
	return out
}
