package receivers

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of every Slapd.
const (
	SlapdSuffix   = "dc=example,dc=com"
	SlapdAdmin    = "cn=admin," + SlapdSuffix
	SlapdPassword = "the administrator of the directory"
)

// Slapd is an OpenLDAP server with a small database below SlapdSuffix. It takes a name without a password for
// nobody, and says that all is well, as many directories do.
type Slapd struct {
	*child
	Plain, TLS int // ports; the plain one knows StartTLS
}

// StartSlapd runs slapd with the certificate and the entries, in LDIF. Only reader, a distinguished name, may search.
func StartSlapd(t testing.TB, id Identity, reader, entries string) *Slapd {
	t.Helper()
	s := &Slapd{newChild(t), freePort(t, "tcp"), freePort(t, "tcp")}
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "data"), 0o700))
	config := s.write("slapd.conf", fmt.Sprintf(`
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile %[1]s/pid
allow bind_anon_cred bind_anon_dn
TLSCACertificateFile %[2]s
TLSCertificateFile %[3]s
TLSCertificateKeyFile %[4]s
TLSVerifyClient never
database mdb
maxsize 16777216
directory %[1]s/data
suffix "%[5]s"
rootdn "%[6]s"
rootpw "%[7]s"
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="%[8]s" read by anonymous auth by * none
`, s.dir, id.CAFile, id.CertFile, id.KeyFile, SlapdSuffix, SlapdAdmin, SlapdPassword, reader))
	path, err := exec.LookPath("slapadd")
	require.NoError(t, err, "run \"make receivers\" to install it")
	cmd := exec.CommandContext(t.Context(), path, "-q", "-f", config)
	cmd.Stdin = bytes.NewReader([]byte(entries))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	s.run(nil, "slapd", "-d", "stats", "-f", config, "-h", fmt.Sprintf("ldap://127.0.0.1:%d ldaps://127.0.0.1:%d", s.Plain, s.TLS))
	s.untilBound("tcp", s.Plain)
	s.untilBound("tcp", s.TLS)
	return s
}
