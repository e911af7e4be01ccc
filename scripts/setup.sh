#!/usr/bin/env bash
# Makes .venv ready, once: sourced by run.sh and test.sh, quick when there is nothing to do.
# Takes `--cpu` or `--gpu` from the front of the arguments; otherwise a GPU is used if one is found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "set-up failed: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 with venv found. Install one (Debian: apt-get install python3 python3-venv python3-dev), or name it: PYTHON=/path/to/python3.12 $0"
}

choose_kind() {
    case "${1:-}" in
        --cpu) echo cpu ;;
        --gpu) echo gpu ;;
        *) if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then echo gpu; else echo cpu; fi ;;
    esac
}

# PyTorch's own index carries CPU wheels of torch and torchvision that fit each other.
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

install_torch_cpu() {
    if .venv/bin/python -c "import urllib.request as u; u.urlopen('$TORCH_CPU_INDEX/torchvision/', timeout=5)" 2>/dev/null; then
        .venv/bin/pip install --quiet --index-url "$TORCH_CPU_INDEX" torch==2.13.0 torchvision==0.28.0
    else
        .venv/bin/pip install --quiet torch==2.13.0
    fi
}

install() {
    local kind=$1 python
    python=$(find_python)
    echo "setting up .venv for $kind with $("$python" --version) (about 5 minutes, once)" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv || fail "$python -m venv .venv did not work; on Debian: apt-get install python3-venv"
    [ "$kind" = gpu ] || install_torch_cpu || fail "torch 2.13.0 could not be installed; is the package index reachable (pip config list)?"
    .venv/bin/pip install --quiet -e ".[$kind,easyvqa,test]" -c "constraints/$kind.txt" ||
        fail "pip could not install the pinned packages; see its message above, then run the same command again. With no room left: 8 GB are needed for cpu, 20 GB for gpu."
    .venv/bin/python -m virgo_ray.node.setup >.venv/setup.log 2>&1 ||
        fail "the packages do not load together; see .venv/setup.log, or remove .venv and try again"
}

kind=$(choose_kind "${1:-}")
case "${1:-}" in --cpu | --gpu) shift ;; esac
stamp="$kind $(cat pyproject.toml scripts/setup.sh constraints/*.txt virgo_ray/node/repair.py virgo_ray/node/_torchvision_cpu_ops.py | cksum)"
if [ "$(cat .venv/ready 2>/dev/null)" != "$stamp" ]; then
    if [ -f .venv/ready ] && [ "$(cut -d' ' -f1 .venv/ready)" != "$kind" ]; then
        fail ".venv was made for $(cut -d' ' -f1 .venv/ready) and $kind was asked for; remove .venv, or pass --$(cut -d' ' -f1 .venv/ready)"
    fi
    install "$kind"
    echo "$stamp" >.venv/ready
fi
