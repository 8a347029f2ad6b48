package server

import (
	"bytes"
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"understudy/api"
)

// maxRestore bounds a request that carries a backup, which base64 makes a third larger.
const maxRestore = api.MaxBackup/3*4 + 64<<10

// file is an answer that is kept, not read.
type file struct {
	Type string `header:"Content-Type"`
	Name string `header:"Content-Disposition"`
	Body []byte
}

func (s *Server) operationRoutes() {
	register(s, administrator.on(appliance), http.MethodGet, "/settings/certificate", "certificate", "Show the certificate of the API", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[api.Certificate], error) {
			return answer(s.operate.Certificate(ctx))
		})
	register(s, administrator.on(appliance), http.MethodPut, "/settings/certificate", "replace-certificate", "Use another certificate at once", http.StatusOK,
		func(ctx context.Context, in *struct{ Body api.CertificateOrder }) (*body[api.Certificate], error) {
			return answer(s.operate.ReplaceCertificate(ctx, in.Body))
		})
	register(s, administrator.on(appliance), http.MethodDelete, "/settings/certificate", "reset-certificate", "Go back to a self-made certificate", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[api.Certificate], error) {
			return answer(s.operate.ResetCertificate(ctx))
		})
	register(s, administrator.on(appliance), http.MethodGet, "/secrets", "secrets", "Tell whether the kept secrets can be read", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[api.SecretsStatus], error) {
			return answer(s.operate.Secrets(ctx))
		})
	register(s, administrator.on(appliance), http.MethodPost, "/rotate-key", "rotate-key", "Seal the kept secrets with a new key", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[api.SecretsStatus], error) {
			return answer(s.operate.RotateKey(ctx))
		})
	register(s, administrator.on(appliance), http.MethodPost, "/backup", "backup", "Write the configuration down, encrypted", http.StatusOK,
		func(ctx context.Context, in *struct{ Body api.BackupOrder }) (*file, error) {
			if err := in.Body.Validate(); err != nil {
				return nil, err
			}
			var b bytes.Buffer
			if err := s.operate.Backup(ctx, in.Body, &b); err != nil {
				return nil, err
			}
			return &file{"application/octet-stream", `attachment; filename="understudy.backup"`, b.Bytes()}, nil
		})
	register(s, administrator.on(appliance), http.MethodPost, "/restore", "restore", "Bring a backup of the configuration back at the next start", http.StatusOK,
		func(ctx context.Context, in *struct{ Body api.RestoreOrder }) (*body[api.Restoration], error) {
			if err := in.Body.Validate(); err != nil {
				return nil, err
			}
			return answer(s.operate.Restore(ctx, in.Body))
		})
	register(s, administrator.on(appliance), http.MethodPost, "/support-bundle", "support-bundle", "Collect what helps to find a fault, without secrets", http.StatusOK,
		func(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
			return &huma.StreamResponse{Body: func(h huma.Context) {
				h.SetHeader("Content-Type", "application/zip")
				h.SetHeader("Content-Disposition", `attachment; filename="understudy-support.zip"`)
				if err := s.operate.SupportBundle(ctx, h.BodyWriter()); err != nil && ctx.Err() == nil {
					// The status is long gone; a zip file without its end is seen to be cut off.
					s.log.ErrorContext(ctx, "support bundle is not complete", "error", err)
				}
			}}, nil
		})
}

// ready answers load balancers and service managers, who read the status alone.
func (s *Server) ready(c *gin.Context) {
	if s.operate == nil {
		c.JSON(http.StatusServiceUnavailable, api.Readiness{Reasons: []string{"the appliance is starting"}})
		return
	}
	r := s.operate.Ready(c.Request.Context())
	if r.Reasons == nil {
		r.Reasons = []string{}
	}
	status := http.StatusOK
	if !r.Ready {
		status = http.StatusServiceUnavailable
	}
	c.JSON(status, r)
}
