"""A teacher whose weights the run's own engines load for the exploration.

The engines change weights in place, so the teacher must be a model of the student's architecture
and tokenizer; any other is served apart (`vllm serve`) and named by `teacher.url`. Its weights are
proven like the base's: the trainer scores a probe with them, every engine must agree. Its ids are
kept as sampled. After `sample` the engines hold the teacher's weights: who wants the student's
pushes them, as the loop does before every evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, SamplingConfig
from virgo_ray.errors import ConfigError
from virgo_ray.model.files import check_local, describe_model, resolve_model
from virgo_ray.ports import Rollouts
from virgo_ray.records import TEACHER_VERSION, Request, Rollout, Weights

SHAPE_KEYS = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "depth",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "embed_dim", "num_heads",
    "out_hidden_size", "patch_size", "spatial_merge_size", "image_token_id", "tie_word_embeddings",
)  # fmt: skip


class LocalTeacher:
    """Implements `ports.Sampler` with the student's engines."""

    def __init__(self, rollouts: Rollouts, weights: Weights, name: str) -> None:
        self._rollouts = rollouts
        self._weights = weights
        self._name = name

    def sample(
        self, requests: Iterable[Request | None], sampling: SamplingConfig
    ) -> Iterator[Rollout | None]:
        """See `ports.Sampler.sample`; nothing is loaded where nothing is asked.

        Raises:
            PushError: the engines cannot load the teacher, or do not agree with the trainer.
            RolloutError: as the student's.
        """
        drawn = iter(requests)
        first = next(drawn, None)
        if first is None:
            return
        self._rollouts.push(self._weights)
        for rollout in self._rollouts.sample(_Begun(first, drawn, requests), sampling):
            yield rollout and self._named(rollout)

    def _named(self, rollout: Rollout) -> Rollout:
        return replace(rollout, sampling={**rollout.sampling, "teacher": self._name})


class _Begun(Iterator[Request | None]):
    """What was drawn already, then the rest; as long as all of it, where that is known."""

    def __init__(
        self, first: Request, rest: Iterator[Request | None], whole: Iterable[Request | None]
    ) -> None:
        self._drawn = chain([first], rest)
        self._whole = whole

    def __next__(self) -> Request | None:
        return next(self._drawn)

    def __len__(self) -> int:
        return len(self._whole) if isinstance(self._whole, Sized) else 0


def check_teacher(cfg: Config) -> None:
    """Compare the teacher of `teacher.path` with the student, by the files that describe them.

    Raises:
        ConfigError: it is not there, or of another architecture or tokenizer than the student's.
    """
    if cfg.teacher is None or cfg.teacher.path is None:
        return
    remote_code = cfg.model.trust_remote_code
    path = describe_model(cfg.teacher.path, remote_code, key="teacher.path")
    student = describe_model(cfg.model.path, remote_code)
    if found := differences(Path(student), Path(path)):
        raise ConfigError(
            f"teacher.path={cfg.teacher.path!r} is another kind of model than model.path="
            f"{cfg.model.path!r} ({'; '.join(found[:4])}); the engines can only exchange weights of"
            " one architecture and tokenizer: serve it with `vllm serve` and name it by "
            "teacher.url and teacher.model"
        )
    check_local(cfg.teacher.path, key="teacher.path")


def teacher_weights(cfg: Config) -> Weights | None:
    """The weights of `teacher.path`, or None where there is no such teacher.

    Raises:
        ConfigError: they are not there, or not the kind that `check_teacher` asks for.
    """
    check_teacher(cfg)
    if cfg.teacher is None or cfg.teacher.path is None:
        return None
    remote_code = cfg.model.trust_remote_code
    path = resolve_model(cfg.teacher.path, remote_code, key="teacher.path")
    return Weights(TEACHER_VERSION, path)


def differences(student: Path, teacher: Path) -> list[str]:
    """Where two model directories do not fit together: keys of the configuration, the vocabulary.

    A key that one of them leaves out is no difference.
    """
    ours, theirs = _shape(student), _shape(teacher)
    keys = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    found = [f"{key} {ours[key]} and {theirs[key]}" for key in keys]
    if not has_same_tokens(student, teacher):
        found.append("other tokens in tokenizer.json")
    return found


def has_same_tokens(first: Path, second: Path) -> bool:
    """Whether ids mean the same to both models, as far as they have a tokenizer.json."""
    vocabularies = _vocabulary(first), _vocabulary(second)
    return None in vocabularies or vocabularies[0] == vocabularies[1]


def _shape(directory: Path) -> dict[str, Any]:
    """What decides the tensors' shapes; text keys without their section, as older files have it."""
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    flat: dict[str, Any] = {}

    def walk(prefix: str, section: Mapping[str, Any]) -> None:
        for key, value in section.items():
            if isinstance(value, dict):
                walk("" if key == "text_config" else f"{key}.", value)
            elif key in SHAPE_KEYS and not (not prefix and key in ("model_type",)):
                flat[prefix + key] = value

    walk("", content)
    return {**flat, "model_type": content.get("model_type")}


def _vocabulary(directory: Path) -> dict[str, int] | None:
    """Token -> id, with the added ones; None where there is no tokenizer.json."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    if not isinstance(vocabulary, dict):  # Unigram: a list of (token, score)
        vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
    return {**vocabulary, **{t["content"]: t["id"] for t in content.get("added_tokens", ())}}
