package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// grace is how long requests may take to end after the order to stop.
const grace = 10 * time.Second

// Serve lets s answer on ln, which it closes, until ctx ends; then it lets requests end within 10 s and returns nil. With
// certificates it speaks TLS 1.2 and later; with nil plain HTTP, which is for tests and for gateways on loopback.
func Serve(ctx context.Context, ln net.Listener, s *Server, certificates *Certificates) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// Handshakes with scanners and untrusting browsers are no faults of the appliance.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// No ReadTimeout and no WriteTimeout: they would end event streams. readBody and stream bound their own.
	}
	// Whatever ends the server ends its streams.
	defer s.endStreams()
	done := make(chan error, 1)
	go func() {
		if certificates == nil {
			done <- srv.Serve(ln)
			return
		}
		srv.TLSConfig = certificates.config()
		done <- srv.ServeTLS(ln, "", "")
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.endStreams()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(stopping); err != nil {
		return errors.Join(fmt.Errorf("requests did not end in time: %w", err), srv.Close())
	}
	return nil
}
