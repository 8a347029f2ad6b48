package server

import (
	"context"

	"understudy/api"
)

func (r *recorder) Overview(ctx context.Context, scope api.Scope) (api.Overview, error) {
	return answerTo[api.Overview](r, "Overview", scope)
}

func (r *recorder) ListMachines(ctx context.Context, q api.MachineQuery) (api.Page[api.ProtectedMachine], error) {
	return answerTo[api.Page[api.ProtectedMachine]](r, "ListMachines", q)
}

func (r *recorder) History(ctx context.Context, q api.HistoryQuery) (api.History, error) {
	return answerTo[api.History](r, "History", q)
}

func (r *recorder) ListAlerts(ctx context.Context, scope api.Scope) ([]api.ActiveAlert, error) {
	return answerTo[[]api.ActiveAlert](r, "ListAlerts", scope)
}
