#!/usr/bin/env bash
# Runs the tests on the real kernel in a virtual machine with Debian's cloud
# kernel, cgroup v2 and a shared root mount, under software emulation.
# Usage: vm/test.sh CACHE [PACKAGE [TEST-REGEXP]]
# The kernel is the package linux-image-*-cloud-amd64 that lies in CACHE, or else
# the one that apt-get downloads there.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
only=${2:-}
run=${3:-}
tree=$cache/tree
# Package, seconds it may take, flags. What is left out needs cgroup v1, which
# the other tests run on, a Go toolchain, or the speed of a real machine.
packages='
sandbox/cgroup 300
sandbox/stage 60
sandbox/pause 60
sandbox/network 300
sandbox 400 -test.skip=TestCgroupV1|TestTheSmallestLimits|TestHogAndForkBomb|TestPauseProgramIsSmallAndImports|TestThousandExecs
volumes 200
images 600 -test.short
pod/native 200
e2e 900 -test.short -test.run=TestScripts|TestDirectories|TestHostWith|TestTooFew|TestMountsOn|TestAgentIn|TestTimedOut
'

if ! ls "$cache"/linux-image-*-cloud-amd64_*.deb >/dev/null 2>&1; then
  echo "fetching Debian's cloud kernel"
  name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
  if [ -z "$name" ] || ! (cd "$cache" && apt-get download -qq "$name" 2>/dev/null); then
    echo "cannot download the package linux-image-cloud-amd64: run apt-get update, and make test-vm again." >&2
    exit 1
  fi
fi
if ! ls "$cache"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
  rm -rf "$cache/kernel"
  dpkg-deb -x "$cache"/linux-image-*-cloud-amd64_*.deb "$cache/kernel"
fi
kernel=$(ls "$cache"/kernel/boot/vmlinuz-*)
version=${kernel##*/vmlinuz-}

echo "building the tests for Linux $version"
rm -rf "$tree"
mkdir -p "$tree"/{bin,etc,podd/bin,podd/src,usr/bin,usr/sbin,lib/modules}
export CGO_ENABLED=0
go build -trimpath -ldflags '-s -w' -o "$tree/podd/bin/" ./cmd/podd ./cmd/podd-pause ./sandbox/testdata/euid
: >"$tree/podd/list"
while read -r pkg limit flags; do
  [ -n "$pkg" ] || continue
  [ -z "$only" ] || [ "$only" = "$pkg" ] || continue
  dir=$tree/podd/src/$pkg
  mkdir -p "$dir"
  go test -c -ldflags '-s -w' -o "$dir/package.test" "./$pkg"
  [ ! -d "$pkg/testdata" ] || cp -a "$pkg/testdata" "$dir/"
  [ -z "$run" ] || flags="-test.run=$run"
  echo "$pkg $limit $flags" >>"$tree/podd/list"
done <<<"$packages"
cp -a manifests "$tree/podd/src/"

# The machine's programs: busybox, and where tests compare with them, GNU's.
cp "$(command -v busybox)" "$tree/bin/busybox"
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -sf /bin/busybox "$tree/bin/$applet"
done
for program in bash tar stat dd cp find ps nft mkfs.{ext4,xfs,btrfs} ip{,6}tables-{nft,legacy}{,-restore,-save}; do
  path=$(command -v $program || ls /usr/sbin/$program 2>/dev/null) || continue
  rm -f "$tree/bin/$program"
  cp -L "$path" "$tree/bin/$program"
  ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$tree$(dirname "$lib")"
    cp -L "$lib" "$tree$lib"
  done
done
for plugins in /usr/lib/*/xtables; do # of iptables
  [ ! -d "$plugins" ] || { mkdir -p "$tree$plugins" && cp -L "$plugins"/* "$tree$plugins/"; }
done
ln -sf /bin/busybox "$tree/usr/sbin/modprobe"
mkdir -p "$tree/sbin" && ln -sf /bin/busybox "$tree/sbin/modprobe"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
printf '127.0.0.1 localhost vm\n' >"$tree/etc/hosts"
printf 'nameserver 192.0.2.53\n' >"$tree/etc/resolv.conf"
install -m 0755 vm/init "$tree/init"
modules=lib/modules/$version
from=$cache/kernel/$modules
[ -d "$from" ] || from=$cache/kernel/usr/$modules
mkdir -p "$tree/$modules"
for part in kernel/net kernel/lib kernel/crypto kernel/arch kernel/fs/overlayfs kernel/fs/xfs kernel/fs/btrfs kernel/drivers/block/loop.ko kernel/drivers/net/veth.ko kernel/drivers/net/dummy.ko \
  kernel/drivers/virtio kernel/drivers/block/virtio_blk.ko; do
  found=$(ls -d "$from/$part"*) || continue # perhaps .ko.xz
  mkdir -p "$tree/$modules/$(dirname $part)"
  cp -a $found "$tree/$modules/$(dirname $part)/"
done
cp "$from"/modules.{order,builtin,builtin.modinfo} "$tree/$modules/"
find "$tree/$modules" -name '*.ko.xz' -exec xz -d {} +
depmod -b "$tree" "$version"
(cd "$tree" && find . | cpio -o -H newc --quiet) | gzip -1 >"$cache/initramfs.gz"

rm -f "$cache/disk"
truncate -s 8G "$cache/disk"
mkfs.ext4 -q "$cache/disk"

echo "starting the machine"
log=$cache/console.log
: >"$log"
begin=$SECONDS
timeout 3000 qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 4096 -nographic -no-reboot \
  -drive "file=$cache/disk,format=raw,if=virtio,cache=unsafe" \
  -kernel "$kernel" -initrd "$cache/initramfs.gz" -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on" </dev/null 2>&1 |
  stdbuf -o0 tr -d '\r' | tee "$log" | sed -u -n \
    -e 's/^podd-vm output \(.*\)/    \1/p' \
    -e 's/^podd-vm kernel \(.*\)/Linux \1, cgroup v2/p' \
    -e 's/^podd-vm no-module \(.*\)/module \1 is missing/p' \
    -e 's/^podd-vm result \([^ ]*\) 0 \([0-9]*\) 0 \([0-9]*\)$/ok    \1: \2 passed in \3 s/p' \
    -e 's/^podd-vm result \([^ ]*\) \([0-9]*\) \([0-9]*\) \([0-9]*\) \([0-9]*\)$/done  \1: exit code \2, \3 passed, \4 skipped in \5 s/p' || true
echo "$((SECONDS - begin)) s"
if ! grep -q '^podd-vm end' "$log"; then
  tail -n 30 "$log" >&2
  echo "the machine did not come to its end; its console is in $log." >&2
  exit 1
fi
good=$(grep -c '^podd-vm result [^ ]* 0 [1-9][0-9]* 0 ' "$log" || true)
wanted=$(wc -l <"$tree/podd/list")
if [ "$wanted" = 0 ] || [ "$good" != "$wanted" ]; then
  echo "$good of $wanted packages passed without a skipped test." >&2
  exit 1
fi
