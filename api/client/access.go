package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"understudy/api"
)

var (
	_ api.Users  = (*Client)(nil)
	_ api.Tokens = (*Client)(nil)
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
