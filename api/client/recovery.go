package client

import (
	"context"

	"understudy/api"
)

// ConfirmJob implements api.Recovery.
func (c *Client) ConfirmJob(ctx context.Context, id string, answer api.Confirmation) (api.Job, error) {
	return post[api.Job](ctx, c, path("jobs", id, "confirm"), answer)
}
