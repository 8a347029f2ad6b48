package replication

// LineMbit is the bound that all copies share now.
func LineMbit(e *Engine) int64 {
	e.line.mu.Lock()
	defer e.line.mu.Unlock()
	return e.line.limit.Rate() * 8 / 1e6
}
