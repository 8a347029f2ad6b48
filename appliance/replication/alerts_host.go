package replication

import (
	"fmt"
	"slices"

	"understudy/api"
)

// bucketAlerts has the alerts of hosts, by the id of the host: so a restart neither forgets them nor begins them anew.
// Those of groups are in the records of the groups.
const bucketAlerts = "host-alerts"

func (e *Engine) loadHostAlerts() error {
	if err := e.Store.Each(bucketAlerts, func(host string, decode func(any) error) error {
		var all []api.Alert
		if err := decode(&all); err != nil {
			return err
		}
		if _, known := e.hosts[host]; known { // it may have been removed in the middle
			e.hostAlerts[host] = all
		}
		return nil
	}); err != nil {
		return fmt.Errorf("load alerts of hosts: %w", err)
	}
	return nil
}

// hostAlert gives the alert of a kind, or nil.
func (e *Engine) hostAlert(host, kind string) *api.Alert {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.hostAlerts[host] {
		if a.Kind == kind {
			return &a
		}
	}
	return nil
}

// raiseHost begins an alert that is not on yet.
func (e *Engine) raiseHost(p *endpoint, kind string, alert func() api.Alert) error {
	if e.hostAlert(p.ID, kind) != nil {
		return nil
	}
	a := alert()
	a.Kind, a.Since = kind, e.Clock()
	return e.putHostAlert(p, a, "created")
}

func (e *Engine) putHostAlert(p *endpoint, a api.Alert, action string) error {
	kept, err := e.changeHostAlerts(p, func(all []api.Alert) []api.Alert { return append(otherThan(all, a.Kind), a) })
	if kept {
		e.publishAlert(action, e.alertOfHost(p, a), a.Message)
	}
	return err
}

// calmHost ends an alert if there is one.
func (e *Engine) calmHost(p *endpoint, kind string) error {
	a := e.hostAlert(p.ID, kind)
	if a == nil {
		return nil
	}
	kept, err := e.changeHostAlerts(p, func(all []api.Alert) []api.Alert { return otherThan(all, kind) })
	if kept {
		e.publishAlert("deleted", e.alertOfHost(p, *a), "over: "+a.Message)
	}
	return err
}

func otherThan(all []api.Alert, kind string) []api.Alert {
	return slices.DeleteFunc(slices.Clone(all), func(a api.Alert) bool { return a.Kind == kind })
}

// changeHostAlerts is durable when it returns; false: nothing has changed. A host that is being removed gets none. Only its
// own look changes the alerts of a host.
func (e *Engine) changeHostAlerts(p *endpoint, change func([]api.Alert) []api.Alert) (bool, error) {
	e.mu.Lock()
	next := change(e.hostAlerts[p.ID])
	_, known := e.hosts[p.ID]
	e.mu.Unlock()
	if !known {
		return false, nil
	}
	if err := e.Store.Put(bucketAlerts, p.ID, next); err != nil {
		return false, err
	}
	e.mu.Lock()
	e.hostAlerts[p.ID] = next
	e.mu.Unlock()
	return true, nil
}

// forgetHostAlerts ends the alerts of a host that is no more.
func (e *Engine) forgetHostAlerts(p *endpoint) error {
	e.mu.Lock()
	all := e.hostAlerts[p.ID]
	delete(e.hostAlerts, p.ID)
	e.mu.Unlock()
	for _, a := range all {
		e.publishAlert("deleted", e.alertOfHost(p, a), "over: "+a.Message)
	}
	return e.Store.Delete(bucketAlerts, p.ID)
}

func (e *Engine) alertOfHost(p *endpoint, a api.Alert) api.ActiveAlert {
	return api.ActiveAlert{ID: p.ID + "." + a.Kind, Kind: a.Kind, Severity: api.SeverityOf(a.Kind), Since: a.Since, Message: a.Message,
		Hint: a.Hint, Host: p.ID, HostName: p.Name}
}

func alertOfGroup(g *group, a api.Alert) api.ActiveAlert {
	return api.ActiveAlert{ID: g.ID + "." + a.Kind, Kind: a.Kind, Severity: api.SeverityOf(a.Kind), Since: a.Since, Message: a.Message,
		Hint: a.Hint, Group: g.ID, GroupName: g.Spec.Name}
}

// publishAlert tells of the beginning, a change or the end of an alert.
func (e *Engine) publishAlert(action string, a api.ActiveAlert, message string) {
	e.Bus.Publish(api.Event{Time: e.Clock(), Kind: "alert", Action: action, Subject: a.Kind, Group: a.Group, Host: a.Host, Message: message, Alert: &a})
}
