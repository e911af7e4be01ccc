"""Whether keys of a config can be used with the packages that are here. Starts nothing."""

from __future__ import annotations

from virgo_ray.config import derive_gpus, refuse_without_gpus
from virgo_ray.doctor.findings import Check, Finding, not_needed, to_do, well
from virgo_ray.doctor.host import installed
from virgo_ray.doctor.subject import Subject
from virgo_ray.errors import ConfigError

LIGER = "liger-kernel"


def look_at_gpu_keys(subject: Subject) -> Finding:
    """Keys that need GPUs, and the package that one of them needs on every node."""
    assert subject.cfg is not None
    try:
        refuse_without_gpus(derive_gpus(subject.cfg, int(subject.uses_gpus)))
    except ConfigError as error:
        return to_do(str(error))
    if not subject.cfg.train.liger:
        return not_needed("no key of this config asks for a package of its own")
    if (version := installed(LIGER)) is None:
        return to_do(
            f"train.liger=true, and {LIGER} is not installed here",
            f"`pip install {LIGER}` on every node, or train.liger=false",
        )
    return well(f"{LIGER} {version}, for train.liger")


RUN_CHECKS = (Check("GPU keys", look_at_gpu_keys),)
