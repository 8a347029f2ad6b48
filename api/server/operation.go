package server

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"understudy/api"
)

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
