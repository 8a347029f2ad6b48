package provisioning

import (
	"strings"

	"understudy/hypervisors"
)

// foreign are systems that virt-v2v knows and does not convert, by the beginnings of libosinfo's ids.
var foreign = []struct{ prefix, name string }{
	{"freebsd.org/", "FreeBSD"}, {"openbsd.org/", "OpenBSD"}, {"netbsd.org/", "NetBSD"}, {"dragonflybsd.org/", "DragonFly BSD"}, {"ghostbsd.org/", "GhostBSD"},
	{"oracle.com/solaris/", "Solaris"}, {"sun.com/", "Solaris"}, {"apple.com/", "macOS"}, {"haiku-os.org/", "Haiku"}, {"novell.com/netware/", "NetWare"},
	{"archlinux.org/", "Arch Linux"}, {"gentoo.org/", "Gentoo"}, {"alpinelinux.org/", "Alpine Linux"}, {"nixos.org/", "NixOS"}, {"guix.gnu.org/", "Guix"},
	{"voidlinux.org/", "Void Linux"}, {"mageia.org/", "Mageia"}, {"mandriva.com/", "Mandriva"}, {"clearlinux.org/", "Clear Linux"}, {"android-x86.org/", "Android"},
	{"microsoft.com/msdos/", "MS-DOS"}, {"microsoft.com/win/1.0", "Windows before XP"}, {"microsoft.com/win/2.", "Windows before XP"}, {"microsoft.com/win/3.", "Windows before XP"},
	{"microsoft.com/win/95", "Windows before XP"}, {"microsoft.com/win/98", "Windows before XP"}, {"microsoft.com/win/me", "Windows before XP"},
	{"microsoft.com/winnt/", "Windows before XP"}, {"microsoft.com/win/2k", "Windows before XP"},
}

// Inconvertible says why the guest of a machine surely cannot be converted for other devices; empty: nothing is known
// against it. What nobody said of a guest is found out by the conversion itself.
func Inconvertible(hw hypervisors.Hardware) string {
	if hw.Arch != "" && hw.Arch != "x86_64" {
		return "its processor is " + hw.Arch + ", and guests are converted for x86_64 only"
	}
	id := strings.TrimPrefix(strings.TrimPrefix(hw.OS, "http://"), "https://")
	for _, s := range foreign {
		// win/2k is Windows 2000, win/2k3 and so on are later ones.
		if strings.HasPrefix(id, s.prefix) && (s.prefix != "microsoft.com/win/2k" || id == s.prefix) {
			return "virt-v2v does not convert " + s.name
		}
	}
	return ""
}
