package receivers

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Base modules that UNDERSTUDY-MIB imports; Debian does not ship them.
//
//go:embed mibs/*.txt
var baseMIBs embed.FS

// SNMPUser is a user of SNMP version 3.
type SNMPUser struct {
	Name, Auth, AuthPassword, Priv, PrivPassword string
	EngineID                                     string // hexadecimal, of the sender of traps; empty for informs
}

// Trapd is an snmptrapd.
type Trapd struct {
	*child
	Port int
}

// MIBs puts a MIB module and those that it imports into a directory.
func MIBs(t testing.TB, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".txt"), []byte(text), 0o600))
	files, err := fs.Glob(baseMIBs, "mibs/*.txt")
	require.NoError(t, err)
	for _, file := range files {
		b, err := baseMIBs.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), b, 0o600))
	}
	return dir
}

// StartTrapd lets snmptrapd log what it gets from the community and the users, with the MIB module of that name loaded.
func StartTrapd(t testing.TB, mibName, mib, community string, users ...SNMPUser) *Trapd {
	t.Helper()
	d := &Trapd{newChild(t), freePort(t, "udp")}
	var config strings.Builder
	fmt.Fprintf(&config, "disableAuthorization no\nauthCommunity log %s\n", community)
	for _, u := range users {
		engine := ""
		if u.EngineID != "" {
			engine = "-e 0x" + u.EngineID + " "
		}
		fmt.Fprintf(&config, "createUser %s%s %s %s %s %s\nauthUser log %s priv\n", engine, u.Name, u.Auth, u.AuthPassword, u.Priv, u.PrivPassword, u.Name)
	}
	file := d.write("snmptrapd.conf", config.String())
	d.run([]string{"SNMP_PERSISTENT_DIR=" + d.dir, "SNMPCONFPATH=" + d.dir, "MIBDIRS=" + MIBs(t, mibName, mib), "MIBS=" + mibName},
		"snmptrapd", "-f", "-Lo", "-n", "-C", "-c", file, "-p", filepath.Join(d.dir, "pid"), "-F", "NOTIFICATION %v\\n",
		fmt.Sprintf("udp:127.0.0.1:%d", d.Port))
	d.untilBound("udp", d.Port)
	return d
}

// Notifications are the lines that snmptrapd logged, one for each notification.
func (d *Trapd) Notifications() []string {
	var all []string
	for line := range strings.Lines(d.Said()) {
		if strings.HasPrefix(line, "NOTIFICATION ") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}
