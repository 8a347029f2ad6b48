package nbd

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// hung is a server that opens the export and then swallows requests without a word.
func hung(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		go func() { _, _ = theirs.Write(goodHandshake(fuzzSize).b) }()
		_, _ = io.Copy(io.Discard, theirs)
	}()
	return ours, nil
}

func TestHungServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := Dial(t.Context(), hung, Options{Contexts: []string{Allocation}, Patience: time.Minute})
		require.NoError(t, err)
		time.Sleep(time.Hour) // being idle is no fault
		start := time.Now()
		_, err = c.ReadAt(make([]byte, 10), 0)
		require.ErrorIs(t, err, ErrStalled)
		require.LessOrEqual(t, time.Since(start), 2*time.Minute)
		_, err = c.WriteAt(make([]byte, 10), 0)
		require.ErrorIs(t, err, ErrStalled)
		require.NoError(t, c.Close())
	})
}

func TestContextEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := Dial(t.Context(), hung, Options{Contexts: []string{Allocation}})
		require.NoError(t, err)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		require.ErrorIs(t, c.Flush(ctx), context.DeadlineExceeded, "a flush may take long")
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, err := range c.Extents(ctx, Allocation) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	})
}

// TestDeafServer takes not even requests: Close and contexts must get through all the same.
func TestDeafServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		defer close(stop)
		deaf := func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				go func() { _, _ = theirs.Write(goodHandshake(fuzzSize).b) }()
				// What the client says in the handshake: flags, and the three options.
				_, _ = io.CopyN(io.Discard, theirs, 4+16+(16+4+4+4+int64(len(Allocation)))+(16+8))
				<-stop
				_ = theirs.Close()
			}()
			return ours, nil
		}
		c, err := Dial(t.Context(), deaf, Options{Contexts: []string{Allocation}})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, c.Flush(ctx), context.DeadlineExceeded)
		require.NoError(t, c.Close())

		c, err = Dial(t.Context(), deaf, Options{Contexts: []string{Allocation}, Patience: -1})
		require.NoError(t, err)
		blocked := make(chan error, 1)
		go func() {
			_, err := c.WriteAt(make([]byte, 10), 0)
			blocked <- err
		}()
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-blocked, ErrClosed)
	})
}
