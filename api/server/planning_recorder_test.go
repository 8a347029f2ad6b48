package server

import (
	"context"

	"understudy/api"
)

func (r *recorder) Bandwidth(ctx context.Context) (api.BandwidthCalendar, error) {
	return answerTo[api.BandwidthCalendar](r, "Bandwidth")
}

func (r *recorder) SetBandwidth(ctx context.Context, revision int64, c api.BandwidthCalendar) (api.BandwidthCalendar, error) {
	return answerTo[api.BandwidthCalendar](r, "SetBandwidth", revision, c)
}

func (r *recorder) Plan(ctx context.Context, group string, o api.PlanOrder) (api.Plan, error) {
	return answerTo[api.Plan](r, "Plan", group, o)
}

func (r *recorder) Preflight(ctx context.Context, spec api.GroupSpec) (api.Preflight, error) {
	return answerTo[api.Preflight](r, "Preflight", spec)
}

func (r *recorder) UpdateGroup(ctx context.Context, id string, revision int64, edit api.GroupEdit) (api.Group, error) {
	return answerTo[api.Group](r, "UpdateGroup", id, revision, edit)
}

func (r *recorder) TestHost(ctx context.Context, spec api.HostSpec) (api.HostTest, error) {
	return answerTo[api.HostTest](r, "TestHost", spec)
}

func (r *recorder) UpdateHost(ctx context.Context, id string, revision int64, spec api.HostSpec) (api.Host, error) {
	return answerTo[api.Host](r, "UpdateHost", id, revision, spec)
}
