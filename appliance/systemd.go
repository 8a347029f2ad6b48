package main

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"
)

// systemd is told over the socket that it names; without one, nobody is.
type systemd struct{ socket string }

// tell says something; that nobody listens is no fault of ours.
func (s systemd) tell(state string) {
	if s.socket == "" {
		return
	}
	address := s.socket
	if address[0] == '@' {
		address = "\x00" + address[1:] // an abstract one
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte(state))
}

// watchdog gives a sign of life twice as often as systemd wants one, as long as works says so, until ctx ends.
func (s systemd) watchdog(ctx context.Context, works func(context.Context) error) {
	every, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || every <= 0 || s.socket == "" {
		return
	}
	ticker := time.NewTicker(time.Duration(every) * time.Microsecond / 2)
	defer ticker.Stop()
	for {
		if works(ctx) == nil {
			s.tell("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
