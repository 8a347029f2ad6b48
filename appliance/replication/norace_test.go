//go:build !race

package replication_test

const (
	simulatedCycles = 10_000
	killsPerOrder   = 5
	share           = 1
)
