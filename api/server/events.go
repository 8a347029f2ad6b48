package server

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
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
			s.stream(ctx, humagin.Unwrap(h), in.By, events)
		}}, nil
	})
}

// stream writes until ctx ends, the service closes the channel or the reader is gone. The reader connects again and says
// what it saw last.
func (s *Server) stream(ctx context.Context, c *gin.Context, by api.Principal, events <-chan api.Event) {
	w := c.Writer
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // gateways would hold events back
	conn := http.NewResponseController(w)
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }() // the connection serves other requests afterwards
	var due <-chan time.Time                                  // when what is written has to leave
	write := func(m *sse.Message) bool {
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder in a test has none
		if due == nil {
			due = time.After(s.linger)
		}
		_, err := m.WriteTo(w)
		return err == nil
	}
	leave := func() bool {
		due = nil
		return conn.Flush() == nil
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
		var m *sse.Message
		select {
		case <-ctx.Done():
			return
		case <-due:
			if !leave() {
				return
			}
			continue
		case <-heartbeat.C:
			if !s.still(c, by) { // signed out, disabled, or with another scope by now
				return
			}
			m = comment("alive")
		case event, open := <-events:
			if !open {
				return
			}
			if !by.Scope.Has(event.Group) {
				continue
			}
			data, err := json.Marshal(event)
			if err != nil {
				s.log.Error("event cannot be encoded", "id", event.ID, "error", err)
				return
			}
			m = &sse.Message{ID: sse.ID(strconv.FormatUint(event.ID, 10))}
			m.AppendData(string(data))
		}
		if !write(m) {
			return
		}
	}
}
