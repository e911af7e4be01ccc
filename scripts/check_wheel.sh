#!/usr/bin/env bash
# scripts/check_wheel.sh [key=value ...]: build the distributions and run the bundled model in a fresh
# environment that has the wheel alone. Takes some 10 minutes and 5 GB, which it removes in the end.
# DIST=FOLDER keeps what was built and tried, for publishing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
overrides=(explore.num_problems=20 rounds=1 data.heldout.num=40 wandb.mode=disabled "$@")

"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet build==1.3.0
"$place/venv/bin/python" -m build --outdir "$place/dist" "$root" >/dev/null # the wheel from the sdist
"$place/venv/bin/pip" install --quiet --no-deps "$place"/dist/virgo_ray-*.whl
"$place/venv/bin/virgo-ray" setup --constraints cpu >"$place/cpu.txt"
"$place/venv/bin/pip" install --quiet "$(echo "$place"/dist/virgo_ray-*.whl)[cpu]" --constraint "$place/cpu.txt"
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
[ -z "${DIST:-}" ] || { mkdir -p "$root/$DIST" && cp "$place"/dist/* "$root/$DIST"; }
echo "the wheel alone ran the bundled model to its end"
