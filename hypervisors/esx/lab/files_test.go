package lab

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func datacenter(t *testing.T, l *Lab) *object.Datacenter {
	t.Helper()
	dc, err := find.NewFinder(l.Client()).DefaultDatacenter(t.Context())
	must(t, err)
	return dc
}

// TestDisksWithoutMachine: disks are created, copied with their content, grown and deleted.
func TestDisksWithoutMachine(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		dc, dm := datacenter(t, l), object.NewVirtualDiskManager(l.Client())
		fm := object.NewFileManager(l.Client())
		must(t, fm.MakeDirectory(t.Context(), "["+Datastore+"] r/deep", dc, true))
		a, b := "["+Datastore+"] r/a.vmdk", "["+Second+"] b.vmdk"
		task, err := dm.CreateVirtualDisk(t.Context(), a, dc, &types.FileBackedVirtualDiskSpec{
			VirtualDiskSpec: types.VirtualDiskSpec{DiskType: "thin", AdapterType: "lsiLogic"}, CapacityKb: 1024})
		finish(t, task, err)
		task, err = dm.CreateVirtualDisk(t.Context(), a, dc, &types.FileBackedVirtualDiskSpec{CapacityKb: 1024})
		if _, ok := fails(t, task, err).(*types.FileAlreadyExists); !ok {
			t.Error("another fault")
		}
		must(t, write(flat(l.local(a)), 1000, []byte("content")))
		task, err = dm.CopyVirtualDisk(t.Context(), a, dc, b, dc, nil, false)
		finish(t, task, err)
		task, err = dm.ExtendVirtualDisk(t.Context(), b, dc, 2048, nil)
		finish(t, task, err)
		got, err := os.ReadFile(flat(l.local(b)))
		must(t, err)
		if len(got) != 2*mib || string(got[1000:1007]) != "content" {
			t.Error("the copy is not the disk, or did not grow")
		}
		ua, err := dm.QueryVirtualDiskUuid(t.Context(), a, dc)
		must(t, err)
		ub, err := dm.QueryVirtualDiskUuid(t.Context(), b, dc)
		must(t, err)
		if ua == ub {
			t.Error("two disks have one UUID")
		}
		task, err = dm.DeleteVirtualDisk(t.Context(), b, dc)
		finish(t, task, err)
		if _, err := os.Stat(flat(l.local(b))); err == nil {
			t.Error("a deleted disk has content")
		}
		task, err = fm.DeleteDatastoreFile(t.Context(), "["+Datastore+"] r", dc)
		finish(t, task, err)
		task, err = dm.DeleteVirtualDisk(t.Context(), a, dc)
		if _, ok := fails(t, task, err).(*types.FileNotFound); !ok {
			t.Error("a disk outlived its directory")
		}
	})
}

// TestGrow: a disk grows, but not under a snapshot; and its change ids are void then.
func TestGrow(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "grows")
		tracking(t, vm)
		must(t, l.PowerOn(id))
		before := flatBacking(unitOf(t, props(t, vm).Config.Hardware.Device, 0)).ChangeId
		must(t, l.Grow(id, "vda", 6*mib))
		d := unitOf(t, props(t, vm).Config.Hardware.Device, 0)
		got, err := l.Read(id, "vda")
		must(t, err)
		if d.CapacityInBytes != 6*mib || len(got) != 6*mib || bytes.Equal(got[:mib], make([]byte, mib)) {
			t.Errorf("it did not grow, or lost what it held: %d, %d", d.CapacityInBytes, len(got))
		}
		if epoch, _, _ := cut(before); strings.HasPrefix(flatBacking(d).ChangeId, epoch) {
			t.Error("tracking outlived the growth")
		}
		snap(t, vm, "s")
		if _, ok := faultOf(t, l.Grow(id, "vda", 8*mib)).(*types.InvalidDeviceOperation); !ok {
			t.Error("another fault")
		}
	})
}

// TestFolder: files are for those who signed in; by Range as well; never what a running guest writes to.
func TestFolder(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "files")
		p := object.DatastorePath{Datastore: Datastore, Path: "files/files-flat.vmdk"}
		dcPath := datacenter(t, l).InventoryPath
		u := *l.Client().URL()
		u.User, u.Path = nil, "/folder/"+p.Path
		u.RawQuery = url.Values{"dcPath": {dcPath}, "dsName": {p.Datastore}}.Encode()
		ask := func(method, bytes string, body io.Reader, user, password string) (int, string) {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, u.String(), body)
			must(t, err)
			if user != "" {
				r.SetBasicAuth(user, password)
			}
			if bytes != "" {
				r.Header.Set("Range", bytes)
			}
			c := &http.Client{Transport: soap.NewClient(l.Client().URL(), true).DefaultTransport()}
			defer c.CloseIdleConnections()
			answer, err := c.Do(r)
			must(t, err)
			defer answer.Body.Close()
			got, err := io.ReadAll(answer.Body)
			must(t, err)
			return answer.StatusCode, string(got)
		}
		if code, _ := ask("GET", "", nil, "", ""); code != http.StatusUnauthorized {
			t.Errorf("anybody is answered %d", code)
		}
		forged, err := http.NewRequestWithContext(t.Context(), "GET", u.String(), nil)
		must(t, err)
		forged.AddCookie(&http.Cookie{Name: soap.SessionCookieName, Value: "52b5f1c2-0000-0000-0000-000000000000"})
		c := &http.Client{Transport: soap.NewClient(l.Client().URL(), true).DefaultTransport()}
		defer c.CloseIdleConnections()
		answer, err := c.Do(forged)
		must(t, err)
		must(t, answer.Body.Close())
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("a session that nobody has is answered %d", answer.StatusCode)
		}
		if code, _ := ask("GET", "", nil, l.User, "wrong"); code != http.StatusUnauthorized {
			t.Errorf("a wrong password is answered %d", code)
		}
		want, err := l.Read(id, "vda")
		must(t, err)
		if code, got := ask("GET", "bytes=100-199", nil, l.User, l.Password); code != http.StatusPartialContent || got != string(want[100:200]) {
			t.Errorf("a range is answered %d", code)
		}
		if code, got := ask("HEAD", "", nil, l.User, l.Password); code != http.StatusOK || got != "" {
			t.Errorf("HEAD is answered %d", code)
		}
		// The session that govmomi's client has is good as well.
		v := u
		res, err := l.Client().DownloadRequest(t.Context(), &v, &soap.Download{
			Method: "GET", Headers: map[string]string{"Range": "bytes=0-9"}})
		must(t, err)
		must(t, res.Body.Close())
		if res.StatusCode != http.StatusPartialContent {
			t.Errorf("a session is answered %d", res.StatusCode)
		}
		must(t, l.PowerOn(id))
		if code, _ := ask("GET", "bytes=0-0", nil, l.User, l.Password); code != http.StatusConflict {
			t.Errorf("the disk of a running guest is answered %d", code)
		}
		snap(t, vm, "s")
		must(t, l.Write(id, "vda", 0, []byte("later")))
		if code, got := ask("GET", "", nil, l.User, l.Password); code != http.StatusOK || got != string(want) {
			t.Errorf("the frozen disk is answered %d", code)
		}
		u.Path = "/folder/files/notes.json"
		if code, _ := ask("PUT", "", strings.NewReader(`{"a":1}`), l.User, l.Password); code != http.StatusCreated {
			t.Errorf("PUT is answered %d", code)
		}
		if code, got := ask("GET", "", nil, l.User, l.Password); code != http.StatusOK || got != `{"a":1}` {
			t.Errorf("what was put is answered %d: %s", code, got)
		}
		u.Path = "/folder/files/files-000001-sesparse.vmdk"
		if _, got := ask("GET", "", nil, l.User, l.Password); len(got) > 4096 {
			t.Error("a layer can be read as if it were a disk")
		}
		u.RawQuery = url.Values{"dcPath": {dcPath}, "dsName": {"nowhere"}}.Encode()
		if code, _ := ask("GET", "", nil, l.User, l.Password); code != http.StatusNotFound {
			t.Errorf("a datastore that is not there is answered %d", code)
		}
		l.Folder(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusTeapot)
			return true
		})
		if code, _ := ask("GET", "", nil, l.User, l.Password); code != http.StatusTeapot {
			t.Errorf("the order for /folder is answered %d", code)
		}
	})
}

// TestScreen: a running machine has a screen, as a picture in its datastore.
func TestScreen(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "seen")
		task, err := screenshot(t, l, vm)
		if _, ok := fails(t, task, err).(*types.InvalidPowerState); !ok {
			t.Error("a machine that is off has a screen")
		}
		must(t, l.PowerOn(id))
		task, err = screenshot(t, l, vm)
		p := finish(t, task, err).(string)
		got, err := os.ReadFile(l.local(p))
		must(t, err)
		if !bytes.HasPrefix(got, []byte("\x89PNG")) {
			t.Errorf("%s is no picture", p)
		}
		must(t, l.PowerOff(id))
		must(t, l.Remove(id))
		if _, err := os.Stat(l.local("[" + Datastore + "] seen")); err == nil {
			t.Error("the machine left its directory")
		}
	})
}
