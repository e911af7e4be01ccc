#!/usr/bin/env bash
# scripts/check_wheel.sh [key=value ...]: build the wheel and run the bundled model in a fresh
# environment that has it alone. Takes some 10 minutes and 5 GB, which it removes in the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
overrides=(explore.num_problems=20 rounds=1 data.heldout.num=40 wandb.mode=disabled "$@")

"$python" -m venv "$place/venv"
"$place/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$place" "$root"
"$place/venv/bin/pip" install --quiet "$(echo "$place"/virgo_ray-*.whl)[cpu]" --constraint constraints/cpu.txt
mkdir "$place/user"
cd "$place/user" # nothing of the repository is found here
if "$place/venv/bin/virgo-ray" run tiny "${overrides[@]}" 2>said; then
    echo "expected the first run to ask for set-up" >&2
    exit 1
fi
# shellcheck disable=SC2016 # the words as they are printed
grep -q 'Run `virgo-ray setup` once' said || {
    cat said >&2
    exit 1
}
"$place/venv/bin/virgo-ray" setup
"$place/venv/bin/virgo-ray" init my.yaml --from tiny
"$place/venv/bin/virgo-ray" run tiny "${overrides[@]}"
test -s runs/tiny/report.json
echo "the wheel alone ran the bundled model to its end"
