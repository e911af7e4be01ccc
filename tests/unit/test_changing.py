"""Which keys may change on a run that has begun: every key is in one class, and the docs say so."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from virgo_ray.config import Config, Moment, describe_section, is_harmless, moment_of
from virgo_ray.config.changing import CHANGES, moments_of

ROOT = Path(__file__).parents[2]


def sections_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def leaves(section, prefix=""):
    """Dotted names of all keys, those of sections that may be null or have any name included."""
    for name, field in section.model_fields.items():
        inner = sections_in(field.annotation)
        is_mapping = str(field.annotation).startswith("dict")
        below = f"{prefix}{name}.any." if is_mapping else f"{prefix}{name}."
        if not inner:
            yield f"{prefix}{name}"
        for found in inner:
            yield from leaves(found, below)


LEAVES = sorted(leaves(Config))


def test_every_key_is_in_exactly_one_class():
    assert len(LEAVES) > 150 and "train.lora.rank" in LEAVES and "benchmarks.any.path" in LEAVES
    wrong = {key: found for key in LEAVES if len(found := moments_of(key)) != 1}
    assert not wrong, f"name each of them once in config/changing.py: {wrong}"


def test_every_name_in_the_table_is_a_key_or_a_section():
    for name in [name for names in CHANGES.values() for name in names]:
        assert any(key == name or key.startswith(f"{name}.") for key in LEAVES), name


def test_a_key_that_nobody_declared_never_changes():
    assert moments_of("train.momentum") == [] and moment_of("train.momentum") is Moment.NEVER
    assert moments_of("gates_of_hell") == []


@pytest.mark.parametrize(
    ("key", "moment"),
    [
        ("train.lr", Moment.FIT), ("verify.deadline_s", Moment.ROLLOUT),
        ("explore.sampling.temperature", Moment.EXPLORATION), ("model.path", Moment.NEVER),
        ("rollout.engine_args.quantization", Moment.ROLLOUT), ("rollout.num_workers", Moment.ANY),
        ("train.zero_stage", Moment.ANY), ("train.gradient_checkpointing", Moment.ANY),
    ],
)  # fmt: skip
def test_what_errors_tell_to_change_can_be_changed(key, moment):
    assert moment_of(key) is moment and is_harmless(key) == (moment is Moment.ANY)


def test_what_a_message_tells_to_change_belongs_to_no_runs_identity():
    """`lower train.lr`, `raise verify.deadline_s`: whoever does so goes on with the same run."""
    told = re.compile(r"\b(?:lower|raise|larger|smaller|more|fewer|increase)\s+([a-z]+\.[a-z_.]+)")
    found = set()
    for path in (ROOT / "virgo_ray").rglob("*.py"):
        found |= {key.rstrip(".") for key in told.findall(path.read_text(encoding="utf-8"))}
    found &= set(LEAVES)
    assert "train.lr" in found
    assert not [key for key in sorted(found) if moment_of(key) is Moment.NEVER]


def test_help_on_a_section_says_what_may_change_and_when():
    text = describe_section("train")
    assert "from the next fit on: train.lr, " in " ".join(text.split())
    assert "\non a run that has begun, these may change\n" in text
    assert "never: seed" in " ".join(describe_section("run").split())


def test_the_docs_list_every_class_with_its_keys():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    table = text.partition("## Which keys may change")[2].partition("\n## ")[0]
    for moment, names in CHANGES.items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {moment} |")]
        assert sorted(re.findall(r"`([a-z_.]+)`", row)) == sorted(names), moment
