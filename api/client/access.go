package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"understudy/api"
)

var (
	_ api.Users    = (*Client)(nil)
	_ api.Tokens   = (*Client)(nil)
	_ api.AuditLog = (*Client)(nil)
)

// WhoAmI tells whom the token belongs to.
func (c *Client) WhoAmI(ctx context.Context) (api.Me, error) {
	return get[api.Me](ctx, c, path("session"))
}

// ListUsers implements api.Users.
func (c *Client) ListUsers(ctx context.Context) ([]api.User, error) {
	return get[[]api.User](ctx, c, path("users"))
}

// GetUser implements api.Users.
func (c *Client) GetUser(ctx context.Context, id string) (api.User, error) {
	return get[api.User](ctx, c, path("users", id))
}

// CreateUser implements api.Users.
func (c *Client) CreateUser(ctx context.Context, spec api.UserSpec) (api.User, error) {
	spec.Password = spec.Password.InClear()
	return post[api.User](ctx, c, path("users"), spec)
}

// UpdateUser implements api.Users.
func (c *Client) UpdateUser(ctx context.Context, id string, revision int64, edit api.UserEdit) (api.User, error) {
	edit.Password = edit.Password.InClear()
	return call[api.User](ctx, c, request{
		method: http.MethodPut, path: path("users", id), body: edit,
		header: http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(revision, 10))}},
	})
}

// DeleteUser implements api.Users.
func (c *Client) DeleteUser(ctx context.Context, id string) error {
	_, err := remove[struct{}](ctx, c, path("users", id))
	return err
}

func whose(q api.TokenQuery) url.Values {
	if !q.All {
		return nil
	}
	return url.Values{"all": {"true"}}
}

// ListTokens implements api.Tokens.
func (c *Client) ListTokens(ctx context.Context, q api.TokenQuery) ([]api.Token, error) {
	return call[[]api.Token](ctx, c, request{method: http.MethodGet, path: path("tokens"), query: whose(q)})
}

// CreateToken implements api.Tokens.
func (c *Client) CreateToken(ctx context.Context, spec api.TokenSpec) (api.NewToken, error) {
	return post[api.NewToken](ctx, c, path("tokens"), spec)
}

// DeleteToken implements api.Tokens.
func (c *Client) DeleteToken(ctx context.Context, id string, q api.TokenQuery) error {
	_, err := call[struct{}](ctx, c, request{method: http.MethodDelete, path: path("tokens", id), query: whose(q)})
	return err
}

// ListAudit implements api.AuditLog.
func (c *Client) ListAudit(ctx context.Context, q api.AuditQuery) (api.Page[api.AuditEntry], error) {
	v := timesOf(q.From, q.To)
	for name, text := range map[string]string{"q": q.Q, "user": q.User, "action": q.Action} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.Offset > 0 {
		v.Set("offset", strconv.Itoa(q.Offset))
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return call[api.Page[api.AuditEntry]](ctx, c, request{method: http.MethodGet, path: path("audit"), query: v})
}

func timesOf(from, to time.Time) url.Values {
	v := url.Values{}
	if !from.IsZero() {
		v.Set("from", from.Format(time.RFC3339Nano))
	}
	if !to.IsZero() {
		v.Set("to", to.Format(time.RFC3339Nano))
	}
	return v
}

// ExportAudit implements api.AuditLog. An export that breaks off is an error.
func (c *Client) ExportAudit(ctx context.Context, from, to time.Time, fn func(api.AuditEntry) error) error {
	resp, err := c.send(ctx, request{method: http.MethodGet, path: path("audit", "export"), query: timesOf(from, to)})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !isType(resp, "application/x-ndjson") {
		return notAnAppliance(c.base, resp)
	}
	return ReadAudit(resp.Body, fn)
}

// ReadAudit reads exported entries, one a line.
func ReadAudit(r io.Reader, fn func(api.AuditEntry) error) error {
	for decoder := json.NewDecoder(r); ; {
		var e api.AuditEntry
		switch err := decoder.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return api.Errorf(api.CodeInvalid, "Export it again.", "the export is damaged or broke off: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// WriteAudit gives a function that writes entries as the appliance exports them.
func WriteAudit(w io.Writer) func(api.AuditEntry) error {
	encoder := json.NewEncoder(w)
	return func(e api.AuditEntry) error { return encoder.Encode(e) }
}
