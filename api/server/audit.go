package server

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"understudy/api"
)

// auditQuery is exported below because huma passes over embedded types that are not.
type auditQuery struct{ api.AuditQuery }

func (s *Server) auditRoutes() {
	register(s, administrator.on(appliance), http.MethodGet, "/audit", "list-audit", "List what was changed and tried, newest first", http.StatusOK,
		func(ctx context.Context, in *auditQuery) (*body[api.Page[api.AuditEntry]], error) {
			return page(s.access.ListAudit(ctx, in.AuditQuery))
		})
	type export struct {
		From time.Time `query:"from" doc:"Not before"`
		To   time.Time `query:"to" doc:"Before"`
	}
	op := s.operation(administrator.on(appliance), http.MethodGet, "/audit/export", "export-audit", "Give the audit log, oldest first", http.StatusOK)
	op.Description = "One entry in JSON on each line. Each holds the hash of the one before, so that a change is found: `understudy audit verify`."
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.AuditEntry](), true, "AuditEntry")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Entries", Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: schema}},
	}}
	huma.Register(s.api, op, func(ctx context.Context, in *export) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(h huma.Context) {
			w := humagin.Unwrap(h).Writer
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.Header().Set("Content-Disposition", `attachment; filename="understudy-audit.ndjson"`)
			conn := http.NewResponseController(w)
			defer func() { _ = conn.SetWriteDeadline(time.Time{}) }() // the connection serves other requests afterwards
			encoder := json.NewEncoder(w)
			err := s.access.ExportAudit(ctx, in.From, in.To, func(e api.AuditEntry) error {
				_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder in a test has none
				return encoder.Encode(e)
			})
			if err != nil {
				s.log.WarnContext(ctx, "export of the audit log ended early", "error", err)
				panic(http.ErrAbortHandler) // so that the other side does not take half of it for all
			}
		}}, nil
	})
}
