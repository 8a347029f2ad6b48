package lab

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// autoStart is the host's list of machines that start with it, which the simulator names and does not have.
type autoStart struct {
	mo.HostAutoStartManager
}

func (l *Lab) addAutoStart() {
	reg := l.model.Map()
	host := reg.Get(l.host).(*simulator.HostSystem)
	a := &autoStart{}
	a.Self = *host.ConfigManager.AutoStartManager
	a.Config.Defaults = &types.AutoStartDefaults{Enabled: types.NewBool(false)}
	reg.Put(a)
}

// ReconfigureAutostart changes what is named, and leaves the rest.
func (a *autoStart) ReconfigureAutostart(ctx *simulator.Context, req *types.ReconfigureAutostart) soap.HasFault {
	info := slices.Clone(a.Config.PowerInfo)
	for _, p := range req.Spec.PowerInfo {
		if _, ok := ctx.Map.Get(p.Key).(*simulator.VirtualMachine); !ok {
			return &methods.ReconfigureAutostartBody{Fault_: refused(&types.ManagedObjectNotFound{Obj: p.Key})}
		}
		info = slices.DeleteFunc(info, func(o types.AutoStartPowerInfo) bool { return o.Key == p.Key })
		if p.StartAction != string(types.AutoStartActionNone) {
			info = append(info, p)
		}
	}
	config := a.Config
	config.PowerInfo = info
	if d := req.Spec.Defaults; d != nil && d.Enabled != nil {
		config.Defaults = &types.AutoStartDefaults{Enabled: d.Enabled}
	}
	ctx.Update(a, []types.PropertyChange{{Name: "config", Val: config}})
	return &methods.ReconfigureAutostartBody{Res: &types.ReconfigureAutostartResponse{}}
}
