package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// No D-Bus, udev, cgroup or security module is at hand in the namespaces, so libvirt is told to do without. With
// stdio_handler "file" it needs no virtlogd.
const qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
`

const libvirtdConf = `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
host_uuid = "%s"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`

// StrictModes would refuse keys below /tmp. PAM has nothing to do here.
const sshdConf = `ListenAddress %s
Port %d
HostKey %s/host_key
AuthorizedKeysFile %[3]s/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
MaxSessions 100
MaxStartups 100
PidFile none
SetEnv PATH=%[4]s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Subsystem sftp internal-sftp
`

const productionBridge = "virbr-prod"

// Mode "open" is a network with an uplink for which libvirt makes no firewall rules: production, not an isolated one.
const productionXML = `<network>
  <name>` + Production + `</name>
  <forward mode='open'/>
  <bridge name='` + productionBridge + `' stp='off' delay='0'/>
  <dns enable='no'/>
  <ip address='192.168.77.1' prefix='24'/>
</network>
`

const poolXML = `<pool type='dir'><name>default</name><target><path>` + ImagesDir + `</path></target></pool>
`

func (h *Host) writeConfig(net netip.Prefix, key clientKey) error {
	for _, d := range []string{"etc/libvirt/qemu/networks", "etc/libvirt/storage", "etc/libvirt/hooks", "lib/images", "lib/boot", "lib/dnsmasq", "lib/qemu", "log/libvirt", "cache", "run/libvirt", "run/sshd", "ssh", "home", "programs"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, d), 0o755); err != nil {
			return err
		}
	}
	ssh, err := h.writeKeys(net, key)
	if err != nil {
		return err
	}
	h.SSH = ssh
	passwd, err := h.passwd()
	if err != nil {
		return err
	}
	files := map[string]string{
		"etc/passwd":                passwd,
		"etc/libvirt/libvirtd.conf": fmt.Sprintf(libvirtdConf, uuid.NewString()),
		"etc/libvirt/qemu.conf":     qemuConf,
		"etc/libvirt/libvirt.conf":  "",
		"etc/hosts":                 "127.0.0.1 localhost\n127.0.1.1 " + h.Name + "\n",
		// sshd turns a locked account away even with a key; this one is not locked and has no password.
		"etc/shadow":      "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n",
		"ssh/sshd_config": fmt.Sprintf(sshdConf, ssh.Addr, ssh.Port, filepath.Join(h.Dir, "ssh"), h.Programs()),
		"production.xml":  productionXML,
		"pool.xml":        poolXML,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(h.Dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// passwd is the machine's, but root has an empty home and a plain shell: what the machine's owner runs at every sign-in is
// no business of the host's.
func (h *Host) passwd() (string, error) {
	b, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", err
	}
	lines := []string{"root:x:0:0:root:" + filepath.Join(h.Dir, "home") + ":/bin/sh"}
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "root:") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// furnish gives a new host its network and its storage pool, both to come back with libvirtd.
func (h *Host) furnish(ctx context.Context) error {
	for _, args := range [][]string{
		{"net-define", filepath.Join(h.Dir, "production.xml")},
		{"net-autostart", Production},
		{"net-start", Production},
		{"pool-define", filepath.Join(h.Dir, "pool.xml")},
		{"pool-autostart", "default"},
		{"pool-start", "default"},
	} {
		if _, err := h.Virsh(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
