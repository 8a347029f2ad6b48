// Package lab is an ESX host, or a vCenter with one, for tests, demos and measurements: govmomi's simulator, with a data
// plane of its own on real files where the simulator has none.
//
// Disks have content, snapshots freeze it, and trees of snapshots merge and revert; change tracking has epochs, pages and
// the faults of the real one; /folder asks who is there; a disk that is in use is locked; a disk attached to the
// appliance's own machine appears in the folder Devices by its UUID. Faults can be ordered: per method, late in a task,
// lost sessions, missing privileges, a server that is busy, a datastore that is full.
//
// A layer above a snapshot is kept as a whole sparse copy outside the datastores; at its place in the datastore is a file
// that holds no content, as a delta of ESX cannot be read as a disk either. The lab listens on loopback only, owns Options.Dir,
// and touches nothing else.
package lab

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Options of a lab.
type Options struct {
	// Dir holds everything; it must exist and be empty. Close leaves it to its owner.
	Dir string
	// VCenter: a vCenter with one host, instead of the host itself.
	VCenter bool
	// Log is told of what the lab does; nil: nobody.
	Log *slog.Logger
	// SnapshotLimit is how deep a chain of snapshots may be; 0: 32, as ESX says.
	SnapshotLimit int
	// PageSize is how many areas one answer of QueryChangedDiskAreas holds; 0: 2000.
	PageSize int
}

// Names of what every lab has.
const (
	Datastore = "datastore1"
	Second    = "datastore2" // another datastore, to find out that the right one is used
	Network   = "VM Network"
)

// Lab is a running host. Its methods may be used at once.
type Lab struct {
	// User and Password of its administrator.
	User, Password string

	o         Options
	log       *slog.Logger
	model     *simulator.Model
	server    *simulator.Server
	client    *govmomi.Client
	orders    orders
	appliance string
	host      types.ManagedObjectReference
	datastore map[string]string // name → folder

	wrapped struct { // what sessions know instead of the simulator's own objects
		sync.Mutex
		sessions map[*simulator.Registry]bool
	}
	mu        sync.Mutex // guards all below; taken after the simulator's locks of objects
	images    map[string]*image
	machines  map[types.ManagedObjectReference]*machine
	histories map[string]*history
	shelved   map[string]*shelf // machines that were unregistered, by the path of their .vmx
	serial    int
}

// Start a lab. It is ready when Start returns.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SnapshotLimit == 0 {
		o.SnapshotLimit = 32
	}
	if o.PageSize == 0 {
		o.PageSize = 2000
	}
	l := &Lab{
		User: "root", Password: uuid.NewString(), o: o, log: o.Log, appliance: uuid.NewString(),
		datastore: map[string]string{}, images: map[string]*image{}, histories: map[string]*history{},
		machines: map[types.ManagedObjectReference]*machine{}, shelved: map[string]*shelf{},
	}
	l.wrapped.sessions = map[*simulator.Registry]bool{}
	if o.VCenter {
		l.User = "administrator@vsphere.local"
	}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	for _, dir := range []string{l.layers(), l.Devices()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	l.model = simulator.ESX()
	if l.o.VCenter {
		l.model = simulator.VPX()
		l.model.Cluster, l.model.Host, l.model.Portgroup = 0, 1, 0
	}
	l.model.Machine, l.model.Datastore = 0, 0
	if err := l.model.Create(); err != nil {
		return fmt.Errorf("create the inventory: %w", err)
	}
	l.identify()
	l.addAutoStart()
	svc := l.model.Service
	svc.TLS = new(tls.Config)
	svc.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(l.User, l.Password)}
	svc.ServeMux = http.NewServeMux()
	l.serve(svc.ServeMux)
	l.overlay()
	l.server = svc.NewServer()

	u := *l.server.URL
	u.User = url.UserPassword(l.User, l.Password)
	client, err := govmomi.NewClient(ctx, &u, true)
	if err != nil {
		return err
	}
	l.client = client
	if err := l.storage(ctx); err != nil {
		return fmt.Errorf("create the datastores: %w", err)
	}
	return l.addAppliance(ctx)
}

// identify gives the host an identity of its own: all hosts of the simulator are born with the same.
func (l *Lab) identify() {
	reg := l.model.Map()
	host := reg.Any("HostSystem").(*simulator.HostSystem)
	l.host = host.Self
	id := uuid.NewString()
	hardware := *host.Hardware
	hardware.SystemInfo.Uuid = id
	host.Hardware = &hardware
	summary := *host.Summary.Hardware
	summary.Uuid = id
	host.Summary.Hardware = &summary
	service := reg.Get(vim25.ServiceInstance).(*simulator.ServiceInstance)
	service.Content.About.InstanceUuid = uuid.NewString()
}

func (l *Lab) storage(ctx context.Context) error {
	host := object.NewHostSystem(l.client.Client, l.host)
	system, err := host.ConfigManager().DatastoreSystem(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{Datastore, Second} {
		dir := filepath.Join(l.o.Dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if _, err := system.CreateLocalDatastore(ctx, name, dir); err != nil {
			return err
		}
		l.datastore[name] = dir
	}
	return nil
}

// Close ends the lab; what it wrote stays in Options.Dir.
func (l *Lab) Close() error {
	l.orders.release()
	if l.client != nil {
		l.client.CloseIdleConnections()
	}
	if l.server != nil {
		l.server.CloseClientConnections()
		l.server.Close()
	}
	if l.model != nil && l.model.Service != nil {
		l.model.Remove()
	}
	return nil
}

// URI for esx.Connect: esx://127.0.0.1:PORT/?thumbprint=SHA-256&appliance=UUID&devices=FOLDER.
func (l *Lab) URI() string {
	return fmt.Sprintf("esx://%s/?thumbprint=%s&appliance=%s&devices=%s", l.server.URL.Host, l.Thumbprint(), l.appliance, url.QueryEscape(l.Devices()))
}

// Thumbprint of the certificate, SHA-256 in hexadecimal.
func (l *Lab) Thumbprint() string {
	sum := sha256.Sum256(l.server.Certificate().Raw)
	return hex.EncodeToString(sum[:])
}

// Devices is the folder in which disks attached to the appliance's own machine appear, "wwn-0x<uuid without dashes>".
func (l *Lab) Devices() string { return filepath.Join(l.o.Dir, "devices") }

// Appliance is the UUID that the appliance's own machine would find in its DMI tables.
func (l *Lab) Appliance() string { return l.appliance }

// Client of an administrator. Faults that were ordered meet it as well.
func (l *Lab) Client() *vim25.Client { return l.client.Client }

// Login opens another session of the administrator.
func (l *Lab) Login(ctx context.Context) (*govmomi.Client, error) {
	u := *l.server.URL
	u.User = url.UserPassword(l.User, l.Password)
	return govmomi.NewClient(ctx, &u, true)
}

// layers is where the content of deltas is kept.
func (l *Lab) layers() string { return filepath.Join(l.o.Dir, "layers") }

// local translates "[ds] dir/file"; "" when there is no such datastore.
func (l *Lab) local(p string) string {
	var dp object.DatastorePath
	if !dp.FromString(p) {
		return ""
	}
	dir, ok := l.datastore[dp.Datastore]
	if !ok {
		return ""
	}
	return filepath.Join(dir, filepath.Clean("/"+dp.Path))
}

// refused makes a SOAP fault.
func refused(f types.BaseMethodFault) *soap.Fault { return simulator.Fault(fmt.Sprintf("%T", f), f) }
