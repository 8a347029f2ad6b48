//go:build !race

package lab

// histories of each kind of host.
const histories = 3
