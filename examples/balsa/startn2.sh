#!/usr/bin/env bash
# Starts node n2 with an empty volume. With KEEP=1 it keeps the volume: the node is what it was before.
# Set BALSA to the program if it is neither ./balsa nor on the PATH as quorate.
set -euo pipefail
export HTTP_SERVER_PORT=${HTTP_SERVER_PORT:-8001}
export RAFT_SERVER_PORT=${RAFT_SERVER_PORT:-9001}
export RAFT_NODE_ID="n2"
export RAFT_VOLUME_DIR=${RAFT_VOLUME_DIR:-/tmp/node2}
echo "Starting node2"
if [ -z "${KEEP:-}" ]; then
  echo "Cleaning the raft volumes."
  rm -rf "$RAFT_VOLUME_DIR"
fi
mkdir -p "$RAFT_VOLUME_DIR"
if [ -n "${BALSA:-}" ]; then exec "$BALSA" balsa; fi
if [ -x ./balsa ]; then exec ./balsa; fi
exec quorate balsa
