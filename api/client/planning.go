package client

import (
	"context"
	"net/http"
	"strconv"

	"understudy/api"
)

// put replaces what had the revision.
func put[T any](ctx context.Context, c *Client, revision int64, body any, elements ...string) (T, error) {
	return call[T](ctx, c, request{method: http.MethodPut, path: path(elements...), body: body,
		header: http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(revision, 10))}}})
}

// Plan implements api.Planning.
func (c *Client) Plan(ctx context.Context, group string, o api.PlanOrder) (api.Plan, error) {
	return order[api.Plan](ctx, c, group, "plan", o)
}

// Preflight implements api.Planning.
func (c *Client) Preflight(ctx context.Context, spec api.GroupSpec) (api.Preflight, error) {
	return post[api.Preflight](ctx, c, path("preflight"), spec)
}

// UpdateGroup implements api.Planning.
func (c *Client) UpdateGroup(ctx context.Context, id string, revision int64, edit api.GroupEdit) (api.Group, error) {
	return put[api.Group](ctx, c, revision, edit, "groups", id)
}

// TestHost implements api.Planning.
func (c *Client) TestHost(ctx context.Context, spec api.HostSpec) (api.HostTest, error) {
	return post[api.HostTest](ctx, c, path("hosts", "test"), hostInClear(spec))
}

// UpdateHost implements api.Planning.
func (c *Client) UpdateHost(ctx context.Context, id string, revision int64, spec api.HostSpec) (api.Host, error) {
	return put[api.Host](ctx, c, revision, hostInClear(spec), "hosts", id)
}

// Bandwidth implements api.Planning.
func (c *Client) Bandwidth(ctx context.Context) (api.BandwidthCalendar, error) {
	return get[api.BandwidthCalendar](ctx, c, path("settings", "bandwidth"))
}

// SetBandwidth implements api.Planning.
func (c *Client) SetBandwidth(ctx context.Context, revision int64, b api.BandwidthCalendar) (api.BandwidthCalendar, error) {
	return put[api.BandwidthCalendar](ctx, c, revision, b, "settings", "bandwidth")
}
