#!/usr/bin/env bash
# Builds what the demo runs: Filebeat from its pinned module, and the images.
# Does nothing where that was done before.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
mkdir -p "$out"
if [ ! -x "$out/filebeat" ]; then
  echo "building Filebeat (about 2 minutes, once)"
  (cd demo/filebeat && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "../../$out/filebeat.tmp" .) &
  build=$!
  seconds=0
  while kill -0 "$build" 2>/dev/null; do
    sleep 1
    seconds=$((seconds + 1))
    [ $((seconds % 10)) != 0 ] || echo "  still building Filebeat (${seconds} s)"
  done
  wait "$build" || { echo "Filebeat could not be built: see the lines above; the Go module proxy must be reachable." >&2; exit 1; }
  mv "$out/filebeat.tmp" "$out/filebeat"
fi
go run ./demo/images -out "$out" -filebeat "$out/filebeat"
