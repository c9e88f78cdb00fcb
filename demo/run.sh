#!/usr/bin/env bash
# The demo: starts an agent on manifests/, waits until the pod is ready, says
# what to try, and on Ctrl-C stops the pods and the agent. Everything it makes
# lies in directories of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
root=/var/lib/podd-demo run=/run/podd-demo logs=/var/log/pods-demo
port=${PODD_DEMO_PORT:-10255}
api_port=${PODD_DEMO_API_PORT:-16443}
podd() { bin/podd --run-dir "$run" --root-dir "$root" "$@"; }
say() { printf '%s\n' "$*"; }

if [ -S "$run/podd.sock" ] && podd version --agent >/dev/null 2>&1; then
  say "A demo is running already: stop it with Ctrl-C where it was started." >&2
  exit 1
fi
mkdir -p "$root" "$run" "$logs"
say "loading images"
for archive in httpd filebeat; do
  # Loading again is quick, but the mark saves it where nothing changed.
  mark=$root/.loaded-$archive
  if [ ! -e "$mark" ] || [ ".cache/demo/$archive.tar" -nt "$mark" ]; then
    podd image load ".cache/demo/$archive.tar"
    touch "$mark"
  fi
done

run_agent() { # A FILE OR DIRECTORY OF MANIFESTS
  exec bin/podd run --manifests "$1" --root-dir "$root" --run-dir "$run" --pod-logs-dir "$logs" \
    --read-only-port "$port" --api-port "$api_port" --kubelet-port 0 --cgroup-root podd-demo --bridge podd-demo0 --pod-cidr 10.244.77.0/24 2>>"$run/agent.log"
}

# finish ends the pods by taking their files away: an agent with nothing to run
# removes what it finds. Images stay, for the next time.
finish() {
  trap - INT TERM EXIT
  say ""
  say "stopping the pods"
  kill "$agent" 2>/dev/null || true
  wait "$agent" 2>/dev/null || true
  mkdir -p "$run/no-manifests"
  run_agent "$run/no-manifests" &
  agent=$!
  for ((i = 0; i < 300; i++)); do
    if podd get 2>/dev/null | grep -q 'No resources found'; then break; fi
    sleep 0.1
  done
  kill "$agent" 2>/dev/null || true
  wait "$agent" 2>/dev/null || true
  ip link del podd-demo0 2>/dev/null || true
}
: >"$run/agent.log"
run_agent manifests/web.yaml &
agent=$!
trap 'finish; exit 0' INT TERM
trap finish EXIT

say "waiting for the pod to be ready"
ready=
for ((i = 0; i < 300; i++)); do
  kill -0 "$agent" 2>/dev/null || { say "The agent stopped:" >&2; tail -5 "$run/agent.log" >&2; exit 1; }
  if podd get web 2>/dev/null | awk '$1 == "web" && $2 == "2/2" && $3 == "Running" {ok = 1} END {exit !ok}'; then ready=1; break; fi
  [ $((i % 20)) != 19 ] || podd get web 2>/dev/null | tail -1 || true
  sleep 0.1
done
[ -n "$ready" ] || { say "The pod did not become ready:" >&2; podd describe web >&2 || tail -20 "$run/agent.log" >&2; exit 1; }

curl() { command -v curl >/dev/null && command curl -fsS "$@"; }
if curl http://127.0.0.1:8080/index.html >/dev/null; then say "asked http://127.0.0.1:8080/ once"; fi
say ""
podd get -o wide
say ""
cmd="${SUDO_USER:+sudo }bin/podd --run-dir $run"
cat <<EOT
The pod is up: httpd writes its log through rotatelogs into a tmpfs, Filebeat
ships each line as JSON. In another terminal, in this directory:

  curl http://127.0.0.1:8080/                        a page
  $cmd logs -f web -c filebeat    that request's line, as Filebeat ships it
  $cmd get -w                     READY, STATUS and RESTARTS as they change
  $cmd describe web               state, probes and events
  $cmd exec web -- mv htdocs/index.html /tmp/      readiness fails: 1/2, no restart
  $cmd exec web -- mv /tmp/index.html htdocs/      ready again
  $cmd exec web -- touch /tmp/sick                 liveness fails: httpd restarts
  curl http://127.0.0.1:$port/metrics/state           Prometheus metrics (also /metrics, /metrics/probes, /metrics/cadvisor)
  kubectl --kubeconfig $root/kubeconfig get pods -A     the same with kubectl, if there is one here
  curl http://127.0.0.1:$port/pods                    the pods with their status, as a kubelet says it
  kill -9 $agent                                     the agent dies and is started again; the pod does not notice

Edit manifests/web.yaml and save: the change is applied at once.
Ctrl-C stops the pods and the agent.
EOT
if [ -n "${PODD_DEMO_ONCE:-}" ]; then exit 0; fi
# An agent that dies is started again, as systemd would.
while :; do
  began=$SECONDS
  wait "$agent" 2>/dev/null || true
  if [ $((SECONDS - began)) -lt 2 ]; then
    say "The agent ends as soon as it starts:" >&2
    tail -5 "$run/agent.log" >&2
    exit 1
  fi
  say "The agent ended; its pods go on. Starting it again."
  run_agent manifests/web.yaml &
  agent=$!
done
