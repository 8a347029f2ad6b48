package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"understudy/api"
)

var _ api.Operation = (*Client)(nil)

// Certificate implements api.Operation.
func (c *Client) Certificate(ctx context.Context) (api.Certificate, error) {
	return get[api.Certificate](ctx, c, path("settings", "certificate"))
}

// ReplaceCertificate implements api.Operation.
func (c *Client) ReplaceCertificate(ctx context.Context, o api.CertificateOrder) (api.Certificate, error) {
	o.Key = o.Key.InClear()
	return call[api.Certificate](ctx, c, request{method: http.MethodPut, path: path("settings", "certificate"), body: o})
}

// ResetCertificate implements api.Operation.
func (c *Client) ResetCertificate(ctx context.Context) (api.Certificate, error) {
	return remove[api.Certificate](ctx, c, path("settings", "certificate"))
}

// Secrets implements api.Operation.
func (c *Client) Secrets(ctx context.Context) (api.SecretsStatus, error) {
	return get[api.SecretsStatus](ctx, c, path("secrets"))
}

// RotateKey implements api.Operation.
func (c *Client) RotateKey(ctx context.Context) (api.SecretsStatus, error) {
	return post[api.SecretsStatus](ctx, c, path("rotate-key"), nil)
}

// Ready implements api.Operation. An appliance that does not answer is not ready.
func (c *Client) Ready(ctx context.Context) api.Readiness {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var r api.Readiness
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/readyz", nil)
	if err == nil {
		var resp *http.Response
		if resp, err = c.http.Do(req); err == nil {
			defer resp.Body.Close()
			err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&r)
		}
	}
	if err != nil {
		return api.Readiness{Reasons: []string{c.transportError(ctx, err).Error()}}
	}
	return r
}
