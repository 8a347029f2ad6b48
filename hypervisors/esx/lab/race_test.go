//go:build race

package lab

// histories of each kind of host: the race detector takes many times as long.
const histories = 1
