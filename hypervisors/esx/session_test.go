package esx

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
)

// isTold checks what a user sees.
func isTold(t *testing.T, err, is error, message, hint string) {
	t.Helper()
	require.ErrorIs(t, err, is)
	require.Contains(t, err.Error(), message)
	require.Contains(t, hypervisors.Hint(err), hint)
}

func TestAddresses(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for uri, want := range map[string]string{
		"esx://h":                                         "h:443",
		"esx://h:8443/?thumbprint=" + pin:                 "h:8443",
		"esx://[fd00::1]/?thumbprint=SHA256:" + pin:       "[fd00::1]:443",
		"esx://h/?ca=/etc/ca.pem&host=esx1.example":       "h:443",
		"esx://h/?thumbprint=" + colons(make([]byte, 32)): "h:443",
		"esx://h/?appliance=564d0000-1111-2222-3333-444455556666&devices=/dev/disk/by-uuid&path=https": "h:443",
	} {
		a, err := parseAddress(uri)
		require.NoError(t, err, uri)
		require.Equal(t, want, a.server)
	}
	for uri, want := range map[string]string{
		"https://h":              "scheme",
		"esx:///":                "no host",
		"esx://root:secret@h":    "not part of the address",
		"esx://h/sdk":            "path must be empty",
		"esx://h/?insecure=1":    "insecure",
		"esx://h/?thumbprint=aa": "SHA-256",
		"esx://h/?thumbprint=" + strings.Repeat("zz", 32): "SHA-256",
		"esx://h/?ca=ca.pem":                              "absolute",
		"esx://h/?host=a&host=b":                          "twice",
		"esx://h/?path=nfs":                               "none of",
		"esx://h/?path=vddk":                              "needs vddk=FOLDER",
		"esx://h/?vddk=lib":                               "is not an absolute path",
		"esx://h/?appliance=me":                           "no UUID",
		"esx://h/?devices=dev":                            "absolute",
		"esx://h/?ca=/a&thumbprint=" + pin:                "not both",
		"esx://%zz":                                       "not an address",
	} {
		_, err := parseAddress(uri)
		require.ErrorContains(t, err, want, uri)
		require.NotContains(t, err.Error(), "secret")
		require.NotEmpty(t, hypervisors.Hint(err))
	}
}

func TestWrongThumbprint(t *testing.T) {
	l := startLab(t, lab.Options{})
	pin := strings.Repeat("00", 32)
	_, err := Connect(t.Context(), strings.Replace(l.URI(), l.Thumbprint(), pin, 1), options(l))
	seen := strings.ToUpper(strings.ReplaceAll(err.Error(), ":", ""))
	require.Contains(t, seen, strings.ToUpper(l.Thumbprint()), "the one that was seen is told, to be compared")
	isTold(t, err, hypervisors.ErrHostKey, "its thumbprint is", "Compare that with what the host's own console shows")
}

func TestUnknownIssuer(t *testing.T) {
	l := startLab(t, lab.Options{})
	server, _, _ := strings.Cut(l.URI(), "?")
	_, err := Connect(t.Context(), server, options(l))
	isTold(t, err, hypervisors.ErrHostKey, "its thumbprint is", "put thumbprint=… into the address")
}

// certified is a server whose certificate is valid until then, in a file.
func certified(t *testing.T, until time.Time) (server, file string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-365 * 24 * time.Hour), NotAfter: until, IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	file = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return s.Listener.Addr().String(), file
}

func TestExpiredCertificate(t *testing.T) {
	server, ca := certified(t, time.Date(2024, 1, 31, 0, 0, 0, 0, time.UTC))
	_, err := Connect(t.Context(), "esx://"+server+"/?ca="+ca, Options{Owner: owner})
	isTold(t, err, hypervisors.ErrHostKey, "valid from 2023-01-31 to 2024-01-31", "Renew the host's certificate")
	server, ca = certified(t, time.Now().Add(time.Hour))
	_, err = Connect(t.Context(), "esx://"+server+"/?ca="+ca, Options{Owner: owner})
	require.NotErrorIs(t, err, hypervisors.ErrHostKey, "this one is trusted")
	require.ErrorContains(t, err, "404")
	_, err = Connect(t.Context(), "esx://"+server+"/?ca=/nowhere.pem", Options{Owner: owner})
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = Connect(t.Context(), "esx://"+l.Addr().String(), Options{Owner: owner})
	isTold(t, err, hypervisors.ErrUnreachable, "connection refused", "Look whether the host is up")
}

func TestWrongPassword(t *testing.T) {
	l := startLab(t, lab.Options{})
	o := options(l)
	o.Password = "guessed-wrong"
	_, err := Connect(t.Context(), l.URI(), o)
	isTold(t, err, hypervisors.ErrUnauthorized, "connect to", "Check name and password")
	require.NotContains(t, err.Error()+hypervisors.Hint(err), o.Password)
}

func TestMissingPrivilegesAreNamedOneByOne(t *testing.T) {
	for name, vcenter := range kinds {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, lab.Options{VCenter: vcenter})
			l.Deny("VirtualMachine.State.CreateSnapshot", "Host.Config.Network")
			_, err := Connect(t.Context(), l.URI(), options(l))
			isTold(t, err, hypervisors.ErrUnauthorized, "lacks the privileges Host.Config.Network, VirtualMachine.State.CreateSnapshot", "Add them to the role")
			l.Deny()
			h := open(t, l)
			vm := guest(t, l, "web")
			l.Deny("VirtualMachine.Interact.PowerOn")
			isTold(t, h.Start(t.Context(), vm), hypervisors.ErrUnauthorized, "start machine web: ", "Give the role")
			require.ErrorContains(t, h.Start(t.Context(), vm), "lacks the privileges VirtualMachine.Interact.PowerOn")
			l.Deny()
			l.Fail("PowerOnVM_Task", &types.NoPermission{MissingPrivileges: []types.NoPermissionEntityPrivileges{
				{PrivilegeIds: []string{"B.two"}}, {PrivilegeIds: []string{"A.one", "B.two"}}}}, 1)
			require.ErrorContains(t, h.Start(t.Context(), vm), "lacks the privileges A.one, B.two")
		})
	}
}

func TestFreeLicence(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.Fail("PowerOnVM_Task", &types.RestrictedVersion{}, 1)
	isTold(t, h.Start(t.Context(), vm), hypervisors.ErrIncapable, "start machine web", "The licence of this host does not let programs change anything")
}

func TestHostInMaintenance(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.Fail("PowerOnVM_Task", &types.InvalidHostState{}, 1)
	isTold(t, h.Start(t.Context(), vm), hypervisors.ErrIncapable, "start machine web", "Take the host out of maintenance mode")
}

func TestBusyServer(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.Status503(2)
	_, err := h.VM(t.Context(), vm)
	require.NoError(t, err, "it is asked again")
	l.Status503(1000)
	_, err = h.VM(t.Context(), vm)
	l.Status503(0)
	isTold(t, err, hypervisors.ErrUnreachable, "503", "Its services may be starting")
}

func TestSessionLost(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	require.NoError(t, l.DropSessions())
	_, err := h.VMs(t.Context())
	require.NoError(t, err, "it signs in again")
	// In the middle of a task.
	goOn := make(chan struct{})
	l.Slow("PowerOnVM_Task", goOn)
	ended := make(chan error)
	go func() { ended <- h.Start(context.WithoutCancel(t.Context()), vm) }()
	v, err := l.VM(vm)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var m mo.VirtualMachine
		require.NoError(t, property.DefaultCollector(l.Client()).RetrieveOne(t.Context(), v.Reference(), []string{"recentTask"}, &m))
		return len(m.RecentTask) > 0
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, l.DropSessions())
	close(goOn)
	require.NoError(t, <-ended)
	got, err := h.VM(t.Context(), vm)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Running, got.State)
}

func TestTaskThatFailsLate(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.FailLate("PowerOnVM_Task", &types.GenericVmConfigFault{Reason: "the host lost power to a rack"}, 1)
	require.ErrorContains(t, h.Start(t.Context(), vm), "start machine web: the host lost power to a rack")
	require.NoError(t, h.Start(t.Context(), vm), "it runs all the same, or can be started again")
}

func TestTaskIsToldToStop(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.Slow("PowerOnVM_Task", make(chan struct{}))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.Start(ctx, vm), context.DeadlineExceeded)
	l.Slow("PowerOnVM_Task", nil)
	got, err := h.VM(t.Context(), vm)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Off, got.State)
}

func TestChoiceOfHost(t *testing.T) {
	l := startLab(t, lab.Options{VCenter: true})
	h, err := connect(t.Context(), l.URI()+"&host=esx9", options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	isTold(t, h.IsolatedNetwork(t.Context(), "bubble"), hypervisors.ErrInvalid, `there is no "esx9" among DC0_`, "Put host=NAME into the address")
}
