#!/usr/bin/env bash
# Installs the Debian package where Debian's systemd is PID 1, and does to the
# agent what users do: nothing of it may touch a pod.
# Usage: vm/systemd.sh CACHE [bookworm|trixie]...
# Each is a container of namespaces, on this kernel and its control groups. The
# package is the one in bin, see make deb; the root file systems come from
# debootstrap and stay in CACHE.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
shift
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)
mirror=${PODD_DEBIAN_MIRROR:-http://deb.debian.org/debian}
deb=$(ls bin/podd_*_amd64.deb | tail -1)

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

failed=0
for suite in "${suites[@]}"; do
  root=$cache/$suite
  if [ ! -e "$root.complete" ]; then
    echo "$suite: making a root file system with debootstrap"
    rm -rf --one-file-system "$root"
    if ! debootstrap --variant=minbase --include=systemd-sysv,dbus,iproute2,procps,ca-certificates \
      "$suite" "$root" "$mirror" >"$cache/$suite.log" 2>&1; then
      tail -5 "$cache/$suite.log" >&2
      echo "$suite cannot be fetched from $mirror" >&2
      exit 1
    fi
    touch "$root.complete"
  fi
  log=$cache/$suite.transcript
  begin=$SECONDS
  echo "== $suite"
  container=$cache/container
  rm -rf --one-file-system "$container"
  cp -a "$root" "$container"
  mkdir -p "$container/podd-test"
  cp "$deb" "$container/podd-test/podd.deb"
  cp "$cache/demo.tar" vm/systemd-guest.sh "$container/podd-test/"
  in_container "$container"
  rm -rf --one-file-system "$container"
  echo "$suite: $((SECONDS - begin)) s"
  if ! grep -q '^podd: all is well' "$log"; then
    echo "$suite failed; what it said is in $log" >&2
    failed=1
  fi
done
exit $failed
