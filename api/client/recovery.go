package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"understudy/api"
)

// ConfirmJob implements api.Recovery.
func (c *Client) ConfirmJob(ctx context.Context, id string, answer api.Confirmation) (api.Job, error) {
	return post[api.Job](ctx, c, path("jobs", id, "confirm"), answer)
}

// ListReports implements api.Recovery; a limit of 0 means the server's own.
func (c *Client) ListReports(ctx context.Context, q api.ReportQuery) (api.Page[api.Report], error) {
	return find[api.Page[api.Report]](ctx, c, path("reports"), paged(q.Paging, "group", q.Group, "kind", q.Kind))
}

// GetReport implements api.Recovery.
func (c *Client) GetReport(ctx context.Context, id string) (api.Report, error) {
	return get[api.Report](ctx, c, path("reports", id))
}

// ReportScreen implements api.Recovery.
func (c *Client) ReportScreen(ctx context.Context, report, machine string) ([]byte, error) {
	return c.file(ctx, request{method: http.MethodGet, path: path("reports", report, "screens", machine)}, "image/png")
}

// ReportPage gives a report as a page that stands alone, in English (en) or German (de).
func (c *Client) ReportPage(ctx context.Context, report, lang string) ([]byte, error) {
	return c.file(ctx, request{method: http.MethodGet, path: path("reports", report, "html"), query: url.Values{"lang": {lang}}}, "text/html")
}

// ListScripts implements api.Recovery.
func (c *Client) ListScripts(ctx context.Context) ([]api.Script, error) {
	return get[[]api.Script](ctx, c, path("scripts"))
}

// file reads an answer that is no JSON but of the given type.
func (c *Client) file(ctx context.Context, r request, want string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if !isType(resp, want) {
		return nil, notAnAppliance(c.base, resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.transportError(ctx, fmt.Errorf("read answer: %w", err))
	}
	return b, nil
}
