package client

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"understudy/api"
)

var _ api.Notifications = (*Client)(nil)

// inClear lets the secrets of a channel travel: the connection is sealed, or leads to this machine only.
func inClear(s api.ChannelSpec) api.ChannelSpec {
	if s.Email != nil {
		part := *s.Email
		part.Password = part.Password.InClear()
		s.Email = &part
	}
	if s.SNMP != nil {
		part := *s.SNMP
		part.Community, part.AuthPassword, part.PrivPassword = part.Community.InClear(), part.AuthPassword.InClear(), part.PrivPassword.InClear()
		s.SNMP = &part
	}
	if s.Webhook != nil {
		part := *s.Webhook
		part.Secret = part.Secret.InClear()
		s.Webhook = &part
	}
	return s
}

// ListChannels implements api.Notifications.
func (c *Client) ListChannels(ctx context.Context) ([]api.Channel, error) {
	return get[[]api.Channel](ctx, c, path("notifications", "channels"))
}

// CreateChannel implements api.Notifications.
func (c *Client) CreateChannel(ctx context.Context, spec api.ChannelSpec) (api.Channel, error) {
	return post[api.Channel](ctx, c, path("notifications", "channels"), inClear(spec))
}

// UpdateChannel implements api.Notifications.
func (c *Client) UpdateChannel(ctx context.Context, id string, revision int64, spec api.ChannelSpec) (api.Channel, error) {
	return put[api.Channel](ctx, c, revision, inClear(spec), "notifications", "channels", id)
}

// DeleteChannel implements api.Notifications.
func (c *Client) DeleteChannel(ctx context.Context, id string) error {
	_, err := remove[struct{}](ctx, c, path("notifications", "channels", id))
	return err
}

// TestChannel implements api.Notifications.
func (c *Client) TestChannel(ctx context.Context, id string) (api.Delivery, error) {
	return post[api.Delivery](ctx, c, path("notifications", "channels", id, "test"), nil)
}

// ListRules implements api.Notifications.
func (c *Client) ListRules(ctx context.Context) ([]api.Rule, error) {
	return get[[]api.Rule](ctx, c, path("notifications", "rules"))
}

// CreateRule implements api.Notifications.
func (c *Client) CreateRule(ctx context.Context, spec api.RuleSpec) (api.Rule, error) {
	return post[api.Rule](ctx, c, path("notifications", "rules"), spec)
}

// UpdateRule implements api.Notifications.
func (c *Client) UpdateRule(ctx context.Context, id string, revision int64, spec api.RuleSpec) (api.Rule, error) {
	return put[api.Rule](ctx, c, revision, spec, "notifications", "rules", id)
}

// DeleteRule implements api.Notifications.
func (c *Client) DeleteRule(ctx context.Context, id string) error {
	_, err := remove[struct{}](ctx, c, path("notifications", "rules", id))
	return err
}

// ListDeliveries implements api.Notifications; a limit of 0 means the server's own.
func (c *Client) ListDeliveries(ctx context.Context, q api.DeliveryQuery) (api.Page[api.Delivery], error) {
	return find[api.Page[api.Delivery]](ctx, c, path("notifications", "deliveries"), paged(q.Paging, "channel", q.Channel, "state", q.State))
}

// MIB implements api.Notifications.
func (c *Client) MIB(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodGet, path: path("notifications", "mib")})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if !isType(resp, "text/plain") {
		return "", notAnAppliance(c.base, resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", c.transportError(ctx, fmt.Errorf("read answer: %w", err))
	}
	return string(text), nil
}
