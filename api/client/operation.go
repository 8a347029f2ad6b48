package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Backup implements api.Operation.
func (c *Client) Backup(ctx context.Context, o api.BackupOrder, w io.Writer) error {
	o.Passphrase = o.Passphrase.InClear()
	return c.save(ctx, path("backup"), o, "application/octet-stream", w)
}

// Restore implements api.Operation.
func (c *Client) Restore(ctx context.Context, o api.RestoreOrder) (api.Restoration, error) {
	o.Passphrase = o.Passphrase.InClear()
	return post[api.Restoration](ctx, c, path("restore"), o)
}

// SupportBundle implements api.Operation.
func (c *Client) SupportBundle(ctx context.Context, w io.Writer) error {
	return c.save(ctx, path("support-bundle"), nil, "application/zip", w)
}

// save writes an answer that is a file to w.
func (c *Client) save(ctx context.Context, path string, body any, mediaType string, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodPost, path: path, body: body})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !isType(resp, mediaType) {
		return notAnAppliance(c.base, resp)
	}
	tee := &keeping{w: w}
	if _, err := io.Copy(tee, resp.Body); err != nil {
		if tee.err != nil {
			return fmt.Errorf("write what the appliance answered: %w", tee.err)
		}
		return c.transportError(ctx, fmt.Errorf("read answer: %w", err))
	}
	return nil
}

// keeping tells errors of writing from those of reading.
type keeping struct {
	w   io.Writer
	err error
}

func (k *keeping) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	k.err = errors.Join(k.err, err)
	return n, err
}
