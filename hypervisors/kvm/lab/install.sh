#!/bin/sh
# Installs the Debian packages that building, the lab and the demo need, and those named as arguments. Says nothing and touches no network when all of
# them are there already.
set -eu

packages="
	gcc libc6-dev pkg-config libvirt-dev
	libvirt-daemon libvirt-daemon-system libvirt-clients dnsmasq-base iptables iproute2
	qemu-system-x86 qemu-utils libnbd-bin nbdkit
	openssh-server openssh-client
	syslinux syslinux-common mtools fdisk e2fsprogs xfsprogs strace
	libglib2.0-0 libnuma1 libudev1 liburing2
	ca-certificates systemd
	$*
"

# The console is built with Node; a newer one than Debian's does as well.
node=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
if [ "${node:-0}" -lt 18 ] || ! command -v npm >/dev/null; then
	packages="$packages nodejs npm"
fi

missing=
for p in $packages; do
	status=$(dpkg-query --show --showformat='${db:Status-Status}' "$p" 2>/dev/null) || true
	[ "$status" = installed ] || missing="$missing $p"
done
# The lab downloads the kernel and the agent of its guests itself, for which apt has to know them.
if [ -z "$missing" ] && apt-cache show linux-image-cloud-amd64 qemu-guest-agent >/dev/null 2>&1; then
	exit 0
fi
[ "$(id -u)" = 0 ] || { echo "run as root to install:$missing" >&2; exit 1; }

# Nothing that is installed here has to run on this machine itself: keep Debian from starting libvirtd and sshd.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
if [ -n "$missing" ]; then
	echo "installing:$missing"
	# shellcheck disable=SC2086  # a list
	apt-get install --quiet --yes --no-install-recommends $missing
fi
