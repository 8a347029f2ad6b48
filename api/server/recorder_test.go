package server

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/api"
)

// recorder is a service that notes what it was asked, and answers with err or with a value in which every field is set.
type recorder struct {
	mu     sync.Mutex
	calls  []call
	err    error
	events func(ctx context.Context, after uint64) (<-chan api.Event, error)
}

// allParts is a server of which nothing is missing.
func allParts(r *recorder, access Access) Parts {
	return Parts{Service: r, Access: access, Operation: r, Notifications: r, SignIn: r}
}

type call struct {
	method string
	args   []any
	result any
}

func answerTo[T any](r *recorder, method string, args ...any) (T, error) {
	var result T
	if r.err == nil {
		fill(reflect.ValueOf(&result).Elem())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call{method, args, result})
	return result, r.err
}

func (r *recorder) last(t *testing.T) call {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.calls) == 0 {
		t.Fatal("the service was not asked")
	}
	return r.calls[len(r.calls)-1]
}

// changes are the calls that do more than look: the log of changes looks at what there was before.
func (r *recorder) changes() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.calls), func(c call) bool {
		return strings.HasPrefix(c.method, "Get") || strings.HasPrefix(c.method, "List")
	})
}

// fill sets everything below v to something that is not zero and that validation accepts.
func fill(v reflect.Value) { fillTagged(v, "") }

func fillTagged(v reflect.Value, tag reflect.StructTag) {
	if v.Type() == reflect.TypeFor[api.Scope]() {
		return // it does not travel: the server knows it
	}
	if v.Type() == reflect.TypeFor[api.Secret]() {
		v.Set(reflect.ValueOf(api.NewSecret("some words, long enough")))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fillTagged(v.Field(i), v.Type().Field(i).Tag)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillTagged(v.Elem(), tag)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fillTagged(v.Index(i), tag)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("some"), reflect.ValueOf(1.5))
	case reflect.String:
		if tag.Get("json") == "-" { // filled by the server: who has the token of these tests
			v.SetString("local")
			return
		}
		value, _, _ := strings.Cut(tag.Get("enum"), ",")
		if value == "" {
			value = "some"
		}
		v.SetString(value)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(2.5)
	case reflect.Int, reflect.Int64:
		v.SetInt(17)
	case reflect.Uint8:
		v.SetUint(17)
	case reflect.Uint64:
		v.SetUint(17)
	default:
		panic(fmt.Sprintf("nothing to fill a %s with", v.Type()))
	}
}

// conceal takes out of an answer what no answer shows.
func conceal(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("writeOnly") != "" {
				v.Field(i).SetZero()
			} else {
				conceal(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			conceal(v.Index(i))
		}
	}
}

var _ api.Service = (*recorder)(nil)

func (r *recorder) AddHost(ctx context.Context, spec api.HostSpec) (api.Host, error) {
	return answerTo[api.Host](r, "AddHost", spec)
}

func (r *recorder) ListHosts(ctx context.Context) ([]api.Host, error) {
	return answerTo[[]api.Host](r, "ListHosts")
}

func (r *recorder) GetHost(ctx context.Context, id string) (api.Host, error) {
	return answerTo[api.Host](r, "GetHost", id)
}

func (r *recorder) RemoveHost(ctx context.Context, id string) error {
	_, err := answerTo[struct{}](r, "RemoveHost", id)
	return err
}

func (r *recorder) Inventory(ctx context.Context, id string) (api.Inventory, error) {
	return answerTo[api.Inventory](r, "Inventory", id)
}

func (r *recorder) Doctor(ctx context.Context, id string) (api.DoctorReport, error) {
	return answerTo[api.DoctorReport](r, "Doctor", id)
}

func (r *recorder) ProbePaths(ctx context.Context, id string, o api.ProbeOrder) (api.DataPathReport, error) {
	return answerTo[api.DataPathReport](r, "ProbePaths", id, o)
}

func (r *recorder) CreateGroup(ctx context.Context, spec api.GroupSpec) (api.Group, error) {
	return answerTo[api.Group](r, "CreateGroup", spec)
}

func (r *recorder) ListGroups(ctx context.Context, q api.GroupQuery) (api.Page[api.Group], error) {
	return answerTo[api.Page[api.Group]](r, "ListGroups", q)
}

func (r *recorder) GetGroup(ctx context.Context, id string) (api.Group, error) {
	return answerTo[api.Group](r, "GetGroup", id)
}

func (r *recorder) UpdatePolicy(ctx context.Context, id string, revision int64, p api.Policy) (api.Group, error) {
	return answerTo[api.Group](r, "UpdatePolicy", id, revision, p)
}

func (r *recorder) ListPoints(ctx context.Context, group string) ([]api.Point, error) {
	return answerTo[[]api.Point](r, "ListPoints", group)
}

func (r *recorder) DropPoint(ctx context.Context, group, point string) (api.Job, error) {
	return answerTo[api.Job](r, "DropPoint", group, point)
}

func (r *recorder) RemoveGroup(ctx context.Context, id string, deleteReplicas bool) (api.Job, error) {
	return answerTo[api.Job](r, "RemoveGroup", id, deleteReplicas)
}

func (r *recorder) SyncNow(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "SyncNow", group)
}

func (r *recorder) Verify(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "Verify", group)
}

func (r *recorder) Fence(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "Fence", group)
}

func (r *recorder) Pause(ctx context.Context, group string) (api.Group, error) {
	return answerTo[api.Group](r, "Pause", group)
}

func (r *recorder) Resume(ctx context.Context, group string) (api.Group, error) {
	return answerTo[api.Group](r, "Resume", group)
}

func (r *recorder) Test(ctx context.Context, group string, o api.TestOrder) (api.Job, error) {
	return answerTo[api.Job](r, "Test", group, o)
}

func (r *recorder) EndTest(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "EndTest", group)
}

func (r *recorder) Failover(ctx context.Context, group string, o api.FailoverOrder) (api.Job, error) {
	return answerTo[api.Job](r, "Failover", group, o)
}

func (r *recorder) Commit(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "Commit", group)
}

func (r *recorder) Rollback(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "Rollback", group)
}

func (r *recorder) Reprotect(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "Reprotect", group)
}

func (r *recorder) Failback(ctx context.Context, group string) (api.Job, error) {
	return answerTo[api.Job](r, "Failback", group)
}

func (r *recorder) ListJobs(ctx context.Context, q api.JobQuery) (api.Page[api.Job], error) {
	return answerTo[api.Page[api.Job]](r, "ListJobs", q)
}

func (r *recorder) GetJob(ctx context.Context, id string) (api.Job, error) {
	return answerTo[api.Job](r, "GetJob", id)
}

func (r *recorder) CancelJob(ctx context.Context, id string) (api.Job, error) {
	return answerTo[api.Job](r, "CancelJob", id)
}

func (r *recorder) ConfirmJob(ctx context.Context, id string, c api.Confirmation) (api.Job, error) {
	return answerTo[api.Job](r, "ConfirmJob", id, c)
}

func (r *recorder) ListReports(ctx context.Context, q api.ReportQuery) (api.Page[api.Report], error) {
	return answerTo[api.Page[api.Report]](r, "ListReports", q)
}

func (r *recorder) GetReport(ctx context.Context, id string) (api.Report, error) {
	return answerTo[api.Report](r, "GetReport", id)
}

func (r *recorder) ReportScreen(ctx context.Context, id, machine string) ([]byte, error) {
	return answerTo[[]byte](r, "ReportScreen", id, machine)
}

func (r *recorder) ListScripts(ctx context.Context) ([]api.Script, error) {
	return answerTo[[]api.Script](r, "ListScripts")
}

func (r *recorder) Events(ctx context.Context, after uint64) (<-chan api.Event, error) {
	_, err := answerTo[struct{}](r, "Events", after)
	if r.events == nil {
		return make(chan api.Event), err
	}
	return r.events(ctx, after)
}

func (r *recorder) About(ctx context.Context) (api.About, error) {
	return answerTo[api.About](r, "About")
}
