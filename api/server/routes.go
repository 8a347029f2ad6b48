package server

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"understudy/api"
)

type (
	none struct{}

	// OfHost addresses a host. It and the next are exported because huma passes over embedded types that are not.
	OfHost struct {
		ID string `path:"id" maxLength:"128" doc:"Id or name of the host"`
	}
	// OfGroup addresses a group.
	OfGroup struct {
		ID string `path:"id" maxLength:"128" doc:"Id or name of the group"`
	}
	// OfJob addresses a job.
	OfJob struct {
		ID string `path:"id" maxLength:"128" doc:"Id of the job"`
	}

	// body is a plain answer.
	body[T any] struct{ Body T }
	// created is the answer to the making of something.
	created[T any] struct {
		Location string `header:"Location"`
		Body     T
	}
	// revised is an answer whose revision goes into If-Match.
	revised struct {
		ETag string `header:"ETag"`
		Body api.Group
	}
	// accepted is the answer to everything that takes time.
	accepted struct {
		Location string `header:"Location" doc:"The job"`
		Body     api.Job
	}
)

func (s *Server) routes() {
	s.accessRoutes()
	s.hostRoutes()
	s.groupRoutes()
	s.orderRoutes()
	s.jobRoutes()
	s.recordRoutes()
	s.recoveryRoutes()
	s.eventRoute()
	s.planningRoutes()
	s.operationRoutes()
	s.notificationRoutes()
	s.signInRoutes()
	register(s, viewer.on(filtered), http.MethodGet, "/about", "about", "Tell who answers", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[api.About], error) { return answer(s.svc.About(ctx)) })
}

// register adds one operation to the document and its route to the engine, for whoever has what it needs; every error
// passes here.
func register[I, O any](s *Server, n need, method, path, id, summary string, status int, call func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, s.operation(n, method, path, id, summary, status), func(ctx context.Context, in *I) (*O, error) {
		out, err := call(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
}

func (s *Server) operation(n need, method, path, id, summary string, status int) huma.Operation {
	tag, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	s.guard(n, method, prefix+path, id, status)
	op := huma.Operation{
		OperationID: id, Method: method, Path: prefix + path, Summary: summary, Tags: []string{tag}, DefaultStatus: status,
		MaxBodyBytes: bodyLimit(prefix + path), BodyReadTimeout: -1, // readBody has bounded it
	}
	if n.anybody {
		op.Security = []map[string][]string{{}}
	}
	if route := s.needs[routeKey(method, prefix+path)]; route.changes(method) && route.repeatable() {
		op.Parameters = append(op.Parameters, keyParameter())
	}
	return op
}

func answer[T any](v T, err error) (*body[T], error) { return &body[T]{Body: v}, err }

// list never answers null.
func list[T any](v []T, err error) (*body[[]T], error) {
	if v == nil {
		v = []T{}
	}
	return &body[[]T]{Body: v}, err
}

func group(g api.Group, err error) (*revised, error) {
	return &revised{ETag: strconv.Quote(strconv.FormatInt(g.Revision, 10)), Body: g}, err
}

func job(j api.Job, err error) (*accepted, error) {
	return &accepted{Location: prefix + "/jobs/" + url.PathEscape(j.ID), Body: j}, err
}

func (s *Server) hostRoutes() {
	register(s, administrator.on(hosts), http.MethodPost, "/hosts", "add-host", "Connect a host", http.StatusCreated,
		func(ctx context.Context, in *struct{ Body api.HostSpec }) (*created[api.Host], error) {
			h, err := s.svc.AddHost(ctx, in.Body)
			return &created[api.Host]{Location: prefix + "/hosts/" + url.PathEscape(h.ID), Body: h}, err
		})
	register(s, viewer.on(hosts), http.MethodGet, "/hosts", "list-hosts", "List the hosts", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[[]api.Host], error) { return list(s.svc.ListHosts(ctx)) })
	register(s, viewer.on(hosts), http.MethodGet, "/hosts/{id}", "get-host", "Show a host", http.StatusOK,
		func(ctx context.Context, in *OfHost) (*body[api.Host], error) {
			return answer(s.svc.GetHost(ctx, in.ID))
		})
	register(s, administrator.on(hosts), http.MethodDelete, "/hosts/{id}", "remove-host", "Disconnect a host that no group uses", http.StatusNoContent,
		func(ctx context.Context, in *OfHost) (*none, error) { return nil, s.svc.RemoveHost(ctx, in.ID) })
	register(s, viewer.on(hosts), http.MethodGet, "/hosts/{id}/inventory", "inventory", "Ask a host what it has", http.StatusOK,
		func(ctx context.Context, in *OfHost) (*body[api.Inventory], error) {
			return answer(s.svc.Inventory(ctx, in.ID))
		})
	register(s, viewer.on(hosts), http.MethodGet, "/hosts/{id}/doctor", "doctor", "Check what works on a host, reading only", http.StatusOK,
		func(ctx context.Context, in *OfHost) (*body[api.DoctorReport], error) {
			return answer(s.svc.Doctor(ctx, in.ID))
		})
	type probe struct {
		OfHost
		Body api.ProbeOrder
	}
	register(s, administrator.on(hosts), http.MethodPost, "/hosts/{id}/data-paths", "probe-paths",
		"Try each way to the content of disks on a small disk that is made and removed", http.StatusOK,
		func(ctx context.Context, in *probe) (*body[api.DataPathReport], error) {
			return answer(s.svc.ProbePaths(ctx, in.ID, in.Body))
		})
}

// IfMatch names the revision that an edit is based on.
type IfMatch struct {
	IfMatch string `header:"If-Match" doc:"The revision that was read, in quotes"`
}

// revision reads If-Match. Without it two people would overwrite each other's changes without knowing.
func (in *IfMatch) revision() (int64, error) {
	if in.IfMatch == "" {
		return 0, newProblem(http.StatusPreconditionRequired, &api.Error{Code: api.CodeInvalid, Field: "If-Match",
			Message: "the header If-Match is missing", Hint: "Read what is there and send its revision as If-Match."})
	}
	revision, err := strconv.ParseInt(strings.Trim(strings.TrimPrefix(in.IfMatch, "W/"), `"`), 10, 64)
	if err != nil {
		return 0, &api.Error{Code: api.CodeInvalid, Field: "If-Match", Message: "If-Match is not a revision: " + in.IfMatch,
			Hint: `Send the revision that was read in quotes, such as "7".`}
	}
	return revision, nil
}

type policyInput struct {
	OfGroup
	IfMatch
	Body api.Policy
}

func (s *Server) groupRoutes() {
	register(s, administrator.on(appliance), http.MethodPost, "/groups", "create-group", "Protect machines", http.StatusCreated,
		func(ctx context.Context, in *struct{ Body api.GroupSpec }) (*created[api.Group], error) {
			g, err := s.svc.CreateGroup(ctx, in.Body)
			return &created[api.Group]{Location: prefix + "/groups/" + url.PathEscape(g.ID), Body: g}, err
		})
	register(s, viewer.on(filtered), http.MethodGet, "/groups", "list-groups", "List the groups", http.StatusOK,
		func(ctx context.Context, in *groupQuery) (*body[api.Page[api.Group]], error) {
			in.Scope = in.By.Scope
			return page(s.svc.ListGroups(ctx, in.GroupQuery))
		})
	register(s, viewer.on(groups), http.MethodGet, "/groups/{id}", "get-group", "Show a group", http.StatusOK,
		func(ctx context.Context, in *OfGroup) (*revised, error) { return group(s.svc.GetGroup(ctx, in.ID)) })
	register(s, administrator.on(groups), http.MethodPut, "/groups/{id}/policy", "update-policy", "Change the policy of a group", http.StatusOK,
		func(ctx context.Context, in *policyInput) (*revised, error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			return group(s.svc.UpdatePolicy(ctx, in.ID, revision, in.Body))
		})
	register(s, viewer.on(groups), http.MethodGet, "/groups/{id}/points", "list-points", "List the recovery points of a group", http.StatusOK,
		func(ctx context.Context, in *OfGroup) (*body[[]api.Point], error) {
			return list(s.svc.ListPoints(ctx, in.ID))
		})
	type point struct {
		OfGroup
		Point string `path:"point" maxLength:"128" doc:"Id of the point"`
	}
	register(s, administrator.on(groups), http.MethodDelete, "/groups/{id}/points/{point}", "drop-point", "Drop a recovery point", http.StatusAccepted,
		func(ctx context.Context, in *point) (*accepted, error) {
			return job(s.svc.DropPoint(ctx, in.ID, in.Point))
		})
	type removal struct {
		OfGroup
		DeleteReplicas bool `query:"deleteReplicas" doc:"Delete the replicas and their points too"`
	}
	register(s, administrator.on(groups), http.MethodDelete, "/groups/{id}", "remove-group", "End protection", http.StatusAccepted,
		func(ctx context.Context, in *removal) (*accepted, error) {
			return job(s.svc.RemoveGroup(ctx, in.ID, in.DeleteReplicas))
		})
}

func (s *Server) orderRoutes() {
	for _, o := range []struct {
		name, summary string
		call          func(context.Context, string) (api.Job, error)
	}{
		{"sync", "Run a cycle now", s.svc.SyncNow},
		{"verify", "Compare the replicas with their sources in full", s.svc.Verify},
		{"end-test", "End the test failover and clean up", s.svc.EndTest},
		{"commit", "Accept a failover for good", s.svc.Commit},
		{"rollback", "Undo a failover that was not committed", s.svc.Rollback},
		{"reprotect", "Swap the roles after a committed failover", s.svc.Reprotect},
		{"failback", "Bring the machines home", s.svc.Failback},
		{"fence", "Turn machines off that run although they must not", s.svc.Fence},
	} {
		register(s, operator.on(groups), http.MethodPost, "/groups/{id}/"+o.name, o.name, o.summary, http.StatusAccepted,
			func(ctx context.Context, in *OfGroup) (*accepted, error) { return job(o.call(ctx, in.ID)) })
	}
	register(s, operator.on(groups), http.MethodPost, "/groups/{id}/pause", "pause", "Stop the schedule", http.StatusOK,
		func(ctx context.Context, in *OfGroup) (*revised, error) { return group(s.svc.Pause(ctx, in.ID)) })
	register(s, operator.on(groups), http.MethodPost, "/groups/{id}/resume", "resume", "Start the schedule again", http.StatusOK,
		func(ctx context.Context, in *OfGroup) (*revised, error) { return group(s.svc.Resume(ctx, in.ID)) })
	type test struct {
		OfGroup
		Body api.TestOrder
	}
	register(s, operator.on(groups), http.MethodPost, "/groups/{id}/test", "test", "Start a test failover in an isolated network", http.StatusAccepted,
		func(ctx context.Context, in *test) (*accepted, error) { return job(s.svc.Test(ctx, in.ID, in.Body)) })
	type failover struct {
		OfGroup
		Body api.FailoverOrder
	}
	register(s, operator.on(groups), http.MethodPost, "/groups/{id}/failover", "failover", "Start the replicas as production", http.StatusAccepted,
		func(ctx context.Context, in *failover) (*accepted, error) {
			return job(s.svc.Failover(ctx, in.ID, in.Body))
		})
}

func (s *Server) jobRoutes() {
	register(s, viewer.on(filtered), http.MethodGet, "/jobs", "list-jobs", "List jobs, newest first", http.StatusOK,
		func(ctx context.Context, in *jobQuery) (*body[api.Page[api.Job]], error) {
			in.Scope = in.By.Scope
			return page(s.svc.ListJobs(ctx, in.JobQuery))
		})
	register(s, viewer.on(jobs), http.MethodGet, "/jobs/{id}", "get-job", "Show a job", http.StatusOK,
		func(ctx context.Context, in *OfJob) (*body[api.Job], error) { return answer(s.svc.GetJob(ctx, in.ID)) })
	register(s, operator.on(jobs), http.MethodPost, "/jobs/{id}/cancel", "cancel-job", "Ask a job to stop and undo", http.StatusAccepted,
		func(ctx context.Context, in *OfJob) (*accepted, error) { return job(s.svc.CancelJob(ctx, in.ID)) })
}
