package server

import (
	"context"
	"net/http"

	"understudy/api"
)

// What records are asked for, and by whom: the scope is never taken from a query.
type (
	groupQuery struct {
		Asked
		api.GroupQuery
	}
	jobQuery struct {
		Asked
		api.JobQuery
	}
	machineQuery struct {
		Asked
		api.MachineQuery
	}
	historyQuery struct {
		Asked
		api.HistoryQuery
	}
	groupHistoryQuery struct {
		Asked
		OfGroup
		api.HistoryQuery
	}
)

func (s *Server) recordRoutes() {
	register(s, viewer.on(filtered), http.MethodGet, "/overview", "overview", "Show the state in short", http.StatusOK,
		func(ctx context.Context, in *Asked) (*body[api.Overview], error) {
			return answer(s.svc.Overview(ctx, in.By.Scope))
		})
	register(s, viewer.on(filtered), http.MethodGet, "/machines", "list-machines", "List the protected machines", http.StatusOK,
		func(ctx context.Context, in *machineQuery) (*body[api.Page[api.ProtectedMachine]], error) {
			in.Scope = in.By.Scope
			return page(s.svc.ListMachines(ctx, in.MachineQuery))
		})
	register(s, viewer.on(filtered), http.MethodGet, "/alerts", "list-alerts", "List what is wrong now, the worst first", http.StatusOK,
		func(ctx context.Context, in *Asked) (*body[[]api.ActiveAlert], error) {
			return list(s.svc.ListAlerts(ctx, in.By.Scope))
		})
	register(s, viewer.on(filtered), http.MethodGet, "/history", "history", "Show what happened to all groups together", http.StatusOK,
		func(ctx context.Context, in *historyQuery) (*body[api.History], error) {
			in.Scope = in.By.Scope
			return answer(s.svc.History(ctx, in.HistoryQuery))
		})
	register(s, viewer.on(groups), http.MethodGet, "/groups/{id}/history", "group-history", "Show what happened to a group", http.StatusOK,
		func(ctx context.Context, in *groupHistoryQuery) (*body[api.History], error) {
			in.Scope, in.Group = in.By.Scope, in.ID
			return answer(s.svc.History(ctx, in.HistoryQuery))
		})
}

// page never answers null.
func page[T any](p api.Page[T], err error) (*body[api.Page[T]], error) {
	if p.Items == nil {
		p.Items = []T{}
	}
	return &body[api.Page[T]]{Body: p}, err
}
