package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"understudy/api/client"
	api "understudy/api/server"
	"understudy/appliance/access"
	"understudy/appliance/replication"
	"understudy/appliance/store"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
)

// appliance is an appliance in a process of its own, with the two fake hosts that it works on.
type appliance struct {
	cmd      *exec.Cmd
	client   *client.Client
	url      string
	token    string
	ca       string   // file
	machines []string // ids at home
}

// startAppliance runs this program again, as [beAppliance].
func startAppliance(_ context.Context, dir string, machines int) (*appliance, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &appliance{cmd: exec.Command(self, "-appliance", fmt.Sprint(machines), "-dir", dir), ca: filepath.Join(dir, "tls", "cert.pem")}
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	if err := a.listen(out, machines); err != nil {
		a.stop()
		return nil, err
	}
	a.client, err = client.New(a.url, client.Options{Token: a.token, CAFile: a.ca})
	if err != nil {
		a.stop()
	}
	return a, err
}

// listen reads what beAppliance says: its address, its token, the ids of its machines.
func (a *appliance) listen(out io.Reader, machines int) error {
	lines := bufio.NewScanner(out)
	var said []string
	for len(said) < 2+machines && lines.Scan() {
		said = append(said, lines.Text())
	}
	if len(said) < 2+machines {
		return errors.Join(errGone, lines.Err())
	}
	a.url, a.token, a.machines = said[0], said[1], said[2:]
	return nil
}

func (a *appliance) stop() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(time.Minute, func() { _ = a.cmd.Process.Kill() })
	defer timer.Stop()
	_ = a.cmd.Wait()
}

// beAppliance is what `understudy serve` does, with fake hosts, until ctx ends. It tells its parent where it is.
func beAppliance(ctx context.Context, dir string, machines int) (err error) {
	runtime.GOMAXPROCS(2)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	hosts := map[string]*fake.Hypervisor{"fake:home": fake.New("home", time.Now), "fake:away": fake.New("away", time.Now)}
	ids, err := populate(hosts["fake:home"], machines)
	if err != nil {
		return err
	}
	db, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	token, err := api.Token(filepath.Join(dir, "admin.token"))
	if err != nil {
		return err
	}
	certificates, err := api.OpenCertificates(filepath.Join(dir, "tls"), []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	people, err := access.New(access.Options{Store: db, SetupFile: filepath.Join(dir, "setup.token"), Log: log})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	engine, err := replication.New(ctx, replication.Options{Store: db, Bus: store.NewBus(db, time.Now, log), Log: log,
		Connect: func(_ context.Context, to replication.Login, owner string) (hypervisors.Host, error) {
			return hosts[to.URI].Connect(owner), nil
		}})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, engine.Close(ctx))
	}()
	engine.Run()
	go write(ctx, hosts["fake:home"], ids)
	fmt.Printf("https://%s\n%s\n%s\n", listener.Addr(), token, strings.Join(ids, "\n"))
	return api.Serve(ctx, listener, api.New(api.Parts{Service: engine, Access: people}, api.Options{Token: token, Log: log}), certificates)
}

// populate adds machines that run.
func populate(hv *fake.Hypervisor, machines int) ([]string, error) {
	var ids []string
	for i := range machines {
		id := hv.AddVM(hypervisors.Hardware{Name: fmt.Sprintf("vm%04d", i), Disks: []hypervisors.Disk{{Size: 64 << 20}}, NICs: []hypervisors.NIC{{}}})
		if err := hv.Start(id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// write lets every guest change a few blocks every ten seconds.
func write(ctx context.Context, hv *fake.Hypervisor, ids []string) {
	text := make([]byte, 4096)
	for turn := 0; pause(ctx, time.Second) == nil; turn++ {
		copy(text, fmt.Sprintf("turn %d", turn))
		for i := turn % 10; i < len(ids); i += 10 {
			// A guest that cannot write would be seen as a machine without changes: it is no part of what is measured.
			_ = hv.Guest(ids[i]).Write("vda", int64(turn*7%16)<<20, text)
		}
	}
}
