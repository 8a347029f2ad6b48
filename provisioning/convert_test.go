package provisioning

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

func TestInconvertible(t *testing.T) {
	for _, os := range []string{"", "http://debian.org/debian/12", "http://microsoft.com/win/2k22", "http://microsoft.com/win/2k3r2", "http://microsoft.com/win/11",
		"http://oracle.com/ol/9.0", "http://redhat.com/rhel/9.4", "otherGuest64"} {
		require.Empty(t, Inconvertible(hypervisors.Hardware{Arch: "x86_64", OS: os}), os)
	}
	for os, name := range map[string]string{"http://freebsd.org/freebsd/14.0": "FreeBSD", "http://oracle.com/solaris/11": "Solaris", "http://microsoft.com/win/2k": "before XP",
		"http://microsoft.com/winnt/4.0": "before XP"} {
		require.Contains(t, Inconvertible(hypervisors.Hardware{OS: os}), name)
	}
	require.Contains(t, Inconvertible(hypervisors.Hardware{Arch: "aarch64"}), "aarch64")
}
