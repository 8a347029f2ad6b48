package server

import (
	"context"
	"net/http"
	"time"

	"understudy/api"
	"understudy/api/report"
)

// reports belong to the group that they tell of, also when it is gone.
var reports = thing{
	group: func(ctx context.Context, svc api.Service, id string) (string, error) {
		r, err := svc.GetReport(ctx, id)
		return r.Group, err
	},
	missing: func(id string) error {
		return api.Errorf(api.CodeNotFound, "List the reports to see which there are.", "there is no report %q", id)
	},
}

// picture is an answer that is no JSON.
type picture struct {
	ContentType string `header:"Content-Type"`
	Policy      string `header:"Content-Security-Policy"`
	Body        []byte
}

// OfReport addresses a report.
type OfReport struct {
	ID string `path:"id" maxLength:"128" doc:"Id of the report, which is that of its job"`
}

func (s *Server) recoveryRoutes() {
	type confirmation struct {
		Asked
		OfJob
		Body api.Confirmation
	}
	register(s, operator.on(jobs), http.MethodPost, "/jobs/{id}/confirm", "confirm-job", "Let a job go on that waits for a person", http.StatusAccepted,
		func(ctx context.Context, in *confirmation) (*accepted, error) {
			in.Body.By = in.By.Name
			return job(s.svc.ConfirmJob(ctx, in.ID, in.Body))
		})
	register(s, administrator.on(appliance), http.MethodGet, "/scripts", "list-scripts", "List the scripts that runbooks may name", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[[]api.Script], error) { return list(s.svc.ListScripts(ctx)) })
	s.reportRoutes()
}

func (s *Server) reportRoutes() {
	type query struct {
		Asked
		api.ReportQuery
	}
	register(s, viewer.on(filtered), http.MethodGet, "/reports", "list-reports", "List the reports of what was ordered, newest first", http.StatusOK,
		func(ctx context.Context, in *query) (*body[api.Page[api.Report]], error) {
			in.Scope = in.By.Scope
			return answer(s.svc.ListReports(ctx, in.ReportQuery))
		})
	register(s, viewer.on(reports), http.MethodGet, "/reports/{id}", "get-report", "Show a report", http.StatusOK,
		func(ctx context.Context, in *OfReport) (*body[api.Report], error) {
			return answer(s.svc.GetReport(ctx, in.ID))
		})
	type page struct {
		OfReport
		Lang string `query:"lang" enum:"en,de" default:"en" doc:"Language of the page"`
	}
	register(s, viewer.on(reports), http.MethodGet, "/reports/{id}/html", "get-report-html", "Show a report as a page that stands alone", http.StatusOK,
		func(ctx context.Context, in *page) (*picture, error) { return s.reportPage(ctx, in.ID, in.Lang) })
	type screen struct {
		OfReport
		Machine string `path:"machine" maxLength:"255" doc:"Name of the machine"`
	}
	register(s, viewer.on(reports), http.MethodGet, "/reports/{id}/screens/{machine}", "get-report-screen", "Show a machine's screen, as it was when it had started", http.StatusOK,
		func(ctx context.Context, in *screen) (*picture, error) {
			png, err := s.svc.ReportScreen(ctx, in.ID, in.Machine)
			return &picture{"image/png", "default-src 'none'; frame-ancestors 'none'", png}, err
		})
}

// reportPage shows the pictures that there are.
func (s *Server) reportPage(ctx context.Context, id, lang string) (*picture, error) {
	r, err := s.svc.GetReport(ctx, id)
	if err != nil {
		return nil, err
	}
	screens := map[string][]byte{}
	for i, m := range r.Machines {
		if !m.Screen {
			continue
		}
		png, err := s.svc.ReportScreen(ctx, id, m.Name)
		if err != nil {
			r.Machines[i].ScreenProblem = err.Error() // the last of it was let go meanwhile
			continue
		}
		screens[m.Name] = png
	}
	html, err := report.Page(r, screens, lang, time.Now())
	return &picture{"text/html; charset=utf-8", report.Policy(), html}, err
}
