package notify

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"understudy/api"
)

func (m *memory) refuse(before func(op, path string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = before
}

func (m *memory) asked(op, path string) error {
	if m.before != nil {
		return m.before(op, path)
	}
	return nil
}

func (m *memory) Put(bucket, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("put", bucket+" "+key); err != nil {
		return err
	}
	m.values[bucket+" "+key] = value
	return nil
}

func (m *memory) Delete(bucket, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("delete", bucket+" "+key); err != nil {
		return err
	}
	delete(m.values, bucket+" "+key)
	return nil
}

func (m *memory) Each(bucket string, fn func(key string, decode func(v any) error) error) error {
	m.mu.Lock()
	values := maps.Clone(m.values)
	m.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(values)) {
		key, ok := strings.CutPrefix(path, bucket+" ")
		if !ok {
			continue
		}
		if err := fn(key, func(v any) error { return json.Unmarshal(values[path], v) }); err != nil {
			return err
		}
	}
	return nil
}

// count is how many values a bucket has.
func (m *memory) count(bucket string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for path := range m.values {
		if strings.HasPrefix(path, bucket+" ") {
			n++
		}
	}
	return n
}

func (m *memory) EventsAfter(id uint64, limit int) ([]api.Event, error) {
	m.bus.mu.Lock()
	defer m.bus.mu.Unlock()
	all := m.bus.events[min(int(id), len(m.bus.events)):]
	return slices.Clone(all[:min(limit, len(all))]), nil
}
