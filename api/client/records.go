package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"understudy/api"
)

// ListGroups implements api.Groups; a limit of 0 means the server's own.
func (c *Client) ListGroups(ctx context.Context, q api.GroupQuery) (api.Page[api.Group], error) {
	return find[api.Page[api.Group]](ctx, c, path("groups"), paged(q.Paging, "q", q.Q, "state", string(q.State),
		"health", string(q.Health), "host", q.Host, "sort", q.Sort))
}

// AllGroups reads all pages of ListGroups.
func (c *Client) AllGroups(ctx context.Context, q api.GroupQuery) ([]api.Group, error) {
	return api.All(func(p api.Paging) (api.Page[api.Group], error) { q.Paging = p; return c.ListGroups(ctx, q) })
}

// ListJobs implements api.Jobs; a limit of 0 means the server's own.
func (c *Client) ListJobs(ctx context.Context, q api.JobQuery) (api.Page[api.Job], error) {
	return find[api.Page[api.Job]](ctx, c, path("jobs"), paged(q.Paging, "group", q.Group, "state", q.State, "kind", q.Kind))
}

// AllJobs reads all pages of ListJobs.
func (c *Client) AllJobs(ctx context.Context, q api.JobQuery) ([]api.Job, error) {
	return api.All(func(p api.Paging) (api.Page[api.Job], error) { q.Paging = p; return c.ListJobs(ctx, q) })
}

// Overview implements api.Records; the scope is that of the token.
func (c *Client) Overview(ctx context.Context, _ api.Scope) (api.Overview, error) {
	return get[api.Overview](ctx, c, path("overview"))
}

// ListMachines implements api.Records; a limit of 0 means the server's own.
func (c *Client) ListMachines(ctx context.Context, q api.MachineQuery) (api.Page[api.ProtectedMachine], error) {
	return find[api.Page[api.ProtectedMachine]](ctx, c, path("machines"), paged(q.Paging, "q", q.Q, "health", string(q.Health),
		"group", q.Group, "host", q.Host, "sort", q.Sort))
}

// AllMachines reads all pages of ListMachines.
func (c *Client) AllMachines(ctx context.Context, q api.MachineQuery) ([]api.ProtectedMachine, error) {
	return api.All(func(p api.Paging) (api.Page[api.ProtectedMachine], error) {
		q.Paging = p
		return c.ListMachines(ctx, q)
	})
}

// ListAlerts implements api.Records; the scope is that of the token.
func (c *Client) ListAlerts(ctx context.Context, _ api.Scope) ([]api.ActiveAlert, error) {
	return get[[]api.ActiveAlert](ctx, c, path("alerts"))
}

// History implements api.Records.
func (c *Client) History(ctx context.Context, q api.HistoryQuery) (api.History, error) {
	at, query := path("history"), url.Values{}
	if q.Group != "" {
		at = path("groups", q.Group, "history")
	}
	if q.Hours != 0 {
		query.Set("hours", strconv.Itoa(q.Hours))
	}
	return find[api.History](ctx, c, at, query)
}

// find is get with a query.
func find[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	return call[T](ctx, c, request{method: http.MethodGet, path: path, query: q})
}

// paged makes a query of pairs of names and values, without those that are empty.
func paged(p api.Paging, pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if p.Offset > 0 {
		q.Set("offset", strconv.Itoa(p.Offset))
	}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}
