package lab

import (
	"bytes"
	raster "image"
	"image/color"
	"image/png"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CreateScreenshotTask leaves a picture of a running machine's screen beside it.
func (v *vm) CreateScreenshotTask(ctx *simulator.Context, _ *types.CreateScreenshot_Task) soap.HasFault {
	return &methods.CreateScreenshot_TaskBody{Res: &types.CreateScreenshot_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "CreateScreenshot_Task", "createScreenshot",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				v.l.mu.Lock()
				defer v.l.mu.Unlock()
				m := v.l.machines[v.Self]
				if !m.on {
					return nil, &types.InvalidPowerState{
						RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: v.Runtime.PowerState}
				}
				v.l.serial++
				p := path.Dir(m.vmx) + "/" + strings.TrimSuffix(path.Base(m.vmx), ".vmx") + "-screen.png"
				if err := put(v.l.local(p), screen(v.l.serial)); err != nil {
					return nil, trouble(p, err)
				}
				return p, nil
			})}}
}

// screen draws something that is not the same twice.
func screen(n int) io.Reader {
	img := raster.NewGray(raster.Rect(0, 0, 640, 400))
	for i := range img.Pix {
		img.Pix[i] = byte(i / 640)
	}
	img.SetGray(n%640, n/640%400, color.Gray{Y: 255})
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err) // memory takes everything
	}
	return &b
}

// RemovePortGroup refuses to take a network from a running machine.
func (n *networkSystem) RemovePortGroup(ctx *simulator.Context, req *types.RemovePortGroup) soap.HasFault {
	if n.l.connected(ctx, req.PgName) {
		return &methods.RemovePortGroupBody{Fault_: refused(&types.ResourceInUse{Type: "PortGroup", Name: req.PgName})}
	}
	return n.HostNetworkSystem.RemovePortGroup(ctx, req)
}

// connected says whether a running machine is on a network.
func (l *Lab) connected(ctx *simulator.Context, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, m := range l.machines {
		x, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine)
		if !ok || !m.on {
			continue
		}
		for _, d := range x.Config.Hardware.Device {
			b, ok := d.GetVirtualDevice().Backing.(*types.VirtualEthernetCardNetworkBackingInfo)
			if ok && b.DeviceName == name {
				return true
			}
		}
	}
	return false
}

// FetchUserPrivilegeOnEntities leaves out what was denied.
func (a *authorization) FetchUserPrivilegeOnEntities(_ *simulator.Context, req *types.FetchUserPrivilegeOnEntities) soap.HasFault {
	res := a.AuthorizationManager.FetchUserPrivilegeOnEntities(req)
	body, ok := res.(*methods.FetchUserPrivilegeOnEntitiesBody)
	if !ok || body.Res == nil {
		return res
	}
	denied := a.l.orders.without()
	for n, e := range body.Res.Returnval {
		body.Res.Returnval[n].Privileges = slices.DeleteFunc(slices.Clone(e.Privileges), func(p string) bool {
			return slices.Contains(denied, p)
		})
	}
	return body
}

// HasPrivilegeOnEntities says no to what was denied.
func (a *authorization) HasPrivilegeOnEntities(_ *simulator.Context, req *types.HasPrivilegeOnEntities) soap.HasFault {
	res := a.AuthorizationManager.HasPrivilegeOnEntities(req)
	body, ok := res.(*methods.HasPrivilegeOnEntitiesBody)
	if !ok || body.Res == nil {
		return res
	}
	denied := a.l.orders.without()
	for _, e := range body.Res.Returnval {
		for n, p := range e.PrivAvailability {
			if slices.Contains(denied, p.PrivId) {
				e.PrivAvailability[n].IsGranted = false
			}
		}
	}
	return body
}
