package server

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"
	"github.com/tmaxmax/go-sse"

	"understudy/api"
)

// writeTimeout is how long one event may take to leave; a reader that stands still for longer must connect again.
const writeTimeout = 20 * time.Second

type eventInput struct {
	Asked
	After       uint64 `query:"after" doc:"Id of the last event that was seen; 0 means from now on"`
	IntervalMs  int    `query:"intervalMs" minimum:"0" maximum:"10000" doc:"How often to deliver at most, in milliseconds. Of updates of one thing in between only the last is delivered, and when much happens at once, events come without their jobs. 0: everything at once"`
	LastEventID uint64 `header:"Last-Event-ID" doc:"As after, and stronger; browsers send it when they connect again"`
}

// eventRoute adds the event stream. Huma's own sse package answers 200 before the service is asked, and has no signs of
// life; so the stream is written here.
func (s *Server) eventRoute() {
	op := s.operation(viewer.on(filtered), http.MethodGet, "/events", "events", "Listen to everything that happens", http.StatusOK)
	op.Description = "Server-sent events. The data of each is an Event in JSON, its id is the event's. " +
		"A comment is sent when nothing happens, so that a dead connection is noticed."
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Event](), true, "Event")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Events, each with its id", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: schema}},
	}}
	huma.Register(s.api, op, func(ctx context.Context, in *eventInput) (*huma.StreamResponse, error) {
		ctx, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(s.streams, cancel)
		after := in.After
		if in.LastEventID > 0 {
			after = in.LastEventID
		}
		events, err := s.svc.Events(ctx, after)
		if err != nil {
			cancel()
			return nil, s.problem(ctx, err)
		}
		return &huma.StreamResponse{Body: func(h huma.Context) {
			defer stop()
			defer cancel()
			s.stream(ctx, humagin.Unwrap(h), in.By, events, time.Duration(in.IntervalMs)*time.Millisecond)
		}}, nil
	})
}

// stream writes until ctx ends, the service closes the channel or the reader is gone. The reader connects again and says
// what it saw last. Events wait for each other for the interval.
func (s *Server) stream(ctx context.Context, c *gin.Context, by api.Principal, events <-chan api.Event, interval time.Duration) {
	w := c.Writer
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // gateways would hold events back
	conn := http.NewResponseController(w)
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }() // the connection serves other requests afterwards
	var due <-chan time.Time                                  // when what is written, or waits, has to leave
	waiting := batch{every: interval == 0}
	write := func(m *sse.Message) bool {
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder in a test has none
		_, err := m.WriteTo(w)
		return err == nil
	}
	send := func() bool {
		for _, event := range waiting.take() {
			data, err := json.Marshal(event)
			if err != nil {
				s.log.Error("event cannot be encoded", "id", event.ID, "error", err)
				return false
			}
			m := &sse.Message{ID: sse.ID(strconv.FormatUint(event.ID, 10))}
			m.AppendData(string(data))
			if !write(m) {
				return false
			}
		}
		return true
	}
	leave := func() bool {
		due = nil
		return send() && conn.Flush() == nil
	}
	comment := func(text string) *sse.Message {
		m := &sse.Message{}
		m.AppendComment(text)
		return m
	}
	if !write(comment("connected")) || !leave() {
		return
	}
	heartbeat := time.NewTicker(s.heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
			if !leave() {
				return
			}
		case <-heartbeat.C:
			if !s.still(c, by) { // signed out, disabled, or with another scope by now
				return
			}
			if !write(comment("alive")) || !leave() {
				return
			}
		case event, open := <-events:
			if !open {
				send() // the end of the answer flushes
				return
			}
			if !by.Scope.Has(event.Group) {
				continue
			}
			if waiting.add(event); due == nil {
				due = time.After(max(s.linger, interval))
			}
			if len(waiting.events) >= maxBatch && !leave() {
				return
			}
		}
	}
}

const (
	// maxBatch bounds how many events wait for each other.
	maxBatch = 256
	// crowd is how many updates of jobs are more than anybody can watch: to encode, send and read the jobs themselves would
	// cost thousands of machines more than the answers that the events make stale.
	crowd = 32
)

// batch is events that wait to be sent. Of updates of one thing it has the last, or every one.
type batch struct {
	every  bool
	events []*api.Event // nil: nobody need know any more
	// updated is where in events the last update of a thing is, by kind, group and subject.
	updated map[[3]string]int
}

func (b *batch) add(e api.Event) {
	if !b.every && (e.Action == "updated" || e.Action == "progress") {
		key := [3]string{e.Kind, e.Group, e.Subject}
		if at, again := b.updated[key]; again {
			b.events[at] = nil
		}
		if b.updated == nil {
			b.updated = map[[3]string]int{}
		}
		b.updated[key] = len(b.events)
	}
	b.events = append(b.events, &e)
}

// take empties the batch.
func (b *batch) take() []*api.Event {
	taken := slices.DeleteFunc(b.events, func(e *api.Event) bool { return e == nil })
	if !b.every && len(taken) > crowd {
		for _, e := range taken {
			e.Job = nil
		}
	}
	*b = batch{every: b.every}
	return taken
}
