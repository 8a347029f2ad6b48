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
