package replication

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"understudy/api"
	"understudy/appliance/protection"
	"understudy/hypervisors"
)

// group is a protection group as the state database keeps it. Where it and a target disagree about points, the target
// is right.
type group struct {
	ID       string
	Revision int64
	Spec     api.GroupSpec
	State    api.GroupState
	// Reversed swaps the roles: production runs Away, and Home holds the replicas.
	Reversed bool
	Paused   bool
	Home     place // where the machines come from
	Away     place // where their replicas were made
	Members  []member
	// Points of the direction in force, oldest first; OtherPoints are those that wait on the other side.
	Points      []api.Point
	OtherPoints []api.Point
	// Lived is when each point was made, by the time that retention counts: see live.
	Lived map[string]time.Time

	Test    *api.TestReport
	TestRun string // run id of a test that is up, else empty
	// Tested is when the last test ended that passed.
	Tested time.Time

	Worst    float64 // largest RPO age seen, seconds
	Gap      float64 // age of the point before the newest when that was recorded, seconds
	Problem  string
	Hint     string
	Failures int // cycles in a row
	// Compare makes the next cycle read both sides in full: a verification found them different.
	Compare bool
	// Verification is the running one or the last. Verified is when the last one started that came to its end,
	// VerifyTried when any started last.
	Verification *api.Verification
	Verified     time.Time
	VerifyTried  time.Time
	// Compared is how far the running verification came, by machine and disk, in bytes. Found is what it found and
	// nobody has acted on yet.
	Compared map[string]int64
	Found    *mismatch
	Alerts   []api.Alert
	// Before is the state in which a removal began.
	Before api.GroupState
	// Stopped is what members said together once; see load.
	Stopped bool `json:",omitempty"`
	// StartOwed says that machines which are production do not start with their host yet, although they did before: Guard
	// tries again.
	StartOwed bool
	Attempt   time.Time
	Created   time.Time
	// Restored is when the backup was made that the group came back from, until it was resumed: see RestoredGroup.
	Restored *time.Time `json:",omitempty"`

	// writing is held while the group is being changed: see Engine.update.
	writing *sync.Mutex
	// watching is held by Guard from its look to its judgement, and by those who give up what it may have seen, or let
	// machines start with their host again: what was seen before must not come after.
	watching *sync.Mutex
}

// place is one side of a group.
type place struct {
	Host    string // id
	Storage string
}

// member is a machine of a group with a seat on each side.
type member struct {
	Name string
	Home seat
	Away seat
	// ChangeID of the newest recorded point, on the side that is source now.
	ChangeID hypervisors.ChangeID
	Problem  string
	// Autostart: the machine started with its host before a failover turned that off at its side.
	Autostart bool
	// Ran: the machine was seen running at its source after it was failed over.
	Ran bool
	// Stopped: the failover in force turned the machine off at its source, so that rolling back turns it on.
	Stopped bool
	// Undriven is what the guest lacks on the devices of its replica, as far as is known.
	Undriven *undriven `json:",omitempty"`
	// Converted: the guest was converted for the replica that the last failover started.
	Converted bool `json:",omitempty"`
}

// seat is a machine on one side: its id there, and the id of the replica it is (or becomes) there.
type seat struct {
	VM      string
	Replica string
}

func (g *group) source() place {
	if g.Reversed {
		return g.Away
	}
	return g.Home
}

func (g *group) target() place {
	if g.Reversed {
		return g.Home
	}
	return g.Away
}

// seats gives where the member is read from and where its replica is.
func (m *member) seats(reversed bool) (from, to *seat) {
	if reversed {
		return &m.Away, &m.Home
	}
	return &m.Home, &m.Away
}

func (g *group) clone() group {
	c := *g
	c.Members = slices.Clone(g.Members)
	c.Points = slices.Clone(g.Points)
	c.OtherPoints = slices.Clone(g.OtherPoints)
	c.Lived = maps.Clone(g.Lived)
	if g.Test != nil {
		t := *g.Test
		t.Machines = slices.Clone(t.Machines)
		c.Test = &t
	}
	c.Alerts = slices.Clone(g.Alerts)
	if g.Verification != nil {
		v := *g.Verification // what it lists is replaced, never changed
		c.Verification = &v
	}
	return c
}

// point finds a point by id; an empty id means the newest that is not suspect.
func (g *group) point(id string) (api.Point, error) {
	if len(g.Points) == 0 {
		return api.Point{}, api.Errorf(api.CodeConflict, "Wait for the first mirror to end.", "group %s has no recovery point yet", g.Spec.Name)
	}
	if id == "" {
		for _, p := range slices.Backward(g.Points) {
			if p.Suspect == "" {
				return p, nil
			}
		}
		return api.Point{}, api.Errorf(api.CodeConflict, "Wait for the next cycle, which compares everything, or name one of them.",
			"all recovery points of group %s are suspect", g.Spec.Name)
	}
	for _, p := range g.Points {
		if p.ID == id {
			return p, nil
		}
	}
	return api.Point{}, api.Errorf(api.CodeNotFound, "It may have been dropped by retention: list the points and choose another.",
		"group %s has no recovery point %q", g.Spec.Name, id)
}

func (g *group) view(now time.Time, job string) api.Group {
	v := api.Group{GroupSpec: g.Spec, ID: g.ID, Revision: g.Revision, State: g.State, Reversed: g.Reversed, Paused: g.Paused,
		Points: len(g.Points), Test: g.Test, Verification: g.Verification, Alerts: g.Alerts, Job: job, Problem: g.Problem, Hint: g.Hint, Created: g.Created, Members: []api.GroupMember{}}
	for _, m := range g.Members {
		v.Members = append(v.Members, api.GroupMember{Name: m.Name, SourceVM: m.Home.VM, TargetVM: m.Away.VM, ReplicaID: m.Away.Replica, Problem: m.Problem})
	}
	var newest time.Time
	if n := len(g.Points); n > 0 {
		newest = g.Points[n-1].Taken
	}
	v.RPO = protection.RPO(g.Spec.Policy, newest, g.Worst, now)
	health, reason := g.health(now)
	v.Health, v.HealthCode, v.HealthReason = health, reason.Code, reason.Text
	if v.TestFreshness = protection.TestFreshness(g.Test, g.Tested, now); !g.Tested.IsZero() {
		v.Tested = &g.Tested
	}
	return v
}

// apply moves the group by an event, or says why that cannot be.
func (g *group) apply(event protection.Event) error {
	d := g.decision()
	if event == protection.ReverseDone || (event == protection.FailbackDone && g.Reversed) {
		d.Points = len(g.OtherPoints) // what counts from here on
	}
	next, err := protection.Next(d, event)
	if err != nil {
		return err
	}
	if next.Reversed != g.Reversed {
		g.Points, g.OtherPoints = g.OtherPoints, g.Points
		for i := range g.Members {
			g.Members[i].ChangeID, g.Members[i].Stopped = "", false // of whom they were said is the target now
		}
	}
	if event == protection.FailoverStarted || event == protection.FailbackStarted {
		g.StartOwed = false // they are not to start with their host any more
	}
	if event == protection.FailoverStarted || event == protection.RollbackDone {
		for i := range g.Members {
			g.Members[i].Ran, g.Members[i].Stopped = false, false
		}
	}
	g.State, g.Reversed, g.Before = next.Phase, next.Reversed, next.Before
	return nil
}

// decision is what package protection needs to know of a group.
func (g *group) decision() protection.State {
	return protection.State{Phase: g.State, Reversed: g.Reversed, Points: len(g.Points), Testing: g.TestRun != "", Before: g.Before,
		Restored: g.Restored != nil}
}

// add puts a new point behind the others and keeps the figures that depend on it.
func (g *group) add(p api.Point, now time.Time) error {
	if n := len(g.Points); n > 0 && !g.Paused {
		g.Worst = max(g.Worst, now.Sub(g.Points[n-1].Taken).Seconds())
	}
	if g.Gap = 0; len(g.Points) > 0 {
		g.Gap = g.standing(now).Age(now).Seconds()
	}
	g.Points = append(g.Points, p)
	g.live()
	g.Failures, g.Problem, g.Hint, g.Attempt = 0, "", "", now
	if g.State == api.StateMirroring {
		return g.apply(protection.FirstPoint)
	}
	return nil
}

// learn gives the change id of a member's newest point: the recorded one, unless the target holds a newer point that
// an interrupted cycle committed and nobody recorded.
func (g *group) learn(i int, held []hypervisors.Point) hypervisors.ChangeID {
	if n := len(held); n > 0 && !slices.ContainsFunc(g.Points, func(p api.Point) bool { return p.ID == held[n-1].ID }) {
		return held[n-1].ChangeID
	}
	return g.Members[i].ChangeID
}

// agree lists the points that all members hold, with what is recorded or pending about each.
func (g *group) agree(held [][]hypervisors.Point, pending *api.Point) (points []api.Point, changed bool) {
	for _, first := range held[0] {
		complete, marked := true, ""
		var machines []api.PointMachine
		for i, list := range held {
			at := slices.IndexFunc(list, func(p hypervisors.Point) bool { return p.ID == first.ID })
			if at < 0 {
				complete = false
				break
			}
			marked = cmp.Or(marked, list[at].Suspect)
			changed = changed || list[at].Suspect != g.suspect(first.ID)
			machines = append(machines, api.PointMachine{Machine: g.Members[i].Name, Disks: pointDisks(list[at].Disks)})
		}
		if !complete {
			continue
		}
		if at := slices.IndexFunc(g.Points, func(p api.Point) bool { return p.ID == first.ID }); at >= 0 {
			known := g.Points[at]
			known.Suspect = cmp.Or(known.Suspect, marked)
			points = append(points, known)
			continue
		}
		changed = true
		if pending != nil && pending.ID == first.ID {
			points = append(points, *pending)
			continue
		}
		points = append(points, api.Point{ID: first.ID, Taken: first.Taken, Committed: first.Committed,
			Consistency: string(first.Consistency), Kind: kindIncremental, Machines: machines, Suspect: marked})
	}
	return points, changed || len(points) != len(g.Points)
}

// suspect is why a point may be wrong, as far as the record knows.
func (g *group) suspect(point string) string {
	if i := slices.IndexFunc(g.Points, func(p api.Point) bool { return p.ID == point }); i >= 0 {
		return g.Points[i].Suspect
	}
	return ""
}

// history is what the schedule needs to know of a group's cycles.
func (g *group) history() protection.History {
	h := protection.History{LastAttempt: g.Attempt, Failures: g.Failures}
	if n := len(g.Points); n > 0 {
		h.LastTaken = g.Points[n-1].Taken
		h.Expected = time.Duration(g.Points[n-1].Seconds * float64(time.Second))
	}
	return h
}
