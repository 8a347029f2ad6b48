package main_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
	appliance "understudy/appliance"
	"understudy/appliance/rig"
	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
	"understudy/hypervisors/fake"
)

// consoleVariable holds on to the appliance of TestConsole, for looking at it or for `npm run dev`: "stay" with groups,
// "empty" without anything.
const consoleVariable = "CONSOLE"

// TestConsole walks through the web console in a real browser (ui/e2e), against an appliance with hosts in memory.
func TestConsole(t *testing.T) {
	t.Parallel()
	c := serveConsole(t)
	if stay := os.Getenv(consoleVariable); stay != "" {
		if stay == "stay" {
			c.fill(t)
		}
		fmt.Printf("\nUNDERSTUDY_URL=%s UNDERSTUDY_TOKEN=%s\n%s\nInterrupt to end.\n", c.url, c.token, c.setup())
		ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
		defer stop()
		<-ctx.Done()
		return
	}
	certificate, key := certificateUntil(t, "understudy.example", time.Now().AddDate(0, 0, 10))
	browse(t, "looking.spec.ts", c.url, map[string]any{"setupToken": c.setup(), "esx": simulatedESX(t),
		"certificate": string(certificate), "key": string(key)})
}

// simulatedESX starts an ESX host, and says what a person fills in to connect it.
func simulatedESX(t *testing.T) map[string]string {
	l, err := lab.Start(t.Context(), lab.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	address, err := url.Parse(l.URI())
	require.NoError(t, err)
	return map[string]string{"address": address.Host, "thumbprint": l.Thumbprint(), "appliance": address.Query().Get("appliance"), "user": l.User, "password": l.Password}
}

// consoleAppliance is an appliance in this process with two hosts in memory, fake:berlin and fake:hamburg.
type consoleAppliance struct {
	*client.Client
	dir, url, token string
	machines        []string // names
}

func serveConsole(t *testing.T) *consoleAppliance {
	c := &consoleAppliance{dir: t.TempDir()}
	hosts := map[string]*fake.Hypervisor{"fake:berlin": fake.New("berlin", time.Now), "fake:hamburg": fake.New("hamburg", time.Now)}
	for i, kind := range []string{"db", "web", "mail", "files", "erp", "dc"} {
		for n := range 8 {
			name := fmt.Sprintf("%s%02d", kind, n+1)
			id := hosts["fake:berlin"].AddVM(hypervisors.Hardware{Name: name, Disks: []hypervisors.Disk{{Size: 16 << 20, Boot: 1}, {Size: 4 << 20}},
				NICs: []hypervisors.NIC{{Network: "lan"}}, GuestAgent: true})
			guest := hosts["fake:berlin"].Guest(id)
			require.NoError(t, guest.Install(fake.GuestConfig{Seed: uint64(10*i + n)}))
			require.NoError(t, hosts["fake:berlin"].Start(id))
			_, err := guest.Step(20)
			require.NoError(t, err)
			c.machines = append(c.machines, name)
		}
	}
	address, err := rig.FreeAddress()
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- appliance.ServeVictim(ctx, []string{"--data-dir", c.dir, "--listen", address}, nil,
			func(_ context.Context, uri, owner string) (hypervisors.Host, error) {
				host, ok := hosts[uri]
				if !ok {
					return nil, &hypervisors.Error{Op: "connect host", Subject: uri, Err: hypervisors.ErrUnreachable, Hint: "There are fake:berlin and fake:hamburg."}
				}
				return host.Connect(owner), nil
			})
	}()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	c.url = "https://" + address
	require.Eventually(t, func() bool {
		token, err := os.ReadFile(filepath.Join(c.dir, "admin.token"))
		if err == nil {
			c.token = strings.TrimSpace(string(token))
			c.Client, err = client.New(c.url, client.Options{Token: c.token, CAFile: filepath.Join(c.dir, "tls", "cert.pem")})
		}
		if err == nil {
			_, err = c.About(t.Context())
		}
		return err == nil
	}, waitFor, 50*time.Millisecond)
	return c
}

// setup gives the one-time token of the first administrator.
func (c *consoleAppliance) setup() string { return setupToken(c.dir) }

// setupToken reads it from a data directory; empty: a user was made already.
func setupToken(dir string) string {
	token, err := os.ReadFile(filepath.Join(dir, "setup.token"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(token))
}

// fill connects the hosts and protects machines in several groups.
func (c *consoleAppliance) fill(t *testing.T) {
	for _, name := range []string{"berlin", "hamburg"} {
		_, err := c.AddHost(t.Context(), api.HostSpec{Name: name, URI: "fake:" + name})
		require.NoError(t, err)
	}
	for i, kind := range []string{"db", "web", "mail", "files"} {
		spec := api.GroupSpec{Name: kind, SourceHost: "berlin", TargetHost: "hamburg", Policy: api.Policy{RPOSeconds: 30 * (i + 1)}}
		for n := range 8 {
			spec.Machines = append(spec.Machines, api.GroupMachine{VM: fmt.Sprintf("%s%02d", kind, n+1)})
		}
		_, err := c.CreateGroup(t.Context(), spec)
		require.NoError(t, err)
	}
}
