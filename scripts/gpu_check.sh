#!/usr/bin/env bash
# scripts/gpu_check.sh [NUM_GPUS] [NAME ...]: run the rows of docs/gpu-checks.md that fit this node's
# GPUs (or only those named) and write what came out into the table. Sets up .venv on first use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
    -h | --help) sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" && exit 0 ;;
    '' | *[!0-9]*) num_gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true) ;;
    *) num_gpus=$1 && shift ;;
esac
if [ "$num_gpus" -eq 0 ]; then
    echo "gpu_check.sh: no GPU was found (nvidia-smi -L) and none was asked for; expected at least 1" >&2
    exit 2
fi
(set -- --gpu && source scripts/setup.sh)
exec .venv/bin/python scripts/gpu/node_check.py "$num_gpus" "$@"
