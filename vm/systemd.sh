#!/usr/bin/env bash
# Installs the Debian package where Debian's systemd is PID 1, and does to the
# agent what users do: nothing of it may touch a pod.
# Usage: vm/systemd.sh CACHE [MACHINE]...
# A MACHINE is the name of a Debian suite and what it runs in: bookworm-container
# and trixie-container are namespaces, on this kernel and its control groups;
# bookworm-vm and trixie-vm are emulated machines with the suite's own cloud kernel
# and every controller on cgroup v2. By default all four, one after the other.
# The package is the one in bin, see make deb; the root file systems come from
# debootstrap and stay in CACHE, the kernels beside it, where make test-vm has them.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
shift
machines=("$@")
[ ${#machines[@]} -gt 0 ] || machines=({bookworm,trixie}-{container,vm})
mirror=${PODD_DEBIAN_MIRROR:-http://deb.debian.org/debian}
deb=$(ls -t bin/podd_*_amd64.deb | head -1)

# An image of busybox with every applet as a link.
image=$cache/image
rm -rf "$image"
mkdir -p "$image"/rootfs/{bin,etc,proc,sys,dev,tmp}
cp "$(command -v busybox)" "$image/rootfs/bin/busybox"
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -sf busybox "$image/rootfs/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$image/rootfs/etc/passwd"
tar -C "$image/rootfs" -cf "$image/layer.tar" .
echo '{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:'"$(sha256sum <"$image/layer.tar" | cut -d' ' -f1)"'"]}}' >"$image/config.json"
echo '[{"Config":"config.json","RepoTags":["demo:1"],"Layers":["layer.tar"]}]' >"$image/manifest.json"
tar -C "$image" -cf "$cache/demo.tar" manifest.json config.json layer.tar

# in_container runs the guest's script in namespaces of its own, under systemd.
in_container() { # ROOT
  local root=$1 group=/sys/fs/cgroup pid
  [ -e $group/cgroup.controllers ] || group=/sys/fs/cgroup/unified
  group=$group/podd-systemd-test
  mkdir -p $group
  mount --bind "$root" "$root"
  (
    echo $BASHPID >$group/cgroup.procs
    exec unshare --fork --pid --mount --uts --net --ipc --cgroup bash vm/systemd-container.sh "$root"
  ) </dev/null >"$cache/container.log" 2>&1 &
  local shell=$!
  for ((i = 0; i < 100; i++)); do
    # The namespaces' PID 1 is the only child of unshare, which took the shell's place.
    pid=$(cat /proc/$shell/task/$shell/children 2>/dev/null) && [ -n "$pid" ] &&
      nsenter -t $pid -a systemctl is-system-running --wait >/dev/null 2>&1 && break
    sleep 0.2
  done
  nsenter -t $pid -a bash /podd-test/systemd-guest.sh 2>&1 | tee "$log" | sed -u -n 's/^podd: //p' || true
  kill -9 $pid
  wait $shell 2>/dev/null || true
  umount -l "$root"
  for dir in $group /sys/fs/cgroup/*/podd.slice; do
    [ ! -d $dir ] || find $dir -depth -type d -exec rmdir {} \; 2>/dev/null || true
  done
}

# in_vm boots the root file system from a disk. The guest's script is started by a
# timer, as somebody who logs in would: it is no part of the boot.
in_vm() { # ROOT SUITE
  local root=$1 kernel
  cat >"$root/etc/systemd/system/podd-test.timer" <<'UNIT'
[Timer]
OnActiveSec=1s
AccuracySec=100ms
UNIT
  cat >"$root/etc/systemd/system/podd-test.service" <<'UNIT'
[Service]
ExecStart=/bin/bash /podd-test/systemd-guest.sh
ExecStopPost=/bin/systemctl poweroff --force --force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
UNIT
  mkdir -p "$root/etc/systemd/system/timers.target.wants"
  ln -s ../podd-test.timer "$root/etc/systemd/system/timers.target.wants/"
  ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"

  # The initramfs has the suite's modules: enough to find the disk.
  kernel=$(vm/kernel.sh "$(dirname "$cache")/vm" "$2" amd64)
  rm -rf "$cache/initramfs" && mkdir -p "$cache/initramfs/bin"
  cp "$(command -v busybox)" "$cache/initramfs/bin/busybox"
  cat >"$cache/initramfs/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /dev /new
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox modprobe -a virtio_pci virtio_blk
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox cp -a /lib/modules /new/usr/lib/
exec /bin/busybox switch_root /new /lib/systemd/systemd --show-status=0
INIT
  chmod +x "$cache/initramfs/init"
  (cd "$cache/initramfs" && find . | cpio -o -H newc --quiet) | cat - "$kernel/modules.cpio" >"$cache/initramfs.cpio"
  rm -f "$cache/disk" && truncate -s 3G "$cache/disk"
  mkfs.ext4 -q -d "$root" "$cache/disk"
  timeout 3600 qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 2048 -nographic -no-reboot -net none \
    -drive "file=$cache/disk,format=raw,if=virtio,cache=unsafe" \
    -kernel "$kernel/vmlinuz" -initrd "$cache/initramfs.cpio" \
    -append "console=ttyS0 no_timer_check loglevel=2 panic=-1 random.trust_cpu=on systemd.firstboot=off" </dev/null 2>&1 |
    stdbuf -o0 tr -d '\r' | tee "$log" | sed -u -n 's/^podd: //p' || true
  rm -rf "$cache"/{disk,initramfs,initramfs.cpio}
}

failed=0
for machine in "${machines[@]}"; do
  suite=${machine%-*}
  debian=$cache/$suite
  if [ ! -e "$debian.complete" ]; then
    echo "$suite: making a root file system with debootstrap"
    rm -rf --one-file-system "$debian"
    if ! debootstrap --variant=minbase --include=systemd-sysv,dbus,kmod,iproute2,procps,ca-certificates \
      "$suite" "$debian" "$mirror" >"$cache/$suite.log" 2>&1; then
      tail -5 "$cache/$suite.log" >&2
      echo "$suite cannot be fetched from $mirror" >&2
      exit 1
    fi
    touch "$debian.complete"
  fi
  log=$cache/$machine.transcript
  begin=$SECONDS
  echo "== $machine"
  root=$cache/root
  rm -rf --one-file-system "$root"
  cp -a "$debian" "$root"
  mkdir -p "$root/podd-test"
  cp "$deb" "$root/podd-test/podd.deb"
  cp "$cache/demo.tar" vm/systemd-guest.sh "$root/podd-test/"
  case $machine in
  *-container) in_container "$root" ;;
  *-vm) in_vm "$root" "$suite" ;;
  *) echo "$machine is no MACHINE that vm/systemd.sh makes" >&2 && exit 1 ;;
  esac
  rm -rf --one-file-system "$root"
  echo "$machine: $((SECONDS - begin)) s"
  if ! grep -q '^podd: all is well' "$log"; then
    echo "$machine failed; what it said is in $log" >&2
    failed=1
  fi
done
exit $failed
