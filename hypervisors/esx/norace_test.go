//go:build !race

package esx

// raced: the race detector watches.
const raced = false
