"""The text of `--help` on config keys: every key with its default, meaning and values, by section.

A key is *advanced* if no config under `configs/` sets it; the others are core keys and come first.
Knows the schema only, not the configs: a test holds CORE_KEYS against them.
"""

from __future__ import annotations

import difflib
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from virgo_ray.config.changing import describe_changes
from virgo_ray.config.whole import Config
from virgo_ray.errors import ConfigError

WIDTH = 100
RUN = "run"  # the section, in `--help`, of the keys that stand in none

# What the configs under configs/ set, by section. A key of data.train stands here if any source has
# it set, and a key of explore.sampling if any sampling has.
CORE_KEYS = {
    RUN: "name seed run_dir rounds seed_round",
    "model": "path dtype max_length min_pixels max_pixels",
    "data": "train.reader train.path train.split train.subset train.num train.style "
    "train.extra_cells train.parts "
    "heldout seed_thoughts strict",
    "prompt": "template",
    "explore": "num_problems num_samples sampling.temperature sampling.top_p "
    "sampling.repetition_penalty sampling.max_tokens screen prefer_unsolved unsolved_share "
    "extra.max_samples extra.until_correct extra.batch extra.budget_share temperatures",
    "rollout": "num_workers gpus_per_worker gpu_memory_utilization kv_cache_gib max_in_flight "
    "enforce_eager start_deadline_s stall_deadline_s min_workers",
    "verify": "num_workers",
    "select": "policy split min_pass_rate max_luck max_per_problem keep length_band "
    "require_thought last_rounds max_traces loss_balance",
    "teacher": "path url model num_parallel",
    "train": "num_workers zero_stage lr warmup_ratio batch_size micro_batch_tokens "
    "num_epochs num_tokens stop_epoch restart_from freeze_vision freeze_connector "
    "gradient_checkpointing checkpoint_every_s seed_share seed_floor "
    "step_deadline_s schedule resident carry_optimizer objective.name objective.num_steps "
    "objective.max_refills objective.dpo.form objective.dpo.sft_weight "
    "objective.dpo.pairs_per_problem",
    "push": "deadline_s",
    "weights": "keep_last",
    "gates": "min_entropy",
    "evaluate": "every k sampling blank_image",
    "placement": "mode cpus_per_worker",
}


@dataclass(frozen=True)
class Key:
    """One key of a schema: a value, or a section with keys of its own."""

    name: str  # dotted, as in an override: train.lora.rank
    default: str  # as in a YAML file, or "required", or "section"
    meaning: str
    is_section: bool

    @property
    def section(self) -> str:
        """Where `--help` lists it: train.lora.rank in train, seed in run."""
        first = self.name.partition(".")[0]
        return first if section_in(Config.model_fields[first].annotation) else RUN

    @property
    def is_core(self) -> bool:
        """Whether a config under configs/ sets it, or something in it."""
        return is_core_key(self.name)


def describe_keys(schema: type[BaseModel]) -> str:
    """Every key of a schema, each understood alone."""
    return _text(list_keys(schema))


def describe_core_keys() -> str:
    """The core keys of a run's config by section, and how many more each section has.

    `prog --help SECTION` shows the others.
    """
    texts = []
    for section, keys in by_section().items():
        core = [key for key in keys if key.is_core]
        num_more = sum(not key.is_section for key in keys if not key.is_core)
        more = f" ({num_more} more with --help {section})" if num_more else ""
        texts.append(_wrap(f"{section}: {_heading(section)}{more}", "") + _text(core))
    return "\n".join(texts)


def describe_section(section: str) -> str:
    """All keys of one section of a run's config, the core keys first, and when they may change.

    Raises:
        ConfigError: there is no such section.
    """
    known = by_section()
    if section not in known:
        near = difflib.get_close_matches(section, known, n=1)
        hint = f"did you mean {near[0]!r}? It is" if near else "expected"
        raise ConfigError(
            f"there is no section {section!r} of config keys; {hint} one of {', '.join(known)}"
        )
    core = [key for key in known[section] if key.is_core]
    advanced = [key for key in known[section] if not key.is_core]
    text = _wrap(f"{section}: {_heading(section)}", "") + _text(core)
    if advanced:
        text += f"\nadvanced, set by no config under configs/:\n{_text(advanced)}"
    changes = describe_changes(key.name for key in known[section] if not key.is_section)
    return f"{text}\non a run that has begun, these may change\n" + "".join(
        _wrap(line, "") for line in changes
    )


def by_section() -> dict[str, list[Key]]:
    """The keys of a run's config by section, `run` first; headings are no keys."""
    keys = list_keys(Config)
    found: dict[str, list[Key]] = {key.section: [] for key in keys}
    for key in keys:
        if key.name != key.section:
            found[key.section].append(key)
    return found


def list_keys(schema: type[BaseModel]) -> list[Key]:
    """Every key of a schema in its order; keys that several sections share are listed once."""
    listed: dict[type[BaseModel], str] = {}

    def walk(prefix: str, section: type[BaseModel], names: Iterable[str]) -> Iterator[Key]:
        for name in names:
            key, field = prefix + name, section.model_fields[name]
            inner = section_in(field.annotation)
            if inner is None:
                yield Key(key, _default(field), meaning_of(field), False)
                continue
            known = next((c for c in listed if issubclass(inner, c) or issubclass(c, inner)), None)
            same = f"; takes the keys of {listed[known]}" if known else ""
            yield Key(key, _default(field), meaning_of(field, inner) + same, True)
            listed.setdefault(known or inner, key)
            shared = known.model_fields if known else {}
            yield from walk(f"{key}.", inner, [n for n in inner.model_fields if n not in shared])

    return list(walk("", schema, schema.model_fields))


def is_core_key(name: str) -> bool:
    """Whether a config under configs/ sets a dotted key, or something in it."""
    return any(core == name or core.startswith(f"{name}.") for core in _core_names())


@cache
def _core_names() -> Sequence[str]:
    return [
        name if section == RUN else f"{section}.{name}"
        for section, names in CORE_KEYS.items()
        for name in names.split()
    ]


def _heading(section: str) -> str:
    if section == RUN:
        return "the run as a whole"
    return next(key.meaning for key in list_keys(Config) if key.name == section)


def _text(keys: Iterable[Key]) -> str:
    return "".join(_wrap(f"{key.name} ({key.default}): {key.meaning}", "  ") for key in keys)


def _wrap(text: str, indent: str) -> str:
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(lines) + "\n"


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section in `Section`, `Section | None`, `tuple[Section, ...]`, `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def meaning_of(field: FieldInfo, section: type[BaseModel] | None = None) -> str:
    """The description of a key with its values: `... [even | inverse | none]`.

    A section without a description is what the first sentence of its class says.
    """
    if section is not None:
        first_line = (inspect.getdoc(section) or "").partition("\n")[0]
        sentence = first_line.partition(". ")[0].removesuffix(".")
        return field.description or sentence[:1].lower() + sentence[1:]
    values = [str(v) for v in get_args(field.annotation) if isinstance(v, str | int)]
    return f"{field.description} [{' | '.join(values)}]" if values else str(field.description)


def _default(field: FieldInfo) -> str:
    """A default as it stands in a YAML file: null, false, [], paper."""
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "section"
    is_word = isinstance(field.default, str) and field.default
    return field.default if is_word else json.dumps(field.default)
