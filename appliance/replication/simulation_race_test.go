//go:build race

package replication_test

// simulatedCycles is what the race detector manages in a few seconds.
const simulatedCycles = 200
