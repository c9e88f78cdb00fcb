#!/bin/bash
# PID 1 of the container that vm/systemd.sh makes, until it becomes systemd.
# Usage: vm/systemd-container.sh ROOT
set -e
cd "$1"
mount --make-rslave /
v1=$(awk '$3 == "cgroup" {print $4}' /proc/mounts | tr , '\n' | grep -E '^(cpu|cpuacct|memory|devices|pids)$' | sort -u)
combined=$(awk '$3 == "cgroup" && $4 ~ /cpu,cpuacct/' /proc/mounts)
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
i=3
for device in null zero full random urandom; do
  case $device in null) i=3 ;; zero) i=5 ;; full) i=7 ;; random) i=8 ;; urandom) i=9 ;; esac
  mknod -m 666 dev/$device c 1 $i
done
mknod -m 666 dev/tty c 5 0
mount -t cgroup2 cgroup2 sys/fs/cgroup
# Where this kernel's controllers are on v1, podd finds them beside systemd's v2.
for c in $v1; do
  [ -z "$combined" ] || case $c in cpu) c=cpu,cpuacct ;; cpuacct) continue ;; esac
  mkdir -p cg/$c
  mount -t cgroup -o $c cgroup cg/$c
done
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i container=podd-test PATH=/usr/bin:/bin:/usr/sbin:/sbin /lib/systemd/systemd --show-status=0 systemd.unified_cgroup_hierarchy=1
