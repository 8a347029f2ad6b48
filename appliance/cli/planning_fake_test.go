package cli

import (
	"context"

	"understudy/api"
)

func (f *appliance) Bandwidth(context.Context) (api.BandwidthCalendar, error) {
	return api.BandwidthCalendar{Revision: 3, TimeZone: "Europe/Berlin", Mbit: 0, Rules: []api.BandwidthRule{
		{Window: api.Window{Days: []string{"mon", "tue", "wed", "thu", "fri"}, From: "08:00", To: "18:00"}, Mbit: 50},
		{Window: api.Window{From: "22:00", To: "04:00"}, Mbit: 0},
	}}, f.err
}

func (f *appliance) SetBandwidth(_ context.Context, revision int64, c api.BandwidthCalendar) (api.BandwidthCalendar, error) {
	f.note("bandwidth %d %+v", revision, c)
	c.Revision = revision + 1
	return c, f.err
}
