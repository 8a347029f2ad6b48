package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"understudy/api"
)

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, request{method: http.MethodGet, path: path})
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	return call[T](ctx, c, request{method: http.MethodPost, path: path, body: body})
}

func remove[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, request{method: http.MethodDelete, path: path})
}

// AddHost implements api.Hosts.
func (c *Client) AddHost(ctx context.Context, spec api.HostSpec) (api.Host, error) {
	return post[api.Host](ctx, c, path("hosts"), hostInClear(spec))
}

// hostInClear lets the password travel: the connection is sealed, or leads to this machine only.
func hostInClear(spec api.HostSpec) api.HostSpec {
	spec.Password = spec.Password.InClear()
	return spec
}

// ListHosts implements api.Hosts.
func (c *Client) ListHosts(ctx context.Context) ([]api.Host, error) {
	return get[[]api.Host](ctx, c, path("hosts"))
}

// GetHost implements api.Hosts.
func (c *Client) GetHost(ctx context.Context, id string) (api.Host, error) {
	return get[api.Host](ctx, c, path("hosts", id))
}

// RemoveHost implements api.Hosts.
func (c *Client) RemoveHost(ctx context.Context, id string) error {
	_, err := remove[struct{}](ctx, c, path("hosts", id))
	return err
}

// Inventory implements api.Hosts.
func (c *Client) Inventory(ctx context.Context, id string) (api.Inventory, error) {
	return get[api.Inventory](ctx, c, path("hosts", id, "inventory"))
}

// Doctor implements api.Hosts.
func (c *Client) Doctor(ctx context.Context, id string) (api.DoctorReport, error) {
	return get[api.DoctorReport](ctx, c, path("hosts", id, "doctor"))
}

// ProbePaths implements api.Hosts.
func (c *Client) ProbePaths(ctx context.Context, id string, o api.ProbeOrder) (api.DataPathReport, error) {
	return post[api.DataPathReport](ctx, c, path("hosts", id, "data-paths"), o)
}

// CreateGroup implements api.Groups.
func (c *Client) CreateGroup(ctx context.Context, spec api.GroupSpec) (api.Group, error) {
	return post[api.Group](ctx, c, path("groups"), spec)
}

// GetGroup implements api.Groups.
func (c *Client) GetGroup(ctx context.Context, id string) (api.Group, error) {
	return get[api.Group](ctx, c, path("groups", id))
}

// UpdatePolicy implements api.Groups.
func (c *Client) UpdatePolicy(ctx context.Context, id string, revision int64, p api.Policy) (api.Group, error) {
	return call[api.Group](ctx, c, request{
		method: http.MethodPut, path: path("groups", id, "policy"), body: p,
		header: http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(revision, 10))}},
	})
}

// ListPoints implements api.Groups.
func (c *Client) ListPoints(ctx context.Context, group string) ([]api.Point, error) {
	return get[[]api.Point](ctx, c, path("groups", group, "points"))
}

// DropPoint implements api.Groups.
func (c *Client) DropPoint(ctx context.Context, group, point string) (api.Job, error) {
	return remove[api.Job](ctx, c, path("groups", group, "points", point))
}

// RemoveGroup implements api.Groups.
func (c *Client) RemoveGroup(ctx context.Context, id string, deleteReplicas bool) (api.Job, error) {
	return call[api.Job](ctx, c, request{
		method: http.MethodDelete,
		path:   path("groups", id),
		query:  url.Values{"deleteReplicas": {strconv.FormatBool(deleteReplicas)}},
	})
}

func order[T any](ctx context.Context, c *Client, group, name string, body any) (T, error) {
	return post[T](ctx, c, path("groups", group, name), body)
}

// SyncNow implements api.Orders.
func (c *Client) SyncNow(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "sync", nil)
}

// Verify implements api.Orders.
func (c *Client) Verify(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "verify", nil)
}

// Fence implements api.Orders.
func (c *Client) Fence(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "fence", nil)
}

// Pause implements api.Orders.
func (c *Client) Pause(ctx context.Context, group string) (api.Group, error) {
	return order[api.Group](ctx, c, group, "pause", nil)
}

// Resume implements api.Orders.
func (c *Client) Resume(ctx context.Context, group string) (api.Group, error) {
	return order[api.Group](ctx, c, group, "resume", nil)
}

// Test implements api.Orders.
func (c *Client) Test(ctx context.Context, group string, o api.TestOrder) (api.Job, error) {
	return order[api.Job](ctx, c, group, "test", o)
}

// EndTest implements api.Orders.
func (c *Client) EndTest(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "end-test", nil)
}

// Failover implements api.Orders.
func (c *Client) Failover(ctx context.Context, group string, o api.FailoverOrder) (api.Job, error) {
	return order[api.Job](ctx, c, group, "failover", o)
}

// Commit implements api.Orders.
func (c *Client) Commit(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "commit", nil)
}

// Rollback implements api.Orders.
func (c *Client) Rollback(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "rollback", nil)
}

// Reprotect implements api.Orders.
func (c *Client) Reprotect(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "reprotect", nil)
}

// Failback implements api.Orders.
func (c *Client) Failback(ctx context.Context, group string) (api.Job, error) {
	return order[api.Job](ctx, c, group, "failback", nil)
}

// GetJob implements api.Jobs.
func (c *Client) GetJob(ctx context.Context, id string) (api.Job, error) {
	return get[api.Job](ctx, c, path("jobs", id))
}

// CancelJob implements api.Jobs.
func (c *Client) CancelJob(ctx context.Context, id string) (api.Job, error) {
	return post[api.Job](ctx, c, path("jobs", id, "cancel"), nil)
}

// About implements api.System.
func (c *Client) About(ctx context.Context) (api.About, error) {
	return get[api.About](ctx, c, path("about"))
}
