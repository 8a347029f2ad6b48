package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
	"understudy/hypervisors/kvm/lab"
)

// connectionFaults are row R5: what goes wrong between the appliance and the hosts.
var connectionFaults = []fault{
	{
		name:   "SourceConnectionCut",
		strike: func(s *stage) { s.cut(s.lab.Source) },
		told:   "host cannot be reached|connection lost",
		hint:   "The next cycle starts from the last recovery point.",
		next:   "incremental",
	},
	{
		name:   "TargetConnectionCut",
		strike: func(s *stage) { s.cut(s.lab.Target) },
		told:   "write to replica .*, disk vd[ab](.map)?: qemu-storage-daemon: host cannot be reached: connection lost",
		hint:   "The next cycle starts from the last recovery point.",
		next:   "incremental",
		long:   true, // HostKeyChanged cuts it, too
	},
	{
		name: "ConnectionReset",
		strike: func(s *stage) {
			s.sh(s.lab.Source, `iptables -I INPUT -i eth0 -p tcp --dport 22 -j REJECT --reject-with tcp-reset
sleep 2
iptables -D INPUT -i eth0 -p tcp --dport 22 -j REJECT --reject-with tcp-reset`)
		},
		told: "host cannot be reached|connection lost",
		hint: "The next cycle starts from the last recovery point.",
		next: "incremental",
		long: true,
	},
	{
		// Packets are lost for a while in both directions; TCP sends them again.
		name: "PacketsLost",
		strike: func(s *stage) {
			s.silence(s.lab.Source, true)
			time.Sleep(3 * time.Second)
			s.silence(s.lab.Source, false)
		},
		next: "incremental",
		long: true,
	},
	{
		name: "SlowLine",
		strike: func(s *stage) {
			s.sh(s.lab.Source, "tc qdisc add dev eth0 root tbf rate 16mbit burst 32k latency 400ms")
		},
		mend: func(s *stage) { s.sh(s.lab.Source, "tc qdisc del dev eth0 root") },
		next: "incremental",
		long: true,
	},
	{
		name: "HostKeyChanged",
		strike: func(s *stage) {
			require.NoError(s.t, s.lab.Target.ChangeHostKey(s.ctx))
			s.cut(s.lab.Target)
		},
		told: "write to replica",
		mend: func(s *stage) {
			s.isToldNext("host key is unknown or has changed", "If the host was not set up anew, somebody may be in between.")
			require.NoError(s.t, s.lab.Target.ChangeHostKey(s.ctx))
		},
		next: "incremental",
	},
	{
		name:   "SourceAway",
		strike: func(s *stage) { s.silence(s.lab.Source, true) },
		told:   "host cannot be reached",
		mend:   func(s *stage) { s.silence(s.lab.Source, false) },
		next:   "incremental",
		long:   true,
	},
	{
		name:   "TargetAway",
		strike: func(s *stage) { s.silence(s.lab.Target, true) },
		told:   "host cannot be reached",
		mend:   func(s *stage) { s.silence(s.lab.Target, false) },
		next:   "incremental",
		long:   true,
	},
	{
		name:   "TargetExportHung",
		strike: func(s *stage) { s.signal(s.lab.Target, "qemu-storage-da", "STOP") },
		told:   "write to replica .*timed out: nbd: server does not answer: nothing heard for 1m0s",
		hint:   "Look whether the storage there hangs.",
		next:   "incremental",
		long:   true,
	},
	{
		name:   "SourceHung",
		strike: func(s *stage) { s.signal(s.lab.Source, "qemu-system-x86", "STOP") },
		told:   "read machine " + faultGuest + ", disk vd[ab]: timed out: nbd: server does not answer: nothing heard for 1m0s",
		hint:   "Look whether the machine or its storage hangs.",
		mend:   func(s *stage) { s.signal(s.lab.Source, "qemu-system-x86", "CONT") },
		next:   "incremental",
		long:   true,
	},
}

// cut ends all SSH connections of a host; new ones are welcome.
func (s *stage) cut(h *lab.Host) {
	s.sh(h, `for p in /proc/[0-9]*; do
	if tr '\0' ' ' <"$p/cmdline" 2>/dev/null | grep -q '^sshd: root'; then kill -9 "${p#/proc/}" 2>/dev/null; fi
done; true`)
}

// silence makes a host's SSH swallow what it gets and say nothing, as behind a cable that was pulled.
func (s *stage) silence(h *lab.Host, on bool) {
	order := map[bool]string{true: "-I", false: "-D"}[on]
	s.sh(h, `iptables "$1" INPUT -i eth0 -p tcp --dport 22 -j DROP && iptables "$1" OUTPUT -o eth0 -p tcp --sport 22 -j DROP`, order)
}

// signal reaches all processes of that name on a host, by its own namespace of processes.
func (s *stage) signal(h *lab.Host, name, signal string) {
	s.sh(h, `for p in /proc/[0-9]*; do if [ "$(cat "$p/comm" 2>/dev/null)" = "$1" ]; then kill "-$2" "${p#/proc/}"; fi; done`, name, signal)
}

// TestForeignCertificate shows what a client is told whose trust is in another appliance's certificate.
func TestForeignCertificate(t *testing.T) {
	d, other := newDaemon(t), newDaemon(t)
	c, err := client.New("https://"+d.listen, client.Options{TokenFile: filepath.Join(d.dir, "admin.token"), CAFile: filepath.Join(other.dir, "tls", "cert.pem")})
	require.NoError(t, err)
	isUntrusted(t, c, "unknown authority", "Trust the appliance's own certificate: cert.pem in its data directory (--ca, UNDERSTUDY_CA).")
}

// TestExpiredCertificate shows what a client is told whose appliance has not been restarted for years, and that a start
// renews.
func TestExpiredCertificate(t *testing.T) {
	certPEM, keyPEM := expiredCertificate(t)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	old.StartTLS()
	defer old.Close()
	c, err := client.New("https://"+old.Listener.Addr().String(), client.Options{CA: certPEM, Token: "secret"})
	require.NoError(t, err)
	isUntrusted(t, c, "certificate has expired", "Check the clocks here and there. The appliance renews its own certificate when it is started.")

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tls"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls", "cert.pem"), certPEM, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls", "key.pem"), keyPEM, 0o600))
	d := newDaemonIn(t, dir)
	_, err = d.ListGroups(t.Context(), api.GroupQuery{})
	require.NoError(t, err)
}

func isUntrusted(t *testing.T, c *client.Client, message, hint string) {
	_, err := c.ListGroups(t.Context(), api.GroupQuery{})
	require.ErrorIs(t, err, client.ErrUnreachable)
	require.ErrorContains(t, err, message)
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, hint, e.Hint)
}

// expiredCertificate is one that the appliance made itself.
func expiredCertificate(t *testing.T) (certPEM, keyPEM []byte) {
	return certificateUntil(t, "Understudy self-made", time.Now().AddDate(-1, 0, 0))
}

func certificateUntil(t *testing.T, name string, until time.Time) (certPEM, keyPEM []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
