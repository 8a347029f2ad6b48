package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/tmaxmax/go-sse"

	"understudy/api"
)

// pace says how often things are tried again.
type pace struct {
	retryFirst, retryMost time.Duration // waits between connection attempts of an event stream
	silence               time.Duration // a stream that says nothing for so long is dead; the server speaks every 15 s
	poll                  time.Duration // WaitJob asks again so often, whatever the stream says
}

var defaultPace = pace{retryFirst: 200 * time.Millisecond, retryMost: 5 * time.Second, silence: time.Minute, poll: 2 * time.Second}

var errSilent = errors.New("the event stream is silent")

// Events implements api.Jobs. The first connection is made before it returns. When the connection breaks, or the
// appliance restarts, it connects again and reads on after the last event that was delivered; with after = 0 and no event
// delivered yet, it reads on from the moment of the new connection. A slow reader loses nothing: the stream waits for it.
// The channel is closed when ctx ends, or when the appliance refuses to go on.
func (c *Client) Events(ctx context.Context, after uint64) (<-chan api.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.openStream(ctx, after)
	if err != nil {
		cancel()
		return nil, err
	}
	events := make(chan api.Event)
	go func() {
		defer cancel()
		defer close(events)
		for err == nil {
			after = deliver(ctx, body, after, events)
			body, err = c.reopenStream(ctx, after)
		}
	}()
	return events, nil
}

// openStream connects once.
func (c *Client) openStream(ctx context.Context, after uint64) (io.ReadCloser, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if after > 0 {
		header.Set("Last-Event-ID", strconv.FormatUint(after, 10))
	}
	ctx, cancelCause := context.WithCancelCause(ctx)
	cancel := func() { cancelCause(nil) }
	watch := time.AfterFunc(c.pace.silence, func() { cancelCause(errSilent) })
	//nolint:bodyclose // the stream that is returned closes it
	resp, err := c.send(ctx, request{method: http.MethodGet, path: path("events"), header: header})
	if err != nil {
		watch.Stop()
		cancel()
		return nil, err
	}
	stream := &stream{ReadCloser: resp.Body, watch: watch, silence: c.pace.silence, cancel: cancel}
	if !isType(resp, "text/event-stream") {
		stream.Close()
		return nil, notAnAppliance(c.base, resp)
	}
	return stream, nil
}

// reopenStream connects until it works, ctx ends, or the appliance says no.
func (c *Client) reopenStream(ctx context.Context, after uint64) (io.ReadCloser, error) {
	for wait := c.pace.retryFirst; ; wait = min(2*wait, c.pace.retryMost) {
		// The jitter keeps many readers from coming back at the same instant.
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		body, err := c.openStream(ctx, after)
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrUnreachable) && api.CodeOf(err) != api.CodeInternal {
			return body, err
		}
	}
}

// deliver passes events on until the stream or ctx ends, and gives the id of the last one that was taken.
func deliver(ctx context.Context, body io.ReadCloser, after uint64, events chan<- api.Event) uint64 {
	defer body.Close()
	for message, err := range sse.Read(body, &sse.ReadConfig{MaxEventSize: 1 << 20}) {
		var event api.Event
		if err != nil || json.Unmarshal([]byte(message.Data), &event) != nil {
			return after // damaged in transit: the next connection brings it again
		}
		// Progress is not kept: it carries the id of the event before it, and is never sent twice.
		if event.ID <= after && event.Action != "progress" {
			continue
		}
		select {
		case events <- event:
			after = max(after, event.ID)
		case <-ctx.Done():
			return after
		}
	}
	return after
}

// stream is a response body that gives up when nothing comes, not even the server's sign of life.
type stream struct {
	io.ReadCloser
	watch   *time.Timer
	silence time.Duration
	cancel  context.CancelFunc
}

// Read counts only the time in which it waits: a slow reader is no dead connection.
func (s *stream) Read(p []byte) (int, error) {
	s.watch.Reset(s.silence)
	defer s.watch.Stop()
	return s.ReadCloser.Read(p)
}

func (s *stream) Close() error {
	s.watch.Stop()
	s.cancel()
	return s.ReadCloser.Close()
}

// WaitJob waits until the job has ended and returns it, whatever its outcome; the error is only about the waiting. It
// listens to the event stream and asks for the job now and then, so that it survives lost events and restarts of the
// appliance. onProgress, when not nil, gets every change that was seen, the last one included, one at a time.
func (c *Client) WaitJob(ctx context.Context, id string, onProgress func(api.Job)) (api.Job, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Subscribing comes before asking, so that no change falls in between. Without a stream, asking alone does.
	events, _ := c.Events(ctx, 0)
	ticker := time.NewTicker(c.pace.poll)
	defer ticker.Stop()

	var last api.Job
	job, err := c.GetJob(ctx, id)
	for {
		if err != nil && !errors.Is(err, ErrUnreachable) {
			return last, fmt.Errorf("wait for job %s: %w", id, err)
		}
		if err == nil && !reflect.DeepEqual(job, last) {
			last = job
			if onProgress != nil {
				onProgress(job)
			}
		}
		if last.State.Ended() {
			return last, nil
		}
		select {
		case event, open := <-events:
			if !open {
				events = nil
			} else if event.Job != nil && event.Job.ID == id {
				job, err = *event.Job, nil
			}
		case <-ticker.C:
			job, err = c.GetJob(ctx, id)
		case <-ctx.Done():
			return last, ctx.Err()
		}
	}
}
