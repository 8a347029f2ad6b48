// Package remote reaches a hypervisor in memory from another process, as a real one is reached: the process that holds
// the machines serves connections, and an appliance beside it uses them as hosts. When the appliance is killed, the
// machines live on, and every call was made or was not.
//
// It owns the transport and knows nothing of what the calls do. It serves any hypervisors.Host, wrapped ones too. It is
// for tests: both sides are of one build, and nobody is kept out.
package remote

import (
	"context"
	"errors"
	"io"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// hello opens a connection: which host, in whose name.
type hello struct{ Host, Owner string }

// request is one call. Only the fields that its method needs are set; gob sends no others.
type request struct {
	ID     uint64
	Object uint64 // 0: the host itself
	Method string // empty: the call ID is to end

	Name       string // of a machine, point, run, network, replica
	From, Addr string
	Offset, N  int64
	Data       []byte
	Suspect    string
	On         bool

	Keep       hypervisors.Keep
	Checkpoint hypervisors.CheckpointRequest
	IDs        []hypervisors.ChangeID
	Replica    hypervisors.ReplicaSpec
	Adopt      hypervisors.AdoptSpec
	Draft      hypervisors.DraftRequest
	Run        hypervisors.RunSpec
	Point      hypervisors.Point
}

// reply answers the request of the same id.
type reply struct {
	ID    uint64
	Error *failure
	EOF   bool // beside Data

	Handle   handle
	Info     hypervisors.Info
	Caps     hypervisors.Capabilities
	VM       hypervisors.VM
	VMs      []hypervisors.VM
	Networks []hypervisors.Network
	Storage  []hypervisors.Storage
	Names    []string
	Status   hypervisors.ReplicaStatus
	Run      hypervisors.RunStatus
	Extents  []snapshot.Extent
	Paths    []dataPath
	Addr     string
	Data     []byte
}

// dataPath is one whose error is in Failure.
type dataPath struct {
	hypervisors.DataPath
	Failure *failure
}

// handle is something at the other side that takes calls, with what is known of it for good.
type handle struct {
	Object      uint64
	ID, VM      string
	Size        int64
	MapValid    bool
	Map         uint64 // object of a disk's map
	Taken       time.Time
	Consistency hypervisors.Consistency
	ChangeIDs   map[string]hypervisors.ChangeID
	Disks       []handle
}

// failure is an error on its way: what it says, and which of the known ones it is.
type failure struct {
	Op, Subject, Hint string // of a hypervisors.Error at its head
	Text              string
	Is                []int // in known
}

// known are the errors that callers tell apart.
var known = []error{
	hypervisors.ErrNotFound, hypervisors.ErrTrackingLost, hypervisors.ErrGaveWay, hypervisors.ErrBusy, hypervisors.ErrRunning,
	hypervisors.ErrInUse, hypervisors.ErrNoSpace, hypervisors.ErrNameTaken, hypervisors.ErrMACTaken,
	hypervisors.ErrUnknownNetwork, hypervisors.ErrUnknownStorage, hypervisors.ErrUnreachable, hypervisors.ErrUnauthorized,
	hypervisors.ErrHostKey, hypervisors.ErrScheme, hypervisors.ErrIncapable, hypervisors.ErrNotIsolated,
	hypervisors.ErrForeign, hypervisors.ErrTimeout, hypervisors.ErrInvalid, hypervisors.ErrUnconvertible,
	context.Canceled, context.DeadlineExceeded, io.EOF,
}

func pack(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{}
	for i, k := range known {
		if errors.Is(err, k) {
			f.Is = append(f.Is, i)
		}
	}
	var e *hypervisors.Error
	if errors.As(err, &e) {
		f.Op, f.Subject, f.Hint, err = e.Op, e.Subject, hypervisors.Hint(err), e.Err
	}
	f.Text = err.Error()
	return f
}

func (f *failure) unpack() error {
	if f == nil {
		return nil
	}
	e := &remoteError{text: f.Text}
	for _, i := range f.Is {
		e.is = append(e.is, known[i])
	}
	if f.Op == "" {
		return e
	}
	return &hypervisors.Error{Op: f.Op, Subject: f.Subject, Err: e, Hint: f.Hint}
}

// remoteError says what the other side said, and is what that was.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }
