package receivers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Rsyslogd is an rsyslogd with one input for each transport.
type Rsyslogd struct {
	*child
	UDP, TCP, TLS int // ports
}

// Syslog is one message as rsyslogd understood it.
type Syslog struct {
	Transport                                      string // input that it came by
	PRI, Version, Time, Host, App, Proc, MsgID, SD string
	Msg                                            string
}

// StartRsyslogd runs rsyslogd with the certificate for TLS.
func StartRsyslogd(t testing.TB, id Identity) *Rsyslogd {
	t.Helper()
	r := &Rsyslogd{newChild(t), freePort(t, "udp"), freePort(t, "tcp"), freePort(t, "tcp")}
	config := r.write("rsyslog.conf", fmt.Sprintf(`
global(workDirectory="%[1]s" net.enableDNS="off" maxMessageSize="64k" defaultNetstreamDriverCAFile="%[5]s"
	defaultNetstreamDriverCertFile="%[6]s" defaultNetstreamDriverKeyFile="%[7]s")
module(load="imudp")
module(load="imptcp")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="fields" type="string"
	string="%%inputname%%\t%%pri%%\t%%protocol-version%%\t%%timestamp:::date-rfc3339%%\t%%hostname%%\t%%app-name%%\t%%procid%%\t%%msgid%%\t%%structured-data%%\t%%msg%%\n")
ruleset(name="all") { action(type="omfile" file="%[1]s/messages" template="fields") }
input(type="imudp" name="udp" address="127.0.0.1" port="%[2]d" ruleset="all")
input(type="imptcp" name="tcp" address="127.0.0.1" port="%[3]d" ruleset="all")
input(type="imtcp" name="tls" address="127.0.0.1" port="%[4]d" ruleset="all")
`, r.dir, r.UDP, r.TCP, r.TLS, id.CAFile, id.CertFile, id.KeyFile))
	r.run(nil, "rsyslogd", "-n", "-f", config, "-i", filepath.Join(r.dir, "pid"))
	r.untilBound("udp", r.UDP)
	r.untilBound("tcp", r.TCP)
	r.untilBound("tcp", r.TLS)
	return r
}

// Messages are all that arrived.
func (r *Rsyslogd) Messages() []Syslog {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "messages"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(r.t, err)
	var all []Syslog
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 10)
		require.Len(r.t, f, 10, line)
		all = append(all, Syslog{f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9]})
	}
	return all
}
