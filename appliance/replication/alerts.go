package replication

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"understudy/api"
)

// An alert of a group is there while it is true. Its kind is its name: there is one of each kind at most. Those of hosts
// are in alerts_host.go.

// set raises an alert or ends it. A group that an order has moved on from what was seen gets none.
func (e *Engine) set(seen group, kind string, on bool, alert func() api.Alert) error {
	if !on {
		return e.calm(seen.ID, kind)
	}
	err := e.raise(seen.ID, alert(), func(g *group) error {
		if g.State != seen.State || g.Reversed != seen.Reversed {
			return errMovedOn
		}
		return nil
	})
	if errors.Is(err, errMovedOn) {
		return nil
	}
	return err
}

var errMovedOn = errors.New("the group has moved on")

// raise begins an alert, or brings its words up to date, if what it is about is still so.
func (e *Engine) raise(id string, a api.Alert, still func(*group) error) error {
	a.Since = e.Clock()
	action := "created"
	g, err := e.group(id)
	if err != nil {
		return err
	}
	if at := g.alert(a.Kind); at >= 0 {
		a.Since, action = g.Alerts[at].Since, "updated"
		if a == g.Alerts[at] {
			return nil
		}
	}
	if g, err = e.update(id, func(g *group) error {
		if err := still(g); err != nil {
			return err
		}
		if at := g.alert(a.Kind); at >= 0 {
			g.Alerts[at] = a
		} else {
			g.Alerts = append(g.Alerts, a)
		}
		return nil
	}); err != nil {
		return err
	}
	e.publishAlert(action, alertOfGroup(&g, a), a.Message)
	return nil
}

// always is for an alert that does not depend on the state of the group.
func always(*group) error { return nil }

// calm ends an alert if there is one.
func (e *Engine) calm(id, kind string) error {
	g, err := e.group(id)
	if err != nil || g.alert(kind) < 0 {
		return err
	}
	a := g.Alerts[g.alert(kind)]
	if _, err := e.update(id, func(g *group) error {
		g.Alerts = slices.DeleteFunc(g.Alerts, func(a api.Alert) bool { return a.Kind == kind })
		return nil
	}); err != nil {
		return err
	}
	e.publishAlert("deleted", alertOfGroup(&g, a), "over: "+a.Message)
	return nil
}

// alert finds an alert by its kind; -1: there is none.
func (g *group) alert(kind string) int {
	return slices.IndexFunc(g.Alerts, func(a api.Alert) bool { return a.Kind == kind })
}

func (e *Engine) hostName(id string) string {
	if p, err := e.endpoint(id); err == nil {
		return p.Name
	}
	return id
}

func keepInstead(g group) string {
	if g.State == api.StateFailedOver {
		return " To keep what it writes instead, roll the failover back: then what the replicas wrote is lost."
	}
	return ""
}

func (e *Engine) splitBrain(g group, machines []string) api.Alert {
	return api.Alert{Kind: api.AlertSplitBrain,
		Message: fmt.Sprintf("split brain: %s runs on %s although it was failed over to %s", strings.Join(machines, ", "),
			e.hostName(g.source().Host), e.hostName(g.target().Host)),
		Hint: "Nothing was turned off. Order fence to turn it off there, hard, and give up what it wrote since." + keepInstead(g) +
			" Reprotect and failback refuse until then."}
}

func (e *Engine) divergence(g group, machines []string) api.Alert {
	return api.Alert{Kind: api.AlertDiverged,
		Message: fmt.Sprintf("%s ran on %s after it was failed over to %s: what it wrote there is nowhere else", strings.Join(machines, ", "),
			e.hostName(g.source().Host), e.hostName(g.target().Host)),
		Hint: "Save what you need from its disks, then order fence to give the rest up." + keepInstead(g) + " Reprotect and failback refuse until then."}
}

func (e *Engine) straying(g group, machines []string) api.Alert {
	return api.Alert{Kind: api.AlertStray,
		Message: fmt.Sprintf("the replica of %s runs on %s without an order, beside production on %s", strings.Join(machines, ", "),
			e.hostName(g.target().Host), e.hostName(g.source().Host)),
		Hint: "Nothing that it writes is kept, its recovery points are safe. Order fence to turn it off."}
}
