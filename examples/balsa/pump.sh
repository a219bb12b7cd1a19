#!/usr/bin/env bash
# Sets keys 1 to COUNT (default 1000), one curl request each, to the first of NODES that answers. A key whose set was
# not acknowledged is set again, at the next node; one that was acknowledged is written down in ACKNOWLEDGED, if given.
set -euo pipefail
count=${COUNT:-1000}
read -r -a nodes <<<"${NODES:-localhost:8000 localhost:8001 localhost:8002}"
at=0
tries=0
for ((i = 1; i <= count; i++)); do
  until curl -s -f -o /dev/null --max-time 15 -X GET "http://${nodes[at]}/set?key=$i&value=$i"; do
    tries=$((tries + 1))
    at=$(((at + 1) % ${#nodes[@]}))
    # Nobody answered in a whole round: an election takes a moment.
    if [ "$at" -eq 0 ]; then sleep 0.5; fi
  done
  if [ -n "${ACKNOWLEDGED:-}" ]; then echo "$i" >>"$ACKNOWLEDGED"; fi
done
echo "Loop exited: $count keys set, $tries tries failed"
