#!/bin/sh
# Makes the raw image $1 of a small Debian that starts from VMware's disks alone: of all drivers for disks, its initial RAM
# disk has VMware's. Once up it says so on its serial console, with what its root is on. Needs root, for a loop device.
set -eu
image=$1
work=$(mktemp -d)
root=$work/root
tidy() {
	trap '' EXIT
	if mountpoint -q "$root"; then umount -R "$root"; fi
	rm -rf -- "$work"
}
trap tidy EXIT
trap 'exit 1' HUP INT TERM

start=1 mib=1199
truncate -s $((start + mib))M "$image"
printf 'label: dos\n%sMiB,,83,*\n' "$start" | sfdisk --quiet "$image"
mke2fs -q -t ext4 -E offset=$((start << 20)) "$image" "${mib}M"
mkdir "$root"
mount -o "loop,offset=$((start << 20))" "$image" "$root"

cat >"$work/setup" <<'EOF'
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/default/grub.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/modules"
printf '%s\n' vmw_pvscsi sd_mod ext4 >"$1/etc/initramfs-tools/modules"
EOF
# What can go of the packages goes, since all of this is copied.
mmdebstrap --quiet --mode=root --variant=minbase --include=initramfs-tools,linux-image-cloud-amd64,grub-pc \
	--essential-hook="sh $work/setup \"\$1\"" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	bookworm "$root"

uuid=$(blkid -p -o value -s UUID -O $((start << 20)) "$image")
options='console=ttyS0 panic=10 init=/sbin/proof tsc=reliable mitigations=off'
echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$root/etc/fstab"
cat >"$root/etc/default/grub.d/test.cfg" <<EOF
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX="$options"
GRUB_CMDLINE_LINUX_DEFAULT=
EOF
cat >"$root/sbin/proof" <<'EOF'
#!/bin/sh
mount -t proc proc /proc
exec >/dev/console 2>&1
while :; do
	echo "guest is up on $(awk '$2 == "/" { print $1 }' /proc/mounts)"
	sleep 2
done
EOF
chmod 755 "$root/sbin/proof"

# A boot loader, as grub-install would put it there if the image was a disk of this machine.
kernel=$(basename "$root"/boot/vmlinuz-*) initrd=$(basename "$root"/boot/initrd.img-*)
mkdir -p "$root/boot/grub/i386-pc"
cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc/"
cat >"$root/boot/grub/grub.cfg" <<EOF
set timeout=0
menuentry 'Debian GNU/Linux' {
	search --no-floppy --fs-uuid --set=root $uuid
	linux /boot/$kernel root=UUID=$uuid ro $options
	initrd /boot/$initrd
}
EOF
chroot "$root" grub-mkimage -O i386-pc -o /boot/grub/core.img -p '(hd0,msdos1)/boot/grub' biosdisk part_msdos ext2 search normal linux
dd if="$root/usr/lib/grub/i386-pc/boot.img" of="$image" bs=440 count=1 conv=notrunc status=none
dd if="$root/boot/grub/core.img" of="$image" bs=512 seek=1 conv=notrunc status=none
