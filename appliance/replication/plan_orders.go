package replication

import (
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/protection"
)

func (p *plan) planTest() {
	p.after = p.sight.target
	p.Undo = "End the test: the copies go, with their network and all that they wrote."
	p.from(p.o.Point)
	p.change("test-network-made", "", p.target, "A network that leads nowhere is made on %s for the test.", p.target)
	p.conversions()
	p.drivers()
	p.comeUp("test-starts", p.target, "A copy of %[1]s starts there, apart from production and beside running replication.")
	p.unanswered(p.sight.target, "target-unreachable", true, "A test needs it.")
	if p.sight.target.err == nil && !p.sight.target.isolates {
		p.warn("isolation-missing", "", p.target, p.target+" cannot make isolated networks.", "Run the doctor on it: it says what is missing.", true)
	}
	p.without()
	p.proven()
}

func (p *plan) planEndTest() {
	p.after = p.sight.target
	p.Undo = "Order another test."
	for _, m := range p.g.Members {
		p.change("test-ends", m.Name, p.target, "The copy of %s is turned off and removed, with all that it wrote.", m.Name)
	}
	p.change("test-network-removed", "", p.target, "Its network on %s is removed.", p.target)
	p.unanswered(p.sight.target, "target-unreachable", true, "")
}

func (p *plan) planFailover() {
	p.Undo = fmt.Sprintf("Roll back, until the failover is committed: the machines start on %s again, and what the replicas wrote is lost.", p.source)
	if p.o.Planned {
		none := 0.0
		p.LossSeconds = &none
		p.change("last-copy", "", p.target, "What has changed since the newest recovery point is copied, once while the machines run and once when they are off.")
	} else {
		p.from(p.o.Point)
	}
	for _, i := range slices.Backward(p.g.order()) {
		p.stopSource(i)
	}
	p.conversions()
	p.drivers()
	p.comeUp("replica-starts", p.target, "%[1]s starts on %[2]s.")
	switch {
	case p.o.Planned:
		p.unanswered(p.sight.source, "source-unreachable", true, "A planned failover needs it; when it is lost, order an unplanned one.")
	default:
		p.unanswered(p.sight.source, "source-unreachable", false, "Nobody can tell whether the machines are off there. If they run, they will run on both sides.")
	}
	p.unanswered(p.sight.target, "target-unreachable", true, "The machines cannot start there.")
	for i, m := range p.g.Members {
		if p.sight.target.vms[i].on() && !p.g.replaced() {
			p.warn("replica-runs", m.Name, p.target, "The replica of "+m.Name+" was turned on by hand.", "Order fence to turn it off.", false)
		}
	}
	p.without()
	p.proven()
}

// stopSource says what a failover does to a machine that is production.
func (p *plan) stopSource(i int) {
	name, s := p.g.Members[i].Name, p.sight.source.vms[i]
	switch {
	case s.gone && p.o.Planned:
		p.warn("source-gone", name, p.source, fmt.Sprintf("%s is not on %s any more.", name, p.source), "Order an unplanned failover.", true)
	case s.gone:
		p.warn("source-gone", name, p.source, fmt.Sprintf("%s is not on %s any more.", name, p.source), "", false)
	case s.asked && !s.on():
		p.warn("machine-off", name, p.source, fmt.Sprintf("%s is off on %s already.", name, p.source), "", false)
	case p.o.Planned:
		p.change("source-off", name, p.source, "%s is shut down on %s.", name, p.source)
	case p.o.Force && s.on():
		p.change("source-off", name, p.source, "%s still runs on %s and is turned off hard.", name, p.source)
		p.warn("source-runs", name, p.source, fmt.Sprintf("%s still runs on %s. What it wrote since the recovery point is left behind.", name, p.source),
			"A planned failover loses nothing.", false)
	case p.o.Force:
		p.change("source-off", name, p.source, "%s is turned off hard on %s if it still runs and can be reached.", name, p.source)
	case s.on():
		p.warn("source-runs", name, p.source, fmt.Sprintf("%s still runs on %s; both must never run at once.", name, p.source),
			"Order a planned failover, which loses nothing, or one with force, which turns it off hard.", true)
	}
	if s.vm.Autostart {
		p.change("source-autostart-off", name, p.source, "%s does not start with %s any more.", name, p.source)
	}
	if !p.o.Planned && p.Point != nil {
		p.change("source-writes-given-up", name, p.source, "What %s wrote since %s is not on %s. It stays on %s as long as the failover can be rolled back.",
			name, p.Point.Taken.UTC().Format("2006-01-02 15:04:05Z"), p.target, p.source)
	}
}

func (p *plan) planCommit() {
	p.before = p.sight.target
	p.Irreversible = true
	p.Undo = "It cannot be undone. Failback brings the machines home later, with what they write until then."
	p.change("no-way-back", "", p.target, "The replicas on %s are production for good: rolling back is no longer possible.", p.target)
	for _, m := range p.g.Members {
		if m.Autostart {
			p.change("replica-autostart-on", m.Name, p.target, "%s starts with %s from now on.", m.Name, p.target)
		}
	}
	if p.g.Problem != "" && p.g.replaced() {
		p.warn("started-badly", "", p.target, "The failover: "+p.g.Problem+".", p.g.Hint, false)
	}
	p.comesConverted(p.source)
	p.both()
	p.serving()
	p.unanswered(p.sight.target, "target-unreachable", false, "Nobody can tell whether the machines run there.")
}

// serving warns of replicas that should be production and are off.
func (p *plan) serving() {
	for i, m := range p.g.Members {
		if s := p.sight.target.vms[i]; p.g.replaced() && s.asked && !s.on() {
			p.warn("machine-off", m.Name, p.target, fmt.Sprintf("%s is not running on %s.", m.Name, p.target), "Look at its console.", false)
		}
	}
}

func (p *plan) planRollback() {
	p.before, p.after = p.sight.target, p.sight.source
	p.Irreversible = true
	p.Undo = "What the replicas wrote is gone. Protection goes on as before the failover."
	if at := p.failedOver(); !at.IsZero() {
		loss := max(0, p.now.Sub(at)).Seconds()
		p.LossSeconds = &loss
	}
	starts := false
	for _, m := range p.g.Members {
		p.change("replica-off", m.Name, p.target, "%s is turned off on %s.", m.Name, p.target)
		p.change("replica-writes-discarded", m.Name, p.target, "What %s wrote on %s since the failover is discarded.", m.Name, p.target)
	}
	for i, m := range p.g.Members {
		if m.Stopped {
			starts = true
			p.change("source-on", m.Name, p.source, "%s starts on %s again, as it was when the failover turned it off.", m.Name, p.source)
			if p.sight.source.vms[i].gone {
				p.warn("source-gone", m.Name, p.source, fmt.Sprintf("%s is not on %s any more.", m.Name, p.source), "", true)
			}
		}
		if m.Autostart {
			p.change("source-autostart-on", m.Name, p.source, "%s starts with %s again.", m.Name, p.source)
		}
	}
	if !starts {
		p.warn("machine-off", "", p.source, "The failover turned nothing off on "+p.source+", so nothing is started there.", "Start the machines there yourself.", false)
	}
	p.unanswered(p.sight.target, "target-unreachable", true, "The replicas cannot be turned off.")
	p.unanswered(p.sight.source, "source-unreachable", starts, "The machines cannot start there.")
}

// failedOver is when the failover in force was done; zero: its job is not kept any more.
func (p *plan) failedOver() time.Time {
	page, err := p.e.runner.Find(p.g.ID, api.Paging{Limit: 1}, func(j *api.Job) bool {
		return j.Kind == string(protection.OrderFailover) && j.State == api.JobSucceeded && j.Ended != nil
	})
	if err != nil || len(page.Items) == 0 {
		return time.Time{}
	}
	return *page.Items[0].Ended
}

func (p *plan) planReprotect() {
	p.before = p.sight.target
	p.Undo = fmt.Sprintf("Failback brings the machines home to %s.", p.source)
	p.reverse()
	p.leftBehind(p.sight.target, p.sight.source)
	p.comesConverted(p.source)
	p.both()
	p.serving()
}

// reverse says what swapping the roles does to the side that was the source until now.
func (p *plan) reverse() {
	p.change("roles-swap", "", p.source, "The machines on %s become replicas of those on %s.", p.source, p.target)
	p.change("copy-back", "", p.source, "Everything is compared, and what differs is copied to %s.%s", p.source, p.compressed(p.sight.source))
	for i, m := range p.g.Members {
		p.change("source-writes-given-up", m.Name, p.source, "What only the machine %s on %s has is not kept.", m.Name, p.source)
		if p.sight.source.vms[i].on() {
			p.warn("source-runs", m.Name, p.source, fmt.Sprintf("%s runs on %s too.", m.Name, p.source),
				"Order fence to turn it off there and give up what it wrote.", true)
		}
		if p.sight.source.vms[i].gone {
			p.warn("source-gone", m.Name, p.source, fmt.Sprintf("%s is not on %s any more.", m.Name, p.source), "", true)
		}
	}
	p.unanswered(p.sight.source, "source-unreachable", true, "Nothing can be copied there.")
	p.unanswered(p.sight.target, "target-unreachable", true, "The machines cannot be read there.")
}

// compressed says how a host will store points that the policy wants compressed, and warns where it cannot.
func (p *plan) compressed(at *look) string {
	switch {
	case p.g.Spec.Policy.Compression != api.CompressionZstd || at.err != nil:
		return ""
	case !at.caps.Compression:
		p.warn("compression-missing", "", at.host, at.host+" cannot store points compressed: they will take as much room as without.", "", false)
		return ""
	}
	return " Its recovery points are stored compressed."
}

func (p *plan) planFailback() {
	away, home := p.sight.source, p.sight.target // once the roles are swapped
	if !p.g.Reversed {
		away, home = home, away
		p.reverse()
	} else {
		p.unanswered(away, "source-unreachable", true, "The machines cannot be read there.")
		p.unanswered(home, "target-unreachable", true, "The machines cannot start there.")
	}
	p.before, p.after = away, home
	none := 0.0
	p.LossSeconds, p.Irreversible = &none, true
	p.Undo = fmt.Sprintf("While it is at work, cancelling it brings the machines back to %s. Afterwards another failover does.", away.host)
	p.change("copy-back", "", home.host, "What differs is copied to %s, once while the machines run and once when they are off.", home.host)
	for _, i := range slices.Backward(p.g.order()) {
		name := p.g.Members[i].Name
		if s := away.vms[i]; s.asked && !s.on() {
			p.warn("machine-off", name, away.host, fmt.Sprintf("%s is off on %s already.", name, away.host), "", false)
			continue
		}
		p.change("source-off", name, away.host, "%s is shut down on %s.", name, away.host)
	}
	p.comeUp("home-starts", home.host, "%[1]s starts on %[2]s.")
	p.change("points-dropped", "", home.host, "The recovery points on %s are dropped; those on %s stay.", home.host, away.host)
	for _, m := range p.g.Members {
		p.change("replica-writes-discarded", m.Name, away.host, "The copy of %s that served on %s goes, once it is protected again.", m.Name, away.host)
	}
	p.leftBehind(away, home)
	p.comesConverted(home.host)
	p.both()
	p.proven()
}

func (p *plan) planFence() {
	idle, at := p.sight.source, p.source
	what := "It was failed over to " + p.target + "."
	if !p.g.replaced() {
		idle, at = p.sight.target, p.target
		what = "Nobody ordered this replica to run."
	}
	p.before, p.after = idle, idle
	for i, m := range p.g.Members {
		if idle.vms[i].on() {
			p.change("stray-off", m.Name, at, "%s is turned off hard on %s. %s", m.Name, at, what)
		}
		if m.Ran || idle.vms[i].on() {
			p.Irreversible = true
			p.change("source-writes-given-up", m.Name, at, "What %s wrote on %s is given up.", m.Name, at)
		}
	}
	if len(p.Changes) == 0 && idle.err == nil {
		p.warn("nothing-to-do", "", at, "Nothing runs on "+at+" that must not.", "", false)
	}
	code := "source-unreachable"
	if idle == p.sight.target {
		code = "target-unreachable"
	}
	p.unanswered(idle, code, true, "Nothing can be turned off there.")
}

func (p *plan) planDropPoint() {
	p.after = p.sight.source
	p.Irreversible = true
	p.Undo = "It cannot be undone."
	point, err := p.g.point(p.o.Point)
	if err != nil || p.o.Point == "" {
		return // that is why it is refused
	}
	p.Point = &point
	p.change("points-dropped", "", p.target, "The recovery point %s is dropped; the others keep their content.", point.ID)
	if p.g.Points[len(p.g.Points)-1].ID == point.ID {
		p.warn("newest-point", "", "", "This is the newest recovery point. Without it the next best is older.", "", false)
	}
	p.unanswered(p.sight.target, "target-unreachable", true, "")
}

func (p *plan) planRemove() {
	p.after = p.sight.source
	if p.g.replaced() {
		p.before, p.after = p.sight.target, p.sight.target
	}
	p.Irreversible = true
	p.Undo = "It cannot be undone: protecting the machines again begins with a full copy."
	p.change("protection-ends", "", p.source, "Nothing of the group is copied any more, and change tracking on %s is given up.", p.source)
	for _, m := range p.g.Members {
		if p.o.DeleteReplicas {
			p.change("replicas-deleted", m.Name, p.target, "The replica of %s on %s is deleted.", m.Name, p.target)
		} else {
			p.change("replicas-kept", m.Name, p.target, "The replica of %s stays on %s, and nobody looks after it.", m.Name, p.target)
		}
	}
	if n := len(p.g.Points); p.o.DeleteReplicas && n > 0 {
		p.change("points-dropped", "", p.target, "All %d recovery points are deleted.", n)
		p.unanswered(p.sight.target, "target-unreachable", true, "Nothing can be deleted there.")
	}
	p.unanswered(p.sight.source, "source-unreachable", false, "Its change tracking stays until it is back.")
}

// comeUp says how the machines start, and what the runbook wants around it; text has the machine first and then the host.
func (p *plan) comeUp(code, host, text string) {
	for _, m := range newCourse(p.g, p.w.order == protection.OrderTest).Moves {
		switch {
		case m.Kind == moveStart:
			for _, i := range m.Machines {
				p.Changes = append(p.Changes, api.PlanChange{Code: code, Machine: p.g.Members[i].Name, Host: host, Text: fmt.Sprintf(text, p.g.Members[i].Name, host)})
			}
		case m.Kind == moveDelay:
			p.change("delay", "", "", "The next stage waits for %d s.", m.Seconds)
		case m.Kind == moveAction && m.Action.Kind == api.ActionScript:
			p.change("script-runs", "", "", "The appliance runs the script %s (%s), %s the start of stage %d.", m.Action.Script, m.Action.Name, m.When, m.Stage)
		case m.Kind == moveAction:
			p.change("manual-step", "", "", "A person is waited for (%s), %s the start of stage %d: %s", m.Action.Name, m.When, m.Stage, m.Action.Text)
		}
	}
}
