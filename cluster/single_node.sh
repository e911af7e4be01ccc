#!/usr/bin/env bash
# One machine: a Ray head of its own, then the run as a job of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=${1:-configs/single_node.yaml}
export RAY_AUTH_MODE=token
export RAY_ADDRESS=http://127.0.0.1:8265
export VIRGO_RAY_HOME=${VIRGO_RAY_HOME:-$PWD} VIRGO_RAY_DATA=${VIRGO_RAY_DATA:-$PWD/data}
source scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
ray get-auth-token --generate >/dev/null # ray start makes none
env -u RAY_ADDRESS ray status >/dev/null 2>&1 || env -u RAY_ADDRESS ray start --head
exec ray job submit --working-dir . -- python -m virgo_ray.run "$config" "${@:2}"
