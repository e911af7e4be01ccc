#!/usr/bin/env bash
# scripts/gpu/check_whole.sh unpack PIECES | smoke | run NAME SECONDS [KEY=VALUE ...] | pack OUT
# The whole system (engines, Ray, trainer) on one GPU of a node without network that has torch 2.11,
# from the pieces of bundle_whole.py and an installed bundle of bundle.sh. `smoke` imports everything
# and names what is missing, `run` is configs/tiny.yaml with one engine and one trainer on the card.
set -euo pipefail
usage() { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
work=${WHOLE_WORK:-/tmp/whole}
export PYTHONPATH=$work/site:$PWD HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 PYTHONUNBUFFERED=1
one=(rollout.gpu_memory_utilization=0.3 rollout.gpus_per_worker=1 rollout.num_workers=1
    train.gpus_per_worker=1 train.num_workers=1 wandb.mode=disabled)

unpack() { # each archive in a process of its own
    mkdir -p "$work/site"
    local number jobs=()
    for number in $(cd "$1" && printf '%s\n' part*.* | sed 's/\..*//' | sort -u); do
        cat "$1/$number".* | tar xJ -C "$work/site" &
        jobs+=($!)
    done
    local job
    for job in "${jobs[@]}"; do wait "$job"; done
}

smoke() {
    python3 - <<'PYTHON'
import datasets, deepspeed, lance, math_verify, omegaconf, openai, pint, ray, transformers, vllm
import vllm._custom_ops, vllm.device_allocator.cumem, vllm.v1.worker.gpu_worker
import vllm.model_executor.models.qwen2_5_vl, vllm.v1.attention.backends.flash_attn
import ray.dashboard.agent, ray.dashboard.dashboard
import virgo_ray.actors.cluster, virgo_ray.rollout.engine, virgo_ray.run
from vllm.platforms import current_platform

for module in (vllm, ray, transformers, deepspeed, lance):
    print(module.__name__, module.__version__)
print(current_platform.get_device_name(), current_platform.get_device_capability())
PYTHON
}

run() { # its exit code is the run's
    local name=$1 limit=$2 code=0 began=$SECONDS
    shift 2
    timeout -s INT -k 15 "$limit" python3 -m virgo_ray.run configs/tiny.yaml "${one[@]}" \
        run_dir="$work/runs/$name" "$@" >"$work/$name.log" 2>&1 || code=$?
    echo "== $name: exit code $code after $((SECONDS - began)) s"
    tail -n 25 "$work/$name.log" | cut -c1-300
    nvidia-smi --query-gpu=memory.used --format=csv,noheader
    return "$code"
}

pack() { # logs, metrics and configs of all runs
    local kept=(-name '*.log' -o -name '*.jsonl' -o -name '*.json' -o -name '*.yaml' -o -name '*.journal')
    (cd "$work" && find . -path ./site -prune -o -type f \( "${kept[@]}" \) -print0 |
        tar cz --null --files-from - -f "$1/whole.tgz")
}

[ $# -ge 1 ] || usage
case $1 in
    unpack | pack) [ $# -eq 2 ] || usage ;;
    smoke) [ $# -eq 1 ] || usage ;;
    run) [ $# -ge 3 ] || usage ;;
    *) usage ;;
esac
"$@"
