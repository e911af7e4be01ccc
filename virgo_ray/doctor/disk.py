"""Whether the places where a run writes take what is written, and have room."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from virgo_ray.doctor.findings import Check, Finding, to_do, well
from virgo_ray.doctor.subject import Subject
from virgo_ray.errors import VirgoError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.files import check_local, describe_model
from virgo_ray.plan.disk import NUM_CHECKPOINTS, checkpoint_bytes, version_bytes
from virgo_ray.train.shape import read_shape

GIB = 2**30
LEAST_FREE_GIB = 2.0
PROBE_BYTES = 2**20
DEADLINE_S = 60.0  # a model's class is built without its weights, to count them


def look_at_disk(subject: Subject) -> Finding:
    needed = max(LEAST_FREE_GIB * GIB, round_bytes(subject))
    cache = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    places = {
        "run_dir" if subject.cfg else "working directory": (subject.run_dir, needed),
        "temporary files": (Path(tempfile.gettempdir()), LEAST_FREE_GIB * GIB),
    }
    if subject.hub_names():
        places["cache of the hub"] = (Path(cache), LEAST_FREE_GIB * GIB)
    return judge_disk({name: try_writing(*place) for name, place in places.items()})


def judge_disk(found: Mapping[str, tuple[str, str]]) -> Finding:
    """`found` has for each place what is there, and what is wrong with it."""
    if bad := [f"{name}: {fault}" for name, (_, fault) in found.items() if fault]:
        return to_do("; ".join(bad), "free space, mend the rights, or name another place")
    return well("; ".join(f"{name}: {there}" for name, (there, _) in found.items()))


def try_writing(place: Path, needed: float) -> tuple[str, str]:
    """(free space, fault): writes a file, forces it to the disk and reads it again.

    Directories that are missing are made in the nearest one that exists.
    """
    try:
        above = next(p for p in (place, *place.parents) if p.is_dir())
        content = os.urandom(PROBE_BYTES)
        with tempfile.NamedTemporaryFile(dir=above, prefix=".virgo-ray-doctor-") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            is_same = file.read() == content
        free = shutil.disk_usage(above).free
    except OSError as error:
        return "", f"{place} cannot be written ({error.strerror or error})"
    there = f"{free / GIB:.0f} GiB free"
    if not is_same:
        return there, f"{place} gave back other bytes than were written"
    if free < needed:
        return there, f"{place} has {there}, expected {needed / GIB:.0f} GiB for one round"
    return there, ""


def round_bytes(subject: Subject) -> int:
    """New weights and the checkpoints of a fit, as `plan` counts them; 0 where the model cannot be
    described."""
    cfg = subject.cfg
    if cfg is None:
        return 0
    try:
        check_local(cfg.model.path)
        directory = describe_model(cfg.model.path, cfg.model.trust_remote_code)
        shape = read_shape(directory, cfg)
    except VirgoError:  # the line of the model says so
        return 0
    dtype = cfg.model.dtype
    checkpoints = NUM_CHECKPOINTS * checkpoint_bytes(shape, cfg.train, dtype)
    return version_bytes(shape, dtype, Path(directory)) + checkpoints


def look_at_run_dir(subject: Subject) -> Finding:
    assert subject.cfg is not None
    is_new = not (subject.run_dir / "ledger.json").exists()
    if is_new:  # nothing is made by looking
        return well(f"{subject.run_dir} would hold a new run")
    try:
        Ledger.check(subject.cfg.model_copy(update={"run_dir": str(subject.run_dir)}))
    except VirgoError as error:
        return to_do(f"the run cannot go on: {error}")
    return well(f"{subject.run_dir} holds a run of this config, which would go on")


CHECKS = (Check("disk", look_at_disk, DEADLINE_S),)
RUN_CHECKS = (Check("run directory", look_at_run_dir),)
