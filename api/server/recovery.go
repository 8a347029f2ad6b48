package server

import (
	"context"
	"net/http"

	"understudy/api"
)

func (s *Server) recoveryRoutes() {
	type confirmation struct {
		OfJob
		Body api.Confirmation
	}
	register(s, operator.on(jobs), http.MethodPost, "/jobs/{id}/confirm", "confirm-job", "Let a job go on that waits for a person", http.StatusAccepted,
		func(ctx context.Context, in *confirmation) (*accepted, error) {
			return job(s.svc.ConfirmJob(ctx, in.ID, in.Body))
		})
}
