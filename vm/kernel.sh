#!/usr/bin/env bash
# Fetches the cloud kernel of a Debian suite. Prints a directory that holds the
# kernel as vmlinuz, the modules for the machine's initramfs as modules.cpio, and
# the version as a file of that name.
# Usage: vm/kernel.sh CACHE SUITE ARCH
# The machine's own package sources stay as they are: apt-get gets a configuration
# of its own below CACHE. A kernel that is there is not asked for again.
set -euo pipefail
cache=$(mkdir -p "$1" && cd "$1" && pwd)
suite=$2
arch=$3
dir=$cache/$suite-$arch
[ ! "$dir.complete" -nt "$0" ] || { echo "$dir"; exit 0; }
apt=$cache/apt-$suite-$arch
mkdir -p "$apt"/{lists,archives}/partial "$apt/debs"
cat >"$apt/sources" <<SOURCES
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${PODD_DEBIAN_MIRROR:-http://deb.debian.org/debian} $suite main
SOURCES
cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources";
Dir::Etc::sourceparts "-";
Dir::State::lists "$apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$apt";
APT::Sandbox::User "";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
CONF
export APT_CONFIG=$apt/apt.conf
echo "fetching the cloud kernel of Debian $suite for $arch" >&2
fetch() {
  apt-get update -qq && cd "$apt/debs" && rm -f -- *.deb &&
    # linux-image-cloud is empty but for its name; from 7 on, so is the one it names.
    image=$(needs "linux-image-cloud-$arch" 'linux-image-[0-9]') &&
    apt-get download -qq "$image" $(needs "$image" 'linux-\(base\|binary\|modules\)-[0-9]') "${more[@]}"
}
needs() { apt-cache depends "$1" | sed -n "s/^ *Depends: \($2.*\)/\1/p" | sort -u; }
# Programs for a machine of another architecture than this one.
more=()
[ "$arch" = "$(dpkg --print-architecture)" ] || more=(busybox-static)
(fetch) >"$apt/log" 2>&1 || {
  tail -n 5 "$apt/log" >&2
  echo "cannot fetch linux-image-cloud-$arch of Debian $suite with apt-get." >&2
  exit 1
}
rm -rf "$dir"
mkdir "$dir"
for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$apt/tree"; done
cp "$(find "$apt/tree" -name 'vmlinuz*' -type f)" "$dir/vmlinuz"
[ ${#more[@]} = 0 ] || cp "$apt/tree/usr/bin/busybox" "$dir/busybox"
from=$(find "$apt/tree" -path '*/lib/modules/*' -prune -type d)
version=${from##*/}
to=$apt/initramfs/lib/modules/$version
mkdir -p "$to"
for part in net lib crypto arch fs/{overlayfs,fuse,xfs,btrfs,nfs,nfsd,nfs_common,lockd,netfs,fscache} drivers/net/{veth,dummy}.ko drivers/virtio drivers/block/{virtio_blk,loop}.ko; do
  found=$(ls -d "$from/kernel/$part"* 2>/dev/null) || continue # perhaps .ko.xz
  mkdir -p "$to/kernel/$(dirname "$part")"
  cp -a $found "$to/kernel/$(dirname "$part")/"
done
cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/"
find "$to" -name '*.ko.xz' -exec xz -d {} +
depmod -b "$apt/initramfs" "$version"
(cd "$apt/initramfs" && find . | cpio -o -H newc --quiet) >"$dir/modules.cpio"
echo "$version" >"$dir/version"
rm -rf "$apt"
touch "$dir.complete"
echo "$dir"
