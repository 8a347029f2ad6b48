#!/bin/bash
# Builds a Debian package from a program: build.sh PROGRAM VERSION OUTPUT.deb
set -eu
program=$1 version=$2 output=$3
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
umask 022

# v1.2.3-4-gabc-dirty from git is 1.2.3+4.gabc.dirty here: Debian's versions begin with a digit, and - has a meaning.
version=${version#v}
case $version in
	[0-9]*-*) version="${version%%-*}+$(printf %s "${version#*-}" | tr - .)" ;;
	[0-9]*) ;;
	*) version="0+$(printf %s "$version" | tr - .)" ;;
esac

install -D -m 0755 "$program" "$tree/usr/bin/understudy"
install -D -m 0644 "$here/understudy.service" "$tree/lib/systemd/system/understudy.service"
install -D -m 0644 "$here/default" "$tree/etc/default/understudy"
install -D -m 0644 "$here/../../LICENSE" "$tree/usr/share/doc/understudy/copyright"
install -D -m 0644 "$here/../../README.md" "$tree/usr/share/doc/understudy/README.md"
install -D -m 0644 "$here/../metrics/grafana/understudy.json" "$tree/usr/share/understudy/grafana/understudy.json"
install -d "$tree/usr/share/bash-completion/completions" "$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/fish/vendor_completions.d" "$tree/usr/share/man/man1"
"$program" completion bash >"$tree/usr/share/bash-completion/completions/understudy"
"$program" completion zsh >"$tree/usr/share/zsh/vendor-completions/_understudy"
"$program" completion fish >"$tree/usr/share/fish/vendor_completions.d/understudy.fish"
"$program" manual >"$tree/usr/share/man/man1/understudy.1"
gzip -9n "$tree/usr/share/man/man1/understudy.1"

install -d "$tree/DEBIAN"
for script in postinst prerm postrm; do install -m 0755 "$here/$script" "$tree/DEBIAN/$script"; done
install -m 0644 "$here/conffiles" "$tree/DEBIAN/conffiles"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$(dpkg --print-architecture)/" -e "s/@SIZE@/$(du -sk "$tree" | cut -f 1)/" "$here/control.in" >"$tree/DEBIAN/control"
(cd "$tree" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
# A fast level: half of the program compresses well at any.
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" -z1 --build "$tree" "$output" >/dev/null
