"""The directory of an evaluation: which models answered, and how they were asked.

`evaluation.json` is written before the first answer. Going on with other prompts, limits or
weights under the same names is refused, so answers of two set-ups never mix; more models, more
benchmarks and more samples are welcome. One process at a time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from virgo_ray.config import Config
from virgo_ray.errors import ConfigError
from virgo_ray.evaluate.answers import write_errors
from virgo_ray.evaluate.targets import Model
from virgo_ray.files import lock_directory, write_atomically
from virgo_ray.model.files import resolve_model
from virgo_ray.verify.item import VERIFIER_VERSION
from virgo_ray.verify.opinions.llm_judge import LlmJudge

IDENTITY = "evaluation.json"


@dataclass(frozen=True)
class Protocol:
    """All that must be the same for every model, so that their figures can be compared.

    Of `cfg` that is what `as_json` names; `judge` is the LLM judge that decides beside the rules.
    """

    cfg: Config
    judge: LlmJudge | None = None

    def as_json(self) -> dict[str, object]:
        cfg, judge = self.cfg, self.judge
        return {
            "prompt": cfg.prompt.model_dump(mode="json", exclude={"template", "thought_format"}),
            "sampling": cfg.evaluate.sampling.model_dump(mode="json"),
            "model": cfg.model.model_dump(mode="json", exclude={"path", "trust_remote_code"}),
            "seed": cfg.seed,
            "verify": cfg.verify.model_dump(
                mode="json", include={"require_end_tag", "formats", "custom"}
            ),
            "verifier_version": VERIFIER_VERSION,
            "judge": judge and {"model": judge.model, "prompt": judge.prompt},
        }


class EvaluationDirectory:
    """Output directory of an evaluation, locked while it is open.

    Example: `EvaluationDirectory.open(out, protocol, {"tiny": {...}}).answers("tiny")`.
    """

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, protocol: Protocol, models: Mapping[str, Mapping[str, object]]
    ) -> EvaluationDirectory:
        """
        Raises:
            ConfigError: it cannot be written, is in use, or its answers were asked differently.
            TraceStoreError: the file system refused later.
        """
        name, way_out = f"--out {str(path)!r}", "choose another directory"
        directory = cls(path, lock_directory(path, ConfigError, name, way_out))
        try:
            directory._claim({"protocol": protocol.as_json(), "models": dict(models)})
        except BaseException:
            directory.close()
            raise
        return directory

    def answers(self, label: str) -> Path:
        return self.path / "answers" / f"{slug(label)}.jsonl"

    def predictions(self, label: str, benchmark: str) -> Path:
        return self.path / "predictions" / f"{slug(label)}_{slug(benchmark)}.tsv"

    def write(self, name: str, text: str) -> Path:
        """Write a file of the directory, whole or not at all; returns its path.

        Raises:
            TraceStoreError: the file system refused.
        """
        path = self.path / name
        with write_errors(path):
            write_atomically(path, text)
        return path

    def close(self) -> None:
        self._lock.close()

    def _claim(self, own: Mapping[str, object]) -> None:
        path = self.path / IDENTITY
        ours = json.loads(json.dumps(own))
        if path.is_file():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
                known = before["models"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path} is damaged ({error!r}); delete {self.path}, or choose another --out"
                ) from error
            refuse_differences(before["protocol"], ours["protocol"], str(self.path))
            for label, model in ours["models"].items():
                refuse_differences(known.get(label, model), model, f"{self.path}, {label}")
            ours["models"] = {**known, **ours["models"]}
        self.write(IDENTITY, json.dumps(ours, indent=1))


def refuse_differences(before: Mapping[str, object], now: Mapping[str, object], where: str) -> None:
    """
    Raises:
        ConfigError: naming every value that is not the same.
    """
    if lines := differences(before, now):
        raise ConfigError(
            f"{where} was asked with other settings, and answers can only be compared where these "
            "are the same:\n  "
            + "\n  ".join(lines)
            + "\nset them back, or start anew with another "
            "--out"
        )


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Every value that is not the same.

    >>> differences({"k": 4, "sampling": {"top_p": 1}}, {"k": 4, "sampling": {"top_p": 0.9}})
    ['sampling.top_p: 1 -> 0.9']
    """
    old, new = _flatten(before), _flatten(now)
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys]


def identity(model: Model, trust_remote_code: bool) -> dict[str, object]:
    """Which weights these are: their directory, and the sizes of their files."""
    directory = Path(resolve_model(model.path, trust_remote_code))
    return {"path": str(directory), "files": file_sizes(directory)}


def file_sizes(directory: Path) -> dict[str, int]:
    """Of the weights in a directory, in bytes."""
    return {path.name: os.stat(path).st_size for path in sorted(directory.glob("*.safetensors"))}


def slug(label: str) -> str:
    """A file name.

    >>> slug("Qwen/Qwen2-VL-7B"), slug("tiny round 2")
    ('Qwen-Qwen2-VL-7B', 'tiny-round-2')
    """
    return re.sub(r"[^\w.-]+", "-", label).strip("-.") or "model"


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
