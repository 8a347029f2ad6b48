# The first process of a host: arguments are the host's directory, its name, and whether it has no KVM (true, false). Everything here happens in namespaces of
# its own, with private mounts, so that nothing of it is seen outside and all of it goes when this process does.
set -e
dir=$1
hostname "$2"
mount -t proc proc /proc
mount -t sysfs sysfs /sys # shows the network devices of this namespace only
mount --bind "$dir/etc/libvirt" /etc/libvirt
mount --bind "$dir/etc/hosts" /etc/hosts
mount --bind "$dir/etc/passwd" /etc/passwd
mount --bind "$dir/etc/shadow" /etc/shadow
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/log/libvirt" /var/log/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/run" /run
if "$3" && [ -e /dev/kvm ]; then # something that cannot be written; else libvirt would try it again and again
	mount --bind "$dir/etc/hosts" /dev/kvm
	mount -o remount,bind,ro /dev/kvm
fi
ip link set lo up
echo ready
# bash reaps whatever is orphaned here. The lab's owner holds the other end of standard input; when it is closed, or its
# holder dies, this process ends and the kernel ends all others of the namespace.
while read -r _; do :; done
