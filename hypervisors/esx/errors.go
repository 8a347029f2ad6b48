package esx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// known is what a fault of VMware means to us.
type known struct {
	fault types.BaseMethodFault
	err   error
	hint  string
}

// knownFaults: the first that fits counts, so the special ones come before those they derive from.
var knownFaults = []known{
	{&types.RestrictedVersion{}, hypervisors.ErrIncapable, "The licence of this host does not let programs change anything, as that of the free ESXi. Assign a paid or an evaluation licence, or connect to its vCenter."},
	{&types.LicenseRestricted{}, hypervisors.ErrIncapable, "The licence of this host does not cover this."},
	{&types.InvalidLogin{}, hypervisors.ErrUnauthorized, "Check name and password. After five failures ESX locks an account for 15 minutes."},
	{&types.NoPermission{}, hypervisors.ErrUnauthorized, "Give the role of this account the privilege; the README lists all that are needed."},
	{&types.NotAuthenticated{}, hypervisors.ErrUnauthorized, "The session was lost and could not be opened again."},
	{&types.ManagedObjectNotFound{}, hypervisors.ErrNotFound, ""},
	{&types.FileNotFound{}, hypervisors.ErrNotFound, ""},
	{&types.NoDiskSpace{}, hypervisors.ErrNoSpace, "Free space on the datastore, keep fewer points, or choose a larger one."},
	{&types.InsufficientStorageSpace{}, hypervisors.ErrNoSpace, "Free space on the datastore, keep fewer points, or choose a larger one."},
	{&types.DuplicateName{}, hypervisors.ErrNameTaken, "Choose another name."},
	{&types.AlreadyExists{}, hypervisors.ErrNameTaken, "Choose another name."},
	{&types.FileAlreadyExists{}, hypervisors.ErrNameTaken, "Choose another name, or remove the file."},
	{&types.FileLocked{}, hypervisors.ErrInUse, "Some machine or backup has the file open."},
	{&types.ResourceInUse{}, hypervisors.ErrInUse, ""},
	{&types.TaskInProgress{}, hypervisors.ErrBusy, "Wait for the other task to end."},
	{&types.ConcurrentAccess{}, hypervisors.ErrBusy, "Somebody else changed the machine at the same moment."},
	{&types.InvalidHostState{}, hypervisors.ErrIncapable, "Take the host out of maintenance mode, or connect it again."},
	{&types.HostNotConnected{}, hypervisors.ErrUnreachable, "The vCenter has lost its ESX host."},
	{&types.HostCommunication{}, hypervisors.ErrUnreachable, "The vCenter has lost its ESX host."},
	{&types.ToolsUnavailable{}, hypervisors.ErrIncapable, "VMware Tools do not run in the guest."},
	{&types.Timedout{}, hypervisors.ErrTimeout, ""},
	{&types.NotSupported{}, hypervisors.ErrIncapable, ""},
}

// fault says what went wrong with what, in the words of package hypervisors. What says so already stays as it is.
func fault(op, subject string, err error) error {
	var told *hypervisors.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	e := &hypervisors.Error{Op: op, Subject: subject, Err: err}
	if cause := untrusted(subject, err); cause != nil {
		return cause
	}
	if state := (&types.InvalidPowerState{}); asFault(err, &state) {
		e.Err = fmt.Errorf("%w: the machine is %s", hypervisors.ErrInvalid, powerState(state.ExistingState))
		if state.ExistingState == types.VirtualMachinePowerStatePoweredOn {
			e.Err = hypervisors.ErrRunning
		}
		return e
	}
	for _, k := range knownFaults {
		if faults.Is(err, k.fault) {
			e.Err, e.Hint = fmt.Errorf("%w: %w", k.err, worded{words(err), err}), k.hint
			return e
		}
	}
	var refused *net.OpError
	var request *url.Error
	switch {
	case isBusy(err):
		e.Err, e.Hint = fmt.Errorf("%w: it answers that it is not ready: %w", hypervisors.ErrUnreachable, err), "Its services may be starting. Look at the host if it stays like that."
	case errors.As(err, &refused), errors.As(err, &request):
		e.Err, e.Hint = fmt.Errorf("%w: %w", hypervisors.ErrUnreachable, err), "Look whether the host is up and its port can be reached from here."
	case soap.IsSoapFault(err), soap.IsVimFault(err), isTask(err):
		e.Err = worded{words(err), err}
	}
	return e
}

// asFault finds a fault in what a call or a task answered. VMware's types are values in some places and pointers in others.
func asFault[T types.BaseMethodFault](err error, target *T) bool {
	_, ok := faults.As(err, target)
	return ok
}

func isTask(err error) bool {
	var e task.Error
	return errors.As(err, &e)
}

// worded is a fault with the words that tell a person most.
type worded struct {
	words string
	fault error
}

func (w worded) Error() string { return w.words }
func (w worded) Unwrap() error { return w.fault }

// words are what VMware says in a fault: privileges, files and reasons by name.
func words(err error) string {
	var (
		denied  = &types.NoPermission{}
		file    types.BaseFileFault
		config  = &types.GenericVmConfigFault{}
		message = err.Error()
		e       task.Error
	)
	if errors.As(err, &e) && e.LocalizedMethodFault != nil && e.LocalizedMessage != "" {
		message = e.LocalizedMessage
	}
	switch {
	case asFault(err, &denied):
		ids := []string{denied.PrivilegeId}
		for _, missing := range denied.MissingPrivileges {
			ids = append(ids, missing.PrivilegeIds...)
		}
		slices.Sort(ids)
		ids = slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == "" })
		return "the account lacks the privileges " + strings.Join(ids, ", ")
	case asFault(err, &config):
		return config.Reason
	}
	if _, ok := faults.As(err, &file); ok {
		return fmt.Sprintf("%s (%s)", message, file.GetFileFault().File)
	}
	return message
}
