package provisioning_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/provisioning"
)

const site = "10.0.0.10:80"

// stage starts a machine on the fake hypervisor that answers HTTP and has a guest agent.
func stage(t *testing.T, options ...fake.Option) (provisioning.Stage, *fake.Hypervisor) {
	hv := fake.New("away", time.Now, append(options, fake.WithNetwork("lan"))...)
	id := hv.AddVM(hypervisors.Hardware{Name: "web", GuestAgent: true, Disks: []hypervisors.Disk{{Size: 2 << 20}}, NICs: []hypervisors.NIC{{Network: "lan"}}})
	require.NoError(t, hv.Guest(id).Install(fake.GuestConfig{Serves: map[string]string{site: "welcome"}}))
	require.NoError(t, hv.Start(id))
	return provisioning.Stage{Host: hv.Connect("a"), VM: id, Network: "lan", Isolated: true, Poll: time.Millisecond}, hv
}

const short = 30 * time.Millisecond // for checks that must fail; those that pass have all the time

func TestChecksThatPass(t *testing.T) {
	s, _ := stage(t)
	results := s.Run(t.Context(), []provisioning.Check{{Kind: provisioning.CheckAgent}, {Kind: provisioning.CheckTCP, Address: site},
		{Kind: provisioning.CheckHTTP, Address: "http://" + site + "/", Contains: "welcome"}})
	require.Len(t, results, 4, "running is always checked")
	require.Equal(t, provisioning.CheckRunning, results[0].Kind)
	require.True(t, provisioning.Passed(results), "%+v", results)
}

func TestChecksThatFail(t *testing.T) {
	s, hv := stage(t)
	require.NoError(t, hv.Guest(s.VM).Mute(true))
	for _, c := range []provisioning.Check{
		{Kind: provisioning.CheckAgent},
		{Kind: provisioning.CheckTCP, Address: "10.0.0.11:80"},
		{Kind: provisioning.CheckHTTP, Address: "http://" + site + "/", Contains: "farewell"},
		{Kind: "smell"},
	} {
		c.Timeout = short
		results := s.Run(t.Context(), []provisioning.Check{c})
		require.False(t, provisioning.Passed(results), "%s", c.Kind)
		require.Contains(t, results[1].Message, "gave up")
	}
	require.NoError(t, hv.Crash(s.VM))
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	results := s.Run(ctx, nil)
	require.False(t, provisioning.Passed(results))
	require.Contains(t, results[0].Message, "off")
}

// What a host cannot do is not tried until the time is over.
func TestCheckThatTheHostCannotMake(t *testing.T) {
	s, _ := stage(t, fake.WithCapabilities(func(c *hypervisors.Capabilities) { c.Dial = false }))
	results := s.Run(t.Context(), []provisioning.Check{{Kind: provisioning.CheckHTTP, Address: "http://" + site + "/"}})
	require.False(t, provisioning.Passed(results))
	require.Contains(t, results[1].Message, "leads nobody into an isolated network")
}

func TestCheckWaitsForTheGuest(t *testing.T) {
	s, hv := stage(t)
	require.NoError(t, hv.Crash(s.VM))
	go func() { _ = hv.Start(s.VM) }()
	require.True(t, provisioning.Passed(s.Run(t.Context(), []provisioning.Check{{Kind: provisioning.CheckTCP, Address: site}})))
}
