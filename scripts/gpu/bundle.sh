#!/usr/bin/env bash
# scripts/gpu/bundle.sh [--python 3.12] [--torch 2.11] [--max-mib 48] [--bare] [--out DIR]
# A bundle of wheels for a node without network that has torch and torchvision: what check_train.py
# needs beyond them, in DIR (default: .wheels). With --bare also torchvision, numpy and pillow, for a
# node that has torch alone. Wheels are for x86-64 Linux. The same arguments give the same bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

python=3.12 torch=2.11 max_mib=48 out=.wheels bare=
usage() {
    sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2
    [ $# -eq 0 ] || echo "bundle.sh: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
        --bare) bare=yes && shift && continue ;;
        --python | --torch | --max-mib | --out) [ $# -ge 2 ] || usage "$1 needs a value" ;;
        *) usage "unknown argument '$1'" ;;
    esac
    case "$1" in
        --python) python=$2 ;;
        --torch) torch=$2 ;;
        --max-mib) max_mib=$2 ;;
        --out) out=$2 ;;
    esac
    shift 2
done
[[ $python =~ ^3\.1[1-3]$ ]] || usage "--python is '$python', expected 3.11, 3.12 or 3.13"
[[ $torch =~ ^2\.(1[1-9])$ ]] || usage "--torch is '$torch', expected 2.11 or newer: varlen_attn came with it"
[[ $max_mib =~ ^[0-9]+$ ]] || usage "--max-mib is '$max_mib', expected a whole number"

pip() { python3 -m pip "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheels=$work/wheels
grep -hv '^#' "$here/wheels.txt" ${bare:+"$here/wheels-bare.txt"} >"$work/requirements.txt"
# torchvision 0.26 belongs to torch 2.11, 0.27 to 2.12, and so on.
[ -z "$bare" ] || echo "torchvision==0.$((${torch#2.} + 15)).0" >>"$work/requirements.txt"

platforms=()
for glibc in 28 27 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
for old in 2014 2010 1; do platforms+=(--platform "manylinux${old}_x86_64"); done
grep -v '^deepspeed==' "$work/requirements.txt" >"$work/binary.txt"
pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$python" \
    --abi "cp${python/./}" --abi abi3 --abi none "${platforms[@]}" \
    --dest "$wheels" --requirement "$work/binary.txt"
# DeepSpeed has no wheel on PyPI. Without compiled ops it is pure Python; a fixed date and a fixed
# order of sets make the bytes the same every time.
DS_BUILD_OPS=0 SOURCE_DATE_EPOCH=315532800 PYTHONHASHSEED=0 pip wheel --quiet --no-deps \
    --no-cache-dir --wheel-dir "$wheels" "$(grep '^deepspeed==' "$work/requirements.txt")"

bytes=$(cat "$wheels"/*.whl | wc -c)
(cd "$wheels" && for file in *.whl; do printf '%10d  %s\n' "$(wc -c <"$file")" "$file"; done)
printf '%10d  together, of at most %d MiB, for Python %s and torch %s\n' "$bytes" "$max_mib" "$python" "$torch"
if [ "$bytes" -gt $((max_mib * 1024 * 1024)) ]; then
    echo "bundle.sh: $((bytes / 1024 / 1024 + 1)) MiB is over --max-mib $max_mib; nothing was written. Raise the limit${bare:+, or leave out --bare where the node has torchvision}" >&2
    exit 1
fi
mkdir -p "$out"
rm -f "$out"/*.whl
mv "$wheels"/*.whl "$work/requirements.txt" "$out/"
echo "on the node: python3 -m pip install --no-index --find-links $out --requirement $out/requirements.txt"
