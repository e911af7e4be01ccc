"""The answers of held-out evaluations in the run directory, from which an evaluation resumes.

`heldout/v0003/answers.jsonl` holds what version 3 of the weights answered. `evaluation.json` beside
it names the weights, the run and the settings; it is written first. Answers of other weights or
settings are never used: they are moved aside, and everything is asked anew. The files stay when the
evaluation is done, so that a person can look up what is behind its figures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from virgo_ray.config import Config
from virgo_ray.evaluate.answers import AnswerFile, problem_hash, write_errors
from virgo_ray.evaluate.directory import IDENTITY, Protocol, differences, file_sizes
from virgo_ray.files import move_aside, write_atomically
from virgo_ray.records import Problem, Weights
from virgo_ray.weights.manifest import MANIFEST_NAME
from virgo_ray.weights.publish import version_dir

DIRECTORY = "heldout"
ANSWERS = "answers.jsonl"
NAMED_OTHERWISE = {"sampling", "perception", "text"}  # in the protocol, among the problems


def identity(
    cfg: Config, problems: Sequence[Problem], run_id: str, weights: Weights
) -> dict[str, object]:
    """All that answers depend on: whose they are, how they were asked, and what."""
    directory = Path(weights.path)
    manifest = directory / MANIFEST_NAME
    whose: dict[str, object] = {
        "run": run_id,
        "version": weights.version,
        "files": file_sizes(directory),
    }
    if manifest.is_file():
        whose["manifest"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    hashes = sorted(f"{p.id} {problem_hash(p)}" for p in problems)
    return {
        "weights": whose,
        "protocol": Protocol(cfg).as_json(),
        "evaluate": cfg.evaluate.model_dump(mode="json", exclude=NAMED_OTHERWISE),
        "num_problems": len(problems),
        "problems": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    }


def open_answers(
    run_dir: Path,
    identity: Mapping[str, object],
    problems: Sequence[Problem],
    say: Callable[[str], None],
) -> AnswerFile:
    """What was answered so far under this identity, ready for more.

    Raises:
        TraceStoreError: the file system refused.
    """
    ours = json.loads(json.dumps(identity))
    directory = version_dir(run_dir / DIRECTORY, ours["weights"]["version"])
    with write_errors(directory):
        if directory.exists() and (why := _why_not(directory / IDENTITY, ours)):
            aside = move_aside(directory, "other")
            say(
                f"{directory} holds answers that are not of this evaluation; they are in {aside} "
                f"now, and all is asked anew: {why}"
            )
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / IDENTITY).exists():
            write_atomically(directory / IDENTITY, json.dumps(ours, indent=1))
    return AnswerFile(directory / ANSWERS, problems, has_token_ids=True)


def _why_not(path: Path, ours: Mapping[str, object]) -> str:
    """Why the answers beside this file are of no use; empty where they are, or where there are
    none."""
    if not path.exists():
        return f"{IDENTITY} is missing" if (path.parent / ANSWERS).exists() else ""
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        return "; ".join(differences(theirs, ours))
    except (ValueError, AttributeError) as error:
        return f"{IDENTITY} is damaged ({error})"
