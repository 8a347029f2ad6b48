//go:build race

package replication_test

// What the race detector, which takes five to ten times as long, manages in its share of make test.
const (
	simulatedCycles = 200
	killsPerOrder   = 1
	// share: of the moments and cases of which there are many, one in so many is tried; make moments tries all.
	share = 5
)
