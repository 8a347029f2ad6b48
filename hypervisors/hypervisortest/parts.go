package hypervisortest

import "understudy/hypervisors"

// always are the parts that are always there: Go decides by type what a host implements, and each one more that may be
// missing would double the number of types below.
type always interface {
	hypervisors.Host
	hypervisors.Screen
	hypervisors.Prober
}

// parts are what a wrapped host is joined from; nil: the inner host does not implement it.
type parts struct {
	host      always
	source    hypervisors.Source
	target    hypervisors.Target
	power     hypervisors.Power
	isolation hypervisors.Isolation
	guest     hypervisors.Guest
}

// join makes one value that implements exactly the parts that are there. Go decides that by type, so every
// combination is a type of its own.
func (a parts) join() hypervisors.Host {
	type (
		h = always
		s = hypervisors.Source
		t = hypervisors.Target
		p = hypervisors.Power
		i = hypervisors.Isolation
		g = hypervisors.Guest
	)
	has := [5]bool{a.source != nil, a.target != nil, a.power != nil, a.isolation != nil, a.guest != nil}
	switch has {
	case [5]bool{true, true, true, true, true}:
		return struct {
			h
			s
			t
			p
			i
			g
		}{a.host, a.source, a.target, a.power, a.isolation, a.guest}
	case [5]bool{false, true, true, true, true}:
		return struct {
			h
			t
			p
			i
			g
		}{a.host, a.target, a.power, a.isolation, a.guest}
	case [5]bool{true, false, true, true, true}:
		return struct {
			h
			s
			p
			i
			g
		}{a.host, a.source, a.power, a.isolation, a.guest}
	case [5]bool{false, false, true, true, true}:
		return struct {
			h
			p
			i
			g
		}{a.host, a.power, a.isolation, a.guest}
	case [5]bool{true, true, false, true, true}:
		return struct {
			h
			s
			t
			i
			g
		}{a.host, a.source, a.target, a.isolation, a.guest}
	case [5]bool{false, true, false, true, true}:
		return struct {
			h
			t
			i
			g
		}{a.host, a.target, a.isolation, a.guest}
	case [5]bool{true, false, false, true, true}:
		return struct {
			h
			s
			i
			g
		}{a.host, a.source, a.isolation, a.guest}
	case [5]bool{false, false, false, true, true}:
		return struct {
			h
			i
			g
		}{a.host, a.isolation, a.guest}
	case [5]bool{true, true, true, false, true}:
		return struct {
			h
			s
			t
			p
			g
		}{a.host, a.source, a.target, a.power, a.guest}
	case [5]bool{false, true, true, false, true}:
		return struct {
			h
			t
			p
			g
		}{a.host, a.target, a.power, a.guest}
	case [5]bool{true, false, true, false, true}:
		return struct {
			h
			s
			p
			g
		}{a.host, a.source, a.power, a.guest}
	case [5]bool{false, false, true, false, true}:
		return struct {
			h
			p
			g
		}{a.host, a.power, a.guest}
	case [5]bool{true, true, false, false, true}:
		return struct {
			h
			s
			t
			g
		}{a.host, a.source, a.target, a.guest}
	case [5]bool{false, true, false, false, true}:
		return struct {
			h
			t
			g
		}{a.host, a.target, a.guest}
	case [5]bool{true, false, false, false, true}:
		return struct {
			h
			s
			g
		}{a.host, a.source, a.guest}
	case [5]bool{false, false, false, false, true}:
		return struct {
			h
			g
		}{a.host, a.guest}
	case [5]bool{true, true, true, true, false}:
		return struct {
			h
			s
			t
			p
			i
		}{a.host, a.source, a.target, a.power, a.isolation}
	case [5]bool{false, true, true, true, false}:
		return struct {
			h
			t
			p
			i
		}{a.host, a.target, a.power, a.isolation}
	case [5]bool{true, false, true, true, false}:
		return struct {
			h
			s
			p
			i
		}{a.host, a.source, a.power, a.isolation}
	case [5]bool{false, false, true, true, false}:
		return struct {
			h
			p
			i
		}{a.host, a.power, a.isolation}
	case [5]bool{true, true, false, true, false}:
		return struct {
			h
			s
			t
			i
		}{a.host, a.source, a.target, a.isolation}
	case [5]bool{false, true, false, true, false}:
		return struct {
			h
			t
			i
		}{a.host, a.target, a.isolation}
	case [5]bool{true, false, false, true, false}:
		return struct {
			h
			s
			i
		}{a.host, a.source, a.isolation}
	case [5]bool{false, false, false, true, false}:
		return struct {
			h
			i
		}{a.host, a.isolation}
	case [5]bool{true, true, true, false, false}:
		return struct {
			h
			s
			t
			p
		}{a.host, a.source, a.target, a.power}
	case [5]bool{false, true, true, false, false}:
		return struct {
			h
			t
			p
		}{a.host, a.target, a.power}
	case [5]bool{true, false, true, false, false}:
		return struct {
			h
			s
			p
		}{a.host, a.source, a.power}
	case [5]bool{false, false, true, false, false}:
		return struct {
			h
			p
		}{a.host, a.power}
	case [5]bool{true, true, false, false, false}:
		return struct {
			h
			s
			t
		}{a.host, a.source, a.target}
	case [5]bool{false, true, false, false, false}:
		return struct {
			h
			t
		}{a.host, a.target}
	case [5]bool{true, false, false, false, false}:
		return struct {
			h
			s
		}{a.host, a.source}
	}
	return a.host
}
