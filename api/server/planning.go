package server

import (
	"context"
	"net/http"
	"strconv"

	"understudy/api"
)

// edited is an answer whose revision goes into If-Match.
type edited[T any] struct {
	ETag string `header:"ETag"`
	Body T
}

func edit[T any](v T, revision int64, err error) (*edited[T], error) {
	return &edited[T]{ETag: strconv.Quote(strconv.FormatInt(revision, 10)), Body: v}, err
}

// planningRoutes tell what would happen, and edit what stands.
func (s *Server) planningRoutes() {
	type order struct {
		OfGroup
		Body api.PlanOrder
	}
	register(s, viewer.on(groups), http.MethodPost, "/groups/{id}/plan", "plan", "Tell what an order would do, and change nothing", http.StatusOK,
		func(ctx context.Context, in *order) (*body[api.Plan], error) {
			return answer(s.svc.Plan(ctx, in.ID, in.Body))
		})
	register(s, administrator.on(appliance), http.MethodPost, "/preflight", "preflight", "Tell all that stands against a group before it is made", http.StatusOK,
		func(ctx context.Context, in *struct{ Body api.GroupSpec }) (*body[api.Preflight], error) {
			return answer(s.svc.Preflight(ctx, in.Body))
		})
	register(s, administrator.on(hosts), http.MethodPost, "/hosts/test", "test-host", "Try a host before it is added, reading only", http.StatusOK,
		func(ctx context.Context, in *struct{ Body api.HostSpec }) (*body[api.HostTest], error) {
			return answer(s.svc.TestHost(ctx, in.Body))
		})
	type hostEdit struct {
		OfHost
		IfMatch
		Body api.HostSpec
	}
	register(s, administrator.on(hosts), http.MethodPut, "/hosts/{id}", "update-host", "Change name, address and bounds of a host", http.StatusOK,
		func(ctx context.Context, in *hostEdit) (*edited[api.Host], error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			h, err := s.svc.UpdateHost(ctx, in.ID, revision, in.Body)
			return edit(h, h.Revision, err)
		})
	type groupEdit struct {
		OfGroup
		IfMatch
		Body api.GroupEdit
	}
	register(s, administrator.on(groups), http.MethodPut, "/groups/{id}", "update-group", "Change what can be changed of a group", http.StatusOK,
		func(ctx context.Context, in *groupEdit) (*revised, error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			return group(s.svc.UpdateGroup(ctx, in.ID, revision, in.Body))
		})
	register(s, administrator.on(appliance), http.MethodGet, "/settings/bandwidth", "bandwidth", "Show the bandwidth calendar of all copies together", http.StatusOK,
		func(ctx context.Context, _ *none) (*edited[api.BandwidthCalendar], error) {
			c, err := s.svc.Bandwidth(ctx)
			return edit(c, c.Revision, err)
		})
	type calendar struct {
		IfMatch
		Body api.BandwidthCalendar
	}
	register(s, administrator.on(appliance), http.MethodPut, "/settings/bandwidth", "set-bandwidth", "Replace the bandwidth calendar", http.StatusOK,
		func(ctx context.Context, in *calendar) (*edited[api.BandwidthCalendar], error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			c, err := s.svc.SetBandwidth(ctx, revision, in.Body)
			return edit(c, c.Revision, err)
		})
}
