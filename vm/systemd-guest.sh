#!/bin/bash
# Runs as root inside the container or machine that vm/systemd.sh starts, once it
# is up.
# Lines that begin with "podd: " are the transcript; the last one says how it went.
cd /podd-test
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf 'podd: %s\n' "$*"; }
fail() {
  say "FAILED: $*"
  {
    systemctl list-jobs --no-pager
    systemctl status podd.service podd-pods.service --no-pager -l -n 0
  } 2>&1 | sed 's/^/podd:   /'
  journalctl -u podd.service --no-pager -n 15 2>&1 | sed 's/^/podd:   /'
  podd get 2>&1 | sed 's/^/podd:   /'
  exit 1
}
# eventually SECONDS WHAT COMMAND...
eventually() {
  local limit=$1 what=$2 end=$((SECONDS + 10 * $1)) # the limit is of a machine that has nothing else to do
  shift 2
  while [ $SECONDS -lt $end ]; do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  fail "never happened within $limit s: $what"
}
# No call waits for ever: what hangs is what we look for.
systemctl() { timeout 150 systemctl "$@"; }
property() { systemctl show -P "$1" "${2:-podd.service}"; }
# processes lists what lives in the pods' control groups, each as pid:start time.
processes() {
  for g in $(find "$groups/podd.slice/podd-pods.service" -name cgroup.procs 2>/dev/null); do
    for pid in $(cat "$g"); do
      # A probe is over in a moment; what is asked about is what stays.
      [ "$(cat /proc/$pid/comm 2>/dev/null)" = true ] || echo "$pid:$(cut -d' ' -f22 /proc/$pid/stat 2>/dev/null)"
    done
  done | grep -v ':$' | sort
}
settled() { # what stays of two looks, so that probes do not count
  local a b
  a=$(processes)
  sleep 0.3
  b=$(processes)
  comm -12 <(echo "$a") <(echo "$b") | tr '\n' ' '
}
# limits lists what podd set in the pods' control groups; those of execs come and go.
limits() {
  find "$groups/podd.slice/podd-pods.service" -maxdepth 4 -not -path '*/podd-exec-*' \
    \( -name cgroup.subtree_control -o -name cpu.max -o -name memory.max -o -name pids.max \) -exec grep -H . {} + 2>/dev/null | sort
}
attempts() { podd exec web -c app -- sh -c 'wc -l </tmp/probed' 2>/dev/null; }
agent() { property MainPID; }
ready() { [ "$(podd get web 2>/dev/null | awk '$1 == "web" {print $2, $3, $4}')" = "2/2 Running 0" ]; }
active() { [ "$(property ActiveState)/$(property SubState)" = active/running ]; }
other_agent() { active && [ "$(agent)" != "$1" ] && [ "$(agent)" != 0 ]; }
# same WHAT: the pods are those of before, as limited, ready, not restarted, and probed.
same() {
  eventually 60 "$1: pod ready" ready
  local now count
  now=$(settled)
  [ "$now" = "$before" ] || fail "$1: processes were $before, are $now"
  now=$(limits)
  [ "$now" = "$limited" ] || fail "$1: limits changed: $(diff <(echo "$limited") <(echo "$now"))"
  count=$(attempts)
  eventually 30 "$1: probes go on after $count" probed_more "$count"
  say "$(printf '%-34s agent %-6s pods unchanged, probed on' "$1" "$(agent)")"
}
probed_more() { [ "$(attempts)" -gt "$1" ]; }

systemctl is-system-running --wait >/dev/null 2>&1
echo # after what the console begins with
groups=/sys/fs/cgroup
[ -e $groups/cgroup.controllers ] || groups=/sys/fs/cgroup/unified
controllers=$(cat $groups/cgroup.controllers)
say "Linux $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \([^ ]*\).*/\1/p'), cgroups: $([ $groups = /sys/fs/cgroup ] && echo "v2 with ${controllers:-no controllers}" || echo v1, hybrid)"

# Installing starts nothing.
dpkg -i podd.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -i"; }
say "dpkg -i: $(tail -1 /tmp/dpkg.log)"
[ "$(systemctl is-enabled podd.service)/$(systemctl is-active podd.service)" = disabled/inactive ] || fail "the package started or enabled something"
[ -z "$(ls /sys/class/net | grep podd)" ] || fail "the package made a bridge"

cat >/etc/podd/manifests/web.yaml <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: app
    image: demo:1
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {exec: {command: [sh, -c, "echo >>/tmp/probed"]}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {exec: {command: [test, -e, /tmp/probed]}, periodSeconds: 1, timeoutSeconds: 20, initialDelaySeconds: 10}
  - name: side
    image: demo:1
    imagePullPolicy: Never
    command: [sleep, "100000"]
YAML
timeout 100 podd image load demo.tar >/tmp/load.log 2>&1 || { tail -c 500 /tmp/load.log; fail "podd image load"; }
systemctl enable --now podd.service 2>/dev/null || fail "systemctl enable --now podd"
active || fail "started and not active"
eventually 60 "the pod is ready" ready
eventually 20 "STATUS" sh -c "systemctl show -P StatusText podd.service | grep -q '1 of 1 pods ready'"
before=$(settled)
[ "$(wc -w <<<"$before")" -ge 3 ] || fail "processes: $before"
limited=$(limits)
if [[ $controllers = *memory* ]]; then
  for want in memory.max:67108864 "cpu.max:50000 100000"; do
    grep -q "/burstable/pod.*/.*/$want" <<<"$limited" || fail "no container has $want: $limited"
  done
fi
for p in $before; do
  pid=${p%:*}
  say "$(printf '  pid %-6s %-12s %s' "$pid" "$(cat /proc/$pid/comm)" "$(sed -n "s|^0::||p" /proc/$pid/cgroup | sed 's|\(pod[0-9a-f]\{8\}\)[-0-9a-f]*|\1|; s|\([0-9a-f]\{8\}\)[0-9a-f]\{56\}|\1|')")"
  grep -q '^0::/podd.slice/podd-pods.service/' /proc/$pid/cgroup || fail "pid $pid is in $(cat /proc/$pid/cgroup)"
done
grep -q '^0::/system.slice/podd.service$' /proc/$(agent)/cgroup || fail "the agent is in $(cat /proc/$(agent)/cgroup)"
[ "$(property Delegate podd-pods.service)" = yes ] || fail "not delegated"
for file in $(find /sys/fs/cgroup -path '*podd.slice*' -name pids.max -not -path '*/pod*/*' 2>/dev/null); do
  [ "$(cat $file)" = max ] || fail "$file is $(cat $file)"
done
same "started, ready"

old=$(agent)
systemctl restart podd.service || fail "restart"
[ "$(agent)" != "$old" ] || fail "restart: the agent is the same"
same "systemctl restart podd"

old=$(agent)
kill -9 "$old"
eventually 60 "systemd starts the killed agent again" other_agent "$old"
same "kill -9"

systemctl stop podd.service || fail "stop"
[ "$(property ActiveState)" = inactive ] || fail "stopped and $(property ActiveState)"
[ "$(settled)" = "$before" ] || fail "stop: processes were $before, are $(settled)"
say "systemctl stop podd                agent -      pods unchanged"
systemctl daemon-reload
systemctl start podd.service || fail "start"
same "systemctl start podd"

systemctl daemon-reload || fail "daemon-reload"
same "systemctl daemon-reload"
systemctl daemon-reexec || fail "daemon-reexec"
same "systemctl daemon-reexec"
old=$(agent)
systemctl restart podd.service || fail "restart after reexec"
same "systemctl restart podd, again"

old=$(agent)
systemctl reload podd.service || fail "reload"
[ "$(agent)" = "$old" ] || fail "reload: another agent"
same "systemctl reload podd"

systemctl set-property --runtime podd.slice MemoryMax=1500M || fail "set-property"
same "set-property podd.slice MemoryMax="
systemctl restart podd-pods.service 2>/dev/null && fail "podd-pods.service was restarted by hand"

# A hung agent: systemd aborts it, and its goroutines are in the journal.
old=$(agent)
kill -STOP "$old"
eventually 120 "the watchdog ends the hung agent" other_agent "$old"
journalctl -u podd.service --no-pager | grep -qE 'Watchdog timeout|SIGABRT' || fail "no watchdog timeout in the journal"
same "kill -STOP: watchdog"

# A container that runs out of memory is the container's affair.
old=$(agent)
cat >/etc/podd/manifests/hog.yaml <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: hog
    image: demo:1
    imagePullPolicy: Never
    command: [sh, -c, "tail -c 100000000 /dev/zero"]
    resources: {limits: {memory: 16Mi}}
YAML
eventually 60 "OOMKilled" sh -c "podd get hog | grep -q OOMKilled"
[ "$(agent)" = "$old" ] && active || fail "the agent's unit suffered from the container's OOM"
rm /etc/podd/manifests/hog.yaml
eventually 30 "the hog is gone" sh -c "! podd get hog 2>/dev/null | grep -q ^hog"
same "OOM of a container"

# The package: installed again as an update, removed, purged.
old=$(agent)
dpkg -i podd.deb >/dev/null 2>&1 || fail "update"
other_agent "$old" || fail "the update did not start the agent again"
same "dpkg -i, an update"
dpkg -r podd >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -r"; }
[ ! -e /usr/bin/podd ] || fail "the program is still there"
systemctl daemon-reload
sleep 2
[ "$(settled)" = "$before" ] || fail "dpkg -r: processes were $before, are $(settled)"
say "dpkg -r                            agent -      pods unchanged"
dpkg -i podd.deb >/dev/null 2>&1 && systemctl enable --now podd.service 2>/dev/null || fail "installed again"
same "dpkg -i, installed again"
dpkg -r podd >/dev/null 2>&1 || fail "dpkg -r"
dpkg -P podd >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -P"; }
left=$(settled)
[ -z "${left// /}" ] || fail "after the purge there are $left"
for dir in /var/lib/podd /run/podd $groups/podd.slice /etc/systemd/system/multi-user.target.wants/podd.service; do
  [ ! -e $dir ] || fail "after the purge there is $dir: $(ls -A $dir) $(cat /run/podd/purge.log 2>/dev/null | tail -5)"
done
[ -e /etc/podd/manifests/web.yaml ] || fail "the manifest is gone"
say "dpkg -P                            agent -      pods ended, data gone, manifests kept"
say "all is well"
