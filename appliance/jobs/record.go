package jobs

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"understudy/api"
	"understudy/hypervisors"
)

// record is what the store keeps of a job.
type record struct {
	Job api.Job `json:"job"`
	// State is the job's own: the input, then what steps saved.
	State json.RawMessage `json:"state,omitempty"`
	// Next is the index of the step to do; all steps done means success.
	Next  int      `json:"next"`
	Locks []string `json:"locks,omitempty"`
	Undos []undo   `json:"undos,omitempty"` // oldest first
	// Cancel was asked for and not yet acted on.
	Cancel bool `json:"cancel,omitempty"`
	// Forgiven: past a point of no return, nothing to undo since.
	Forgiven bool `json:"forgiven,omitempty"`
	// Confirmed are the answers of people, by prompt.
	Confirmed map[string]answer `json:"confirmed,omitempty"`
	// Failure is set as soon as the job cannot succeed any more.
	Failure *failure `json:"failure,omitempty"`
}

// ErrDamaged is a record that no version of this package wrote.
var ErrDamaged = errors.New("record of a job makes no sense")

// readRecord refuses a record that the runner could not go on with: better no start at all than a job that ends well
// without having done anything.
func readRecord(id string, decode func(v any) error) (rec record, err error) {
	if err = decode(&rec); err == nil && rec.sane(id) {
		return rec, nil
	}
	cause := fmt.Errorf("%w: job %s", ErrDamaged, id)
	if err != nil {
		cause = fmt.Errorf("%w: %w", cause, err)
	}
	return rec, api.Errorf(api.CodeInternal, "Put back a copy of the state database from a backup. Without one, move it away and connect "+
		"the hosts again: replicas and their recovery points are kept on the hosts, not in this file.", "%w", cause)
}

func (r record) sane(id string) bool {
	states := []api.JobState{api.JobQueued, api.JobRunning, api.JobUndoing, api.JobSucceeded, api.JobFailed, api.JobCancelled}
	return r.Job.ID == id && r.Job.Kind != "" && len(r.Job.Steps) > 0 && r.Next >= 0 && r.Next <= len(r.Job.Steps) &&
		slices.Contains(states, r.Job.State)
}

// answer is what a person said to a prompt.
type answer struct {
	Note string `json:"note,omitempty"`
	By   string `json:"by,omitempty"`
}

type undo struct {
	Name string `json:"name"`
	Arg  string `json:"arg,omitempty"`
}

// failure is an error that survives a restart.
type failure struct {
	Code      api.Code `json:"code"`
	Message   string   `json:"message"`
	Hint      string   `json:"hint,omitempty"`
	Cancelled bool     `json:"cancelled,omitempty"`
	Undone    []string `json:"undone,omitempty"` // what could not be undone, for people
}

func newFailure(err error) *failure {
	f := &failure{Code: api.CodeOf(err), Message: err.Error(), Hint: hypervisors.Hint(err)}
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Hint != "" {
		f.Hint = e.Hint
	}
	return f
}

// message is the error with what was left behind.
func (f *failure) message() string {
	if len(f.Undone) == 0 {
		return f.Message
	}
	return f.Message + "; not undone: " + strings.Join(f.Undone, "; ")
}

// err is nil for a nil failure.
func (f *failure) err() error {
	if f == nil {
		return nil
	}
	e := &api.Error{Code: f.Code, Message: f.message(), Hint: f.Hint}
	if f.Cancelled {
		e.Err = ErrCancelled
	}
	return e
}

func (f *failure) state() api.JobState {
	switch {
	case f == nil:
		return api.JobSucceeded
	case f.Cancelled:
		return api.JobCancelled
	default:
		return api.JobFailed
	}
}

// clone shares nothing that is changed in place.
func (r record) clone() record {
	r.Job = view(r.Job)
	r.Undos = slices.Clone(r.Undos)
	r.Confirmed = maps.Clone(r.Confirmed)
	if r.Failure != nil {
		f := *r.Failure
		f.Undone = slices.Clone(f.Undone)
		r.Failure = &f
	}
	return r
}

// view is a job that may be given away.
func view(j api.Job) api.Job {
	j.Steps = slices.Clone(j.Steps)
	j.Result = maps.Clone(j.Result)
	j.Timeline = append([]api.JobStep{}, j.Timeline...)
	return j
}

// ulids ascend even when the clock is set back.
func ulids(clock func() time.Time) func() string {
	var mu sync.Mutex
	var last uint64
	entropy := ulid.Monotonic(rand.Reader, 0)
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		last = max(last, ulid.Timestamp(clock()))
		return ulid.MustNew(last, entropy).String()
	}
}

// behind is an id that comes after last, though the clock was set back between two runs of the appliance: what is newest
// is found by the order of ids. Of ids that are no ULIDs nothing is known.
func behind(last, id string) string {
	l, err := ulid.Parse(last)
	if err != nil || id > last {
		return id
	}
	n, err := ulid.Parse(id)
	if err != nil {
		return id
	}
	_ = n.SetTime(l.Time() + 1) // fails in the year 10889
	return n.String()
}
