package lab

import (
	"reflect"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The objects that sessions see instead of the simulator's. A session's registry wins over the simulator's map, which
// keeps its own objects: it takes them for what they are and panics when they are wrapped.
type (
	vm struct {
		*simulator.VirtualMachine
		l *Lab
	}
	snapshot struct {
		*simulator.VirtualMachineSnapshot
		l *Lab
	}
	folder struct {
		*simulator.Folder
		l *Lab
	}
	diskManager struct {
		*simulator.VirtualDiskManager
		l *Lab
	}
	fileManager struct {
		*simulator.FileManager
		l *Lab
	}
	networkSystem struct {
		*simulator.HostNetworkSystem
		l *Lab
	}
	authorization struct {
		*simulator.AuthorizationManager
		l *Lab
	}
	task struct {
		*simulator.Task
		l *Lab
	}
)

// overlay puts the lab between sessions and the simulator.
func (l *Lab) overlay() {
	reg := l.model.Map()
	reg.Handler = func(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		if f := l.orders.meet(m); f != nil {
			return nil, f
		}
		if ctx.Session != nil {
			l.wrap(ctx, m.This)
		}
		return nil, nil
	}
	reg.AddHandler(forget{l})
}

func (l *Lab) wrap(ctx *simulator.Context, ref types.ManagedObjectReference) {
	session := ctx.Session.Registry
	obj := ctx.Map.Get(ref)
	if obj == nil || session.Get(ref) != nil {
		return
	}
	var w mo.Reference
	switch x := obj.(type) {
	case *simulator.VirtualMachine:
		w = &vm{x, l}
	case *simulator.VirtualMachineSnapshot:
		w = &snapshot{x, l}
	case *simulator.Folder:
		w = &folder{x, l}
	case *simulator.VirtualDiskManager:
		w = &diskManager{x, l}
	case *simulator.FileManager:
		w = &fileManager{x, l}
	case *simulator.HostNetworkSystem:
		w = &networkSystem{x, l}
	case *simulator.AuthorizationManager:
		w = &authorization{x, l}
	case *simulator.Task:
		w = &task{x, l}
	default:
		return
	}
	l.wrapped.Lock()
	l.wrapped.sessions[session] = true
	l.wrapped.Unlock()
	// Put touches the object's own fields, so what reads them must be kept out.
	ctx.WithLock(obj, func() { session.Put(w) })
}

// Lock does nothing: calls to a snapshot work on its machine, whose lock comes first; held for the call, the snapshot's own
// would come before it.
func (*snapshot) Lock() {}

// Unlock does nothing either.
func (*snapshot) Unlock() {}

// forget takes objects that are gone out of the sessions.
type forget struct{ l *Lab }

func (forget) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Lab", Value: "forget"}
}
func (forget) PutObject(*simulator.Context, mo.Reference)                            {}
func (forget) UpdateObject(*simulator.Context, mo.Reference, []types.PropertyChange) {}
func (f forget) RemoveObject(ctx *simulator.Context, ref types.ManagedObjectReference) {
	f.l.wrapped.Lock()
	defer f.l.wrapped.Unlock()
	for s := range f.l.wrapped.sessions {
		if s.Get(ref) != nil {
			s.Remove(ctx, ref)
		}
	}
}

// work is what a task does. late is a fault that the task shall end with although its work is done.
type work func(ctx *simulator.Context, late types.BaseMethodFault) (any, types.BaseMethodFault)

// run a task of the lab's own. Unlike the simulator's, it keeps the object open for readers until its work begins.
func (l *Lab) run(ctx *simulator.Context, on mo.Reference, method, name string, do work) types.ManagedObjectReference {
	t := simulator.CreateTask(on, name, nil)
	slow, late := l.orders.task(method)
	t.Info.Cancelable = slow != nil
	ctx.Map.Put(t)
	own := *ctx
	l.tell(&own, t, func(info *types.TaskInfo) {
		info.Key, info.Task, info.State = t.Self.Value, t.Self, types.TaskInfoStateRunning
		info.StartTime = types.NewTime(time.Now())
	})
	canceled := l.orders.cancelable(t.Self, slow)
	go func() {
		if slow != nil {
			select {
			case <-slow:
			case <-canceled:
			}
		}
		var result any
		var fault types.BaseMethodFault
		if l.orders.done(t.Self) {
			fault = &types.RequestCanceled{}
		} else {
			own.WithLock(on, func() { result, fault = do(&own, late) })
		}
		if fault == nil && late != nil {
			result, fault = nil, late
		}
		l.finish(&own, t, result, fault)
	}()
	return t.Self
}

func (l *Lab) finish(ctx *simulator.Context, t *simulator.Task, result any, fault types.BaseMethodFault) {
	l.tell(ctx, t, func(info *types.TaskInfo) {
		info.CompleteTime, info.Result, info.State = types.NewTime(time.Now()), result, types.TaskInfoStateSuccess
		if fault != nil {
			l.log.Debug("task failed", "task", info.Name, "fault", reflect.TypeOf(fault).String())
			info.State = types.TaskInfoStateError
			info.Error = &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: reflect.TypeOf(fault).Elem().Name()}
		}
	})
}

// tell of a task's state, all of it at once: of parts, the simulator reads the rest without a lock.
func (l *Lab) tell(ctx *simulator.Context, t *simulator.Task, change func(*types.TaskInfo)) {
	ctx.WithLock(t, func() {
		info := t.Info
		change(&info)
		ctx.Update(t, []types.PropertyChange{{Name: "info", Val: info}})
	})
}

// CancelTask ends a task that still waits; one whose work has begun goes on to its end.
func (t *task) CancelTask(*simulator.Context, *types.CancelTask) soap.HasFault {
	return t.l.cancel(t.Task)
}

// stock runs the simulator's own task to its end and says how it ended.
func stock(ctx *simulator.Context, res soap.HasFault) (any, types.BaseMethodFault) {
	if f := res.Fault(); f != nil {
		if m, ok := f.VimFault().(types.BaseMethodFault); ok {
			return nil, m
		}
		return nil, &types.RuntimeFault{}
	}
	ref := reflect.ValueOf(res).Elem().FieldByName("Res").Elem().FieldByName("Returnval")
	t := ctx.Map.Get(ref.Interface().(types.ManagedObjectReference)).(*simulator.Task)
	t.Wait()
	if t.Info.Error != nil {
		return nil, t.Info.Error.Fault
	}
	return t.Info.Result, nil
}
