#!/usr/bin/env bash
# Runs the tests on the real kernel in virtual machines with Debian's cloud
# kernels, cgroup v2 and a shared root mount, under software emulation.
# Usage: [KERNELS=SUITES] [ARCH=ARCH] vm/test.sh CACHE [PACKAGE [TEST-REGEXP]]
#   KERNELS  Debian suites whose kernels to run, one after the other: bookworm
#            (6.1, the default), trixie (6.12), trixie-backports, ...
#   ARCH     amd64, the default, or arm64: a smoke test of that machine's programs
# The tests are compiled with the build tag vm: what needs something that only
# these machines have, such as every capability or an LSM, belongs into a file with
#   //go:build linux && vm
# Nothing may be skipped: a skipped test fails the run. The tests of nfs volumes are
# compiled where an NFS server's programs are: installing them here would start one.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
only=${2:-}
run=${3:-}
arch=${ARCH:-amd64}
here=$(dpkg --print-architecture)
kernels=${KERNELS:-bookworm}
# Machine, package, seconds it may take on a busy host, flags. The two machines run
# at once and have one processor each. What is left out needs cgroup v1, which the
# other tests run on, a Go toolchain, or the speed of a real machine.
packages='
1 doctor 300
1 sandbox/cgroup 600
1 sandbox/stage 300
1 sandbox/pause 300
1 sandbox/network 900
2 sandbox 900 -test.skip=TestCgroupV1|TestTheSmallestLimits|TestHogAndForkBomb|TestPauseProgramIsSmallAndImports|TestThousandExecs|TestASandboxEndsInAStorm
2 volumes 600
2 images 1200 -test.short
2 pod/native 600
1 e2e 1800 -test.short -test.run=TestScripts/^[a-i]|TestDirectories|TestHostWith|TestTooFew|TestMountsOn|TestAgentIn|TestTimedOut
2 e2e 1800 -test.short -test.run=TestScripts/^[j-z]
'
if [ "$arch" = arm64 ]; then
  packages='
1 sandbox/stage 300
1 sandbox 600 -test.run=TestExecOutput|TestContainerRuns|TestExitBySignal|TestCommandsThat|TestExecTimeout|TestSeccomp|TestCapabilities
1 e2e 900 -test.short -test.run=TestScripts/^one-pod$
'
fi

echo "building the tests for $arch"
tree=$cache/tree   # the root file system
tests=$cache/tests # /podd, on a disk of its own
rm -rf "$tree" "$tests"
mkdir -p "$tree"/{bin,sbin,etc,podd,usr/bin,usr/sbin,lib/modules} "$tests"/{bin,src}
export CGO_ENABLED=0
tags=vm
nfs=(sbin/mount.nfs sbin/exportfs sbin/rpc.nfsd sbin/rpc.mountd)
if [ "$arch" = "$here" ] && (cd /usr && ls "${nfs[@]}") >/dev/null 2>&1; then
  tags=vm,nfs
else
  nfs=()
  echo "nfs volumes are not tested: nfs-kernel-server is not installed here"
fi
GOARCH=$arch go build -trimpath -ldflags '-s -w' -o "$tests/bin/" ./cmd/podd ./cmd/podd-pause ./sandbox/testdata/euid
while read -r machine pkg limit flags; do
  [ -n "$pkg" ] || continue
  [ -z "$only" ] || [ "$only" = "$pkg" ] || continue
  [ -z "$only" ] || machine=1
  if [ -n "$run" ]; then # once, however the package is divided
    flags="-test.run=$run"
    ! grep -qs "^$pkg " "$tests/list.1" || continue
  fi
  echo "$pkg $limit $flags" >>"$tests/list.$machine"
  dir=$tests/src/$pkg
  [ ! -e "$dir/package.test" ] || continue
  mkdir -p "$dir"
  GOARCH=$arch go test -c -tags $tags -ldflags '-s -w' -o "$dir/package.test" "./$pkg"
  [ ! -d "$pkg/testdata" ] || cp -a "$pkg/testdata" "$dir/"
done <<<"$packages"
machines=$(ls "$tests" | sed -n 's/^list\.//p')
[ -n "$machines" ] || { echo "vm/test.sh does not run the package $only." >&2; exit 1; }
wanted=$(cat "$tests"/list.* | wc -l)
cp -a manifests "$tests/src/"

# libraries copies what a program is linked with.
libraries() {
  ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$tree$(dirname "$lib")"
    cp -L "$lib" "$tree$lib"
  done
}

# The machine's programs: busybox, and where tests compare with them, GNU's.
programs() {
  cp "$busybox" "$tree/bin/busybox"
  for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -sf /bin/busybox "$tree/bin/$applet"
  done
  ln -sf /bin/busybox "$tree/sbin/modprobe"
  ln -sf /bin/busybox "$tree/usr/sbin/modprobe"
  [ "$arch" = "$here" ] || return 0
  for program in bash tar stat dd cp find ps nft mkfs.{ext4,xfs,btrfs} ip{,6}tables-{nft,legacy}{,-restore,-save}; do
    path=$(command -v $program || ls /usr/sbin/$program 2>/dev/null) || continue
    rm -f "$tree/bin/$program"
    cp -L "$path" "$tree/bin/$program"
    libraries "$path"
  done
  for program in "${nfs[@]}"; do
    cp -L "/usr/$program" "$tree/$program"
    libraries "/usr/$program"
  done
  for plugins in /usr/lib/*/xtables; do # of iptables
    [ ! -d "$plugins" ] || { mkdir -p "$tree$plugins" && cp -L "$plugins"/* "$tree$plugins/"; }
  done
}
busybox=$(command -v busybox)
[ "$arch" = "$here" ] || busybox=$(vm/kernel.sh "$cache" "${kernels%% *}" "$arch")/busybox
programs
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
printf '127.0.0.1 localhost vm\n' >"$tree/etc/hosts"
printf 'nameserver 192.0.2.53\n' >"$tree/etc/resolv.conf"
printf 'icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n' >"$tree/etc/protocols" # nft's words
install -m 0755 vm/init "$tree/init"
(cd "$tree" && find . | cpio -o -H newc --quiet) >"$cache/root.cpio"

disk() { rm -f "$1" && truncate -s "$2" "$1" && mkfs.ext4 -q "${@:3}" "$1"; }
disk "$cache/tests.disk" 2G -O ^has_journal -d "$tests"

# machine runs list.$1 on the kernel in $2 and tells what comes of it.
machine() {
  local log=$cache/console.$1 cpus=1 qemu=() tty
  [ "$machines" != 1 ] || cpus=2
  disk "$cache/disk.$1" 8G
  case $arch in
  amd64) qemu=(qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64) tty="ttyS0 no_timer_check" ;; # on a busy machine its timer seems to fail
  arm64) qemu=(qemu-system-aarch64 -accel tcg,thread=multi -machine virt -cpu cortex-a57) tty=ttyAMA0 ;;
  esac
  : >"$log"
  timeout 3600 "${qemu[@]}" -smp $cpus -m 4096 -nographic -no-reboot -net none \
    -drive "file=$cache/disk.$1,format=raw,if=virtio,cache=unsafe" \
    -drive "file=$cache/tests.disk,format=raw,if=virtio,readonly=on" \
    -kernel "$2/vmlinuz" -initrd "$cache/initramfs" \
    -append "console=$tty quiet panic=-1 random.trust_cpu=on podd.list=$1" </dev/null 2>&1 |
    stdbuf -o0 tr -d '\r' | tee "$log" | sed -u -n \
    -e 's/^podd-vm output \(.*\)/    \1/p' \
    -e 's/^podd-vm no-module \(.*\)/module \1 is missing/p' \
    -e 's/^podd-vm result \([^ ]*\) 0 \([0-9]*\) 0 \([0-9]*\)$/ok    \1: \2 passed in \3 s/p' \
    -e 's/^podd-vm result \([^ ]*\) \([0-9]*\) \([0-9]*\) \([0-9]*\) \([0-9]*\)$/done  \1: exit code \2, \3 passed, \4 skipped in \5 s/p' || true
  grep -q '^podd-vm end' "$log" || {
    tail -n 30 "$log" >&2
    echo "the machine did not come to its end; its console is in $log." >&2
  }
}

failed=
for suite in $kernels; do
  kernel=$(vm/kernel.sh "$cache" "$suite" "$arch")
  cat "$cache/root.cpio" "$kernel/modules.cpio" >"$cache/initramfs"
  echo "Linux $(cat "$kernel/version") of Debian $suite, cgroup v2"
  begin=$SECONDS
  for m in $machines; do machine "$m" "$kernel" & done
  wait
  for m in $machines; do cat "$cache/console.$m"; done | awk -v wanted="$wanted" -v seconds=$((SECONDS - begin)) '
    /^podd-vm result / { tests += $5; good += $4 == 0 && $5 > 0 && $6 == 0 }
    END {
      printf "%d of %d packages passed without a skipped test: %d tests in %d s\n", good, wanted, tests, seconds
      exit good != wanted
    }' || failed="$failed $suite"
done
rm -f "$cache"/disk.* "$cache/initramfs"
[ -z "$failed" ] || { echo "failed on the kernel of:$failed" >&2; exit 1; }
