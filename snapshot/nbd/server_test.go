package nbd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/snapshot/nbd"
)

// patience is generous because the machine may be busy with other things.
const patience = 60 * time.Second

func unix(path string) nbd.Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
}

// serve starts a server that listens on socket and waits until it does. args must keep it in the foreground.
func serve(t *testing.T, socket string, args ...string) *os.Process {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start(), "the test needs %s", args[0])
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	deadline := time.Now().Add(patience)
	for {
		if probe, err := net.Dial("unix", socket); err == nil { // the file alone may not listen yet
			_ = probe.Close()
			return cmd.Process
		}
		select {
		case <-ended:
			require.Fail(t, "server ended", "%v: %s", args, said.String())
		case <-time.After(5 * time.Millisecond):
		}
		require.True(t, time.Now().Before(deadline), "nobody listens after %v: %v", patience, args)
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
}

// temp is a folder with a path short enough for sockets.
func temp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func dial(t *testing.T, socket string, o nbd.Options) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := nbd.Dial(ctx, unix(socket), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// authority signs certificates in the files and forms that QEMU wants.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{t, key, cert}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) issue(name string, usage x509.ExtKeyUsage) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serverFiles writes what QEMU's tls-creds-x509 reads in a server and returns the folder.
func (a *authority) serverFiles() string {
	dir := a.t.TempDir()
	cert := a.issue("server.test", x509.ExtKeyUsageServerAuth)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(a.t, err)
	for name, block := range map[string]*pem.Block{
		"ca-cert.pem":     {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		"server-cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		"server-key.pem":  {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(a.t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	return dir
}

// storageDaemon serves the image at path, writable, as export "disk".
func storageDaemon(t *testing.T, dir, format, path string) (socket string) {
	socket = filepath.Join(dir, "qsd.sock")
	serve(t, socket, "qemu-storage-daemon",
		"--blockdev", fmt.Sprintf("driver=file,node-name=file,filename=%s,discard=unmap", path),
		"--blockdev", fmt.Sprintf("driver=%s,node-name=disk,file=file,discard=unmap", format),
		"--nbd-server", fmt.Sprintf("addr.type=unix,addr.path=%s,max-connections=16", socket),
		"--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on")
	return socket
}
