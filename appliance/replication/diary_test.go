package replication

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shelf keeps JSON in memory, and counts what is written.
type shelf struct {
	mu     sync.Mutex
	data   map[string]map[string][]byte
	writes int
	fail   error
	stuck  bool // nothing can be deleted
}

func newShelf() *shelf { return &shelf{data: map[string]map[string][]byte{}} }

func (s *shelf) Put(bucket, key string, v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.writes++
	if s.data[bucket] == nil {
		s.data[bucket] = map[string][]byte{}
	}
	value, err := json.Marshal(v)
	s.data[bucket][key] = value
	return err
}

func (s *shelf) Delete(bucket, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck {
		return errors.New("stuck")
	}
	delete(s.data[bucket], key)
	return s.fail
}

func (s *shelf) Drop(bucket string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.data, bucket)
	return s.fail
}

func (s *shelf) Get(bucket, key string, v any) error {
	return json.Unmarshal(s.data[bucket][key], v)
}

func (s *shelf) Each(bucket string, fn func(key string, decode func(any) error) error) error {
	s.mu.Lock()
	all := maps.Clone(s.data[bucket])
	s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if err := fn(key, func(v any) error { return json.Unmarshal(all[key], v) }); err != nil {
			return err
		}
	}
	return nil
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// live notes a cycle a minute and writes what is due every 15 seconds.
func live(t *testing.T, c *chronicle, from time.Time, d time.Duration) time.Time {
	t.Helper()
	for now := from; now.Before(from.Add(d)); now = now.Add(15 * time.Second) {
		if now.Second() == 0 {
			c.note("a", now, slot{age: 60, read: 10, written: 5, cycles: 1})
		}
		require.NoError(t, c.write(t.Context(), now, false))
	}
	return from.Add(d)
}

// TestChronicle keeps five minutes for two days, and hours for a month, in few and short writes.
func TestChronicle(t *testing.T) {
	s := newShelf()
	c := newChronicle(s)
	now := live(t, c, noon, time.Hour)
	require.Less(t, s.writes, 2*13, "a write for each group and five minutes")
	h, err := c.history([]string{"a"}, noon, now)
	require.NoError(t, err)
	require.Len(t, h.Samples, 12)
	for i, sample := range h.Samples {
		require.Equal(t, noon.Add(time.Duration(i)*5*time.Minute), sample.Time)
		require.Equal(t, 300, sample.Seconds)
		require.Equal(t, 5, sample.Cycles)
		require.EqualValues(t, 50, sample.BytesRead)
		require.EqualValues(t, 25, sample.BytesWritten)
		require.EqualValues(t, 60, sample.WorstAge)
	}
	all, err := c.history([]string{together}, noon, now)
	require.NoError(t, err)
	require.Equal(t, h, all)

	// A restart in the middle of a slot, with and without a last word.
	now = live(t, c, now, 2*time.Minute)
	require.NoError(t, c.write(t.Context(), now, true))
	c = newChronicle(s)
	now = live(t, c, now, 3*time.Minute)
	h, err = c.history([]string{"a"}, now.Add(-5*time.Minute), now)
	require.NoError(t, err)
	require.Len(t, h.Samples, 1)
	require.Equal(t, 5, h.Samples[0].Cycles)

	now = live(t, c, now, 50*time.Hour)
	h, err = c.history([]string{"a"}, noon, now)
	require.NoError(t, err)
	require.Equal(t, 3600, h.Samples[0].Seconds)
	require.Equal(t, 60, h.Samples[0].Cycles)
	require.Equal(t, 300, h.Samples[len(h.Samples)-1].Seconds)
	sum, last := 0, time.Time{}
	for _, sample := range h.Samples {
		require.False(t, sample.Time.Before(last), "slots lie over each other")
		last = sample.Time.Add(time.Duration(sample.Seconds) * time.Second)
		sum += sample.Cycles
	}
	require.Equal(t, int(now.Sub(noon)/time.Minute), sum, "no cycle is lost or counted twice")
	day, err := c.history([]string{"a"}, now.Add(-24*time.Hour), now)
	require.NoError(t, err)
	require.Len(t, day.Samples, 24*12)

	now = live(t, c, now, 32*24*time.Hour)
	h, err = c.history([]string{"a"}, now.Add(-keepCoarse), now)
	require.NoError(t, err)
	require.InDelta(t, 48*12+(31-2)*24, len(h.Samples), 15)
	require.Less(t, len(s.data["history-a"]), 48+1+31+2, "what is old is gone")
	size := 0
	for _, v := range s.data["history-a"] {
		size += len(v)
	}
	require.Less(t, size, 64<<10)

	require.NoError(t, c.forget("a"))
	c.note("a", now, slot{cycles: 1})
	require.NoError(t, c.write(t.Context(), now, true))
	require.NotContains(t, s.data, "history-a")
	require.Contains(t, s.data, "history-"+together)
}

// TestGaps: where nothing was noted there is nothing, and no zero.
func TestGaps(t *testing.T) {
	c := newChronicle(newShelf())
	now := live(t, c, noon, 10*time.Minute)
	now = live(t, c, now.Add(time.Hour), 10*time.Minute)
	h, err := c.history([]string{"a"}, noon, now)
	require.NoError(t, err)
	require.Len(t, h.Samples, 4)
	require.Equal(t, noon.Add(70*time.Minute), h.Samples[2].Time)
}

// TestHistoryThatCannotBeWritten stays until it can; and clocks that jump do no harm.
func TestHistoryThatCannotBeWritten(t *testing.T) {
	s := newShelf()
	c := newChronicle(s)
	c.note("a", noon, slot{cycles: 1})
	s.fail = errors.New("full")
	require.Error(t, c.write(t.Context(), noon.Add(time.Hour), false))
	s.fail = nil
	c.note("a", noon.Add(-time.Hour), slot{cycles: 2}) // the clock was set back
	require.NoError(t, c.write(t.Context(), noon, true))
	c.note("a", noon.Add(-time.Hour), slot{cycles: 2})
	require.NoError(t, c.write(t.Context(), noon, true))
	h, err := c.history([]string{"a"}, noon.Add(-2*time.Hour), noon)
	require.NoError(t, err)
	require.Len(t, h.Samples, 2)
	require.Equal(t, 4, h.Samples[0].Cycles)
	require.Equal(t, 1, h.Samples[1].Cycles)
}

// TestSummedUpOnce: hours that could not be dropped after they were summed up, as after a death, are not counted twice.
func TestSummedUpOnce(t *testing.T) {
	s := newShelf()
	c := newChronicle(s)
	now := live(t, c, noon, 49*time.Hour)
	s.stuck = true
	for range 3 {
		require.Error(t, c.of("a").compact(now.Add(2*time.Hour)))
	}
	s.stuck = false
	require.NoError(t, c.of("a").compact(now.Add(2*time.Hour)))
	h, err := c.history([]string{"a"}, noon, now.Add(2*time.Hour))
	require.NoError(t, err)
	sum := 0
	for _, sample := range h.Samples {
		sum += sample.Cycles
	}
	require.Equal(t, 49*60, sum)
}

// FuzzSlots reads what may stand in a state database.
func FuzzSlots(f *testing.F) {
	f.Add(`[[1,2,3,4,5,6]]`)
	f.Add(`[[1,2,3]]`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		var r row
		if json.Unmarshal([]byte(text), &r) != nil {
			return
		}
		again, err := json.Marshal(r)
		require.NoError(t, err)
		var back row
		require.NoError(t, json.Unmarshal(again, &back))
		require.Equal(t, len(r), len(back))
	})
}
