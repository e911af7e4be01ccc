"""The model card of a published checkpoint: what it was made from, how, and on what.

Written for whoever meets the checkpoint without the run. Guarantees that no path, host, address or
key of the run is in it: of the config only the listed sections appear, and what data and models are
called, never where they lie. Numbers of the fit are in it; those of the evaluation come later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from virgo_ray.config import Config, PartConfig, SourceConfig, flatten, is_harmless
from virgo_ray.config.importing import is_import_path
from virgo_ray.data.files import DATA_SUFFIXES, HUB_ID
from virgo_ray.model.files import TINY
from virgo_ray.records import FitReport

CARD_NAME = "README.md"
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
# These read any data set; the others are called like the one that they read.
GENERAL_READERS = ("jsonl", "json", "csv", "parquet", "dataset", "hub", "chat", "vlmevalkit")
HELD_OUT = "held-out problems"
LICENCE_KEYS = ("license", "license_name", "license_link")
# No key below one of these holds a path, an address or a name of a secret.
SHOWN_SECTIONS = (
    "seed", "rounds", "seed_round", "model.dtype", "model.head_dtype",
    "model.max_length", "model.min_pixels", "model.max_pixels",
    "prompt", "explore", "select", "train",
)  # fmt: skip
_JUDGED = (
    ", and a verifier judges the responses. Right and wrong ones of this round are learned from, "
)
REINFORCED = {
    "imitation": "",
    "reward_weighted": f"{_JUDGED}weighted by their reward (reward-weighted regression).",
    "rloo": f"{_JUDGED}by a policy gradient (RLOO, arXiv:2402.14740).",
    "dpo": f"{_JUDGED}in pairs of one that is preferred to another (DPO, arXiv:2305.18290).",
    "grpo": f"{_JUDGED}by a policy gradient relative to their group (GRPO, arXiv:2402.03300).",
}
CACHED_MODEL = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # directory of the hub's cache


def model_card(
    cfg: Config, base: Path, report: FitReport, architecture: str, carried: Sequence[str]
) -> str:
    """The text of README.md, its YAML front matter included.

    `base` is the directory of `model.path`; `carried` are tensors that were not trained because the
    class does not build them.
    """
    version = report.weights.version
    sources = "\n".join(f"- {role}: {_data_name(part)}" for role, part in _sources(cfg))
    parts = [
        f"---\n{_front_matter(cfg, base)}---\n",
        f"# {_base_name(cfg, base)}, thinking slowly: round {version - 1}\n",
        _origin(cfg, base, architecture, version),
        _method(cfg, version),
        f"## Data\n\n{sources}\n",
        _fit(report),
        _use(cfg),
    ]
    if carried:
        names = "\n".join(f"- `{name}`" for name in carried)
        parts.append(
            "## Tensors that were not trained\n\nThe model class does not build these tensors of "
            f"the base. They are here as the base had them, bit for bit:\n\n{names}\n"
        )
    parts.append(f"## Config\n\n```yaml\n{_shown_config(cfg)}```\n")
    return "\n".join(parts)


def _sources(cfg: Config) -> Iterator[tuple[str, PartConfig]]:
    """Every source of data, with what it is for."""
    roles: tuple[tuple[str, SourceConfig], ...] = (
        ("seed thoughts", cfg.data.seed_thoughts),
        ("problems", cfg.data.train),
        (HELD_OUT, cfg.data.heldout),
    )
    for role, source in roles:
        for part in source.parts or (source,):
            yield role, part


def _data_name(part: PartConfig) -> str:
    """What a source is called; a local file goes by its own name, without its directory."""
    if part.path is None:
        owner = "" if is_import_path(part.reader) else " of virgo_ray"
        return f"made by the reader `{part.reader}`{owner}"
    if hub_id := _hub_id(part.path):
        return f"`{hub_id}`"
    if part.reader in GENERAL_READERS:
        return f"`{Path(part.path).stem}` (a local copy)"
    return f"{part.reader} (a local copy)"


def _hub_id(path: str) -> str:
    """The path itself where it is an id of the hub; empty for a local one."""
    is_local = Path(path).suffix in DATA_SUFFIXES or Path(path).expanduser().exists()
    return "" if is_local or not HUB_ID.fullmatch(path) or path.startswith(".") else path


def _base_id(cfg: Config, base: Path) -> str:
    """Hub id of the base; empty where it is not known."""
    if cached := CACHED_MODEL.search(str(base)):
        return f"{cached[1]}/{cached[2]}"
    return "" if cfg.model.path == TINY else _hub_id(cfg.model.path)


def _base_name(cfg: Config, base: Path) -> str:
    return cfg.model.path if cfg.model.path == TINY else _base_id(cfg, base) or base.name


def _front_matter(cfg: Config, base: Path) -> str:
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if base_id := _base_id(cfg, base):
        facts |= {"base_model": base_id, "base_model_relation": "finetune"}
    facts |= _licence(base)
    trained_on = {_hub_id(part.path or "") for role, part in _sources(cfg) if role != HELD_OUT}
    if ids := sorted(filter(None, trained_on)):
        facts["datasets"] = ids
    facts["tags"] = ["virgo_ray", "self-distillation"]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


def _licence(base: Path) -> dict[str, str]:
    """What the base's own card says; nothing where there is no card or it says nothing."""
    try:
        text = (base / CARD_NAME).read_text(encoding="utf-8")
        found = FRONT_MATTER.match(text)
        facts = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # a card is for people: one that cannot be read is none
    if not isinstance(facts, dict):
        return {}
    said = {key: facts[key] for key in LICENCE_KEYS if isinstance(facts.get(key), str)}
    if not said.get("license_link", "").startswith("https://"):
        said.pop("license_link", None)  # the name of a file of the base's repository
    return said


def _origin(cfg: Config, base: Path, architecture: str, version: int) -> str:
    name = _base_name(cfg, base)
    kind = {TINY: "the tiny model that comes with virgo_ray"}.get(cfg.model.path, f"`{name}`")
    licence = _licence(base).get("license_name") or _licence(base).get("license")
    says = f"Its card names the licence `{licence}`" if licence else "Its card names no licence"
    started = (
        "the weights of the round before"
        if cfg.train.restart_from == "previous" and version > 1
        else "the base"
    )
    return (
        f"A `{architecture}`, fine-tuned from {kind}. {says}. "
        f"Training of this round started from {started}.\n"
    )


def _method(cfg: Config, version: int) -> str:
    train = cfg.train
    trained = "LoRA adapters were trained and merged into the" if train.lora else "The"
    frozen = {"vision tower": train.freeze_vision, "connector": train.freeze_connector}
    names = " and the ".join(name for name, is_frozen in frozen.items() if is_frozen)
    teacher = "" if cfg.teacher is None else " From round 1 on another model wrote the responses."
    kept = (
        ", and a verifier keeps the responses that are right. Textual thoughts and kept responses "
        "together are what it is fine-tuned on (Virgo, arXiv:2501.01904)."
    )
    learned = REINFORCED[train.objective.name] if version > 1 else ""
    return (
        "## Method\n\nRound 0 imitates textual long thoughts. In every later round the model "
        f"answers problems about images{learned or kept}{teacher}\n\n"
        f"{trained} weights of the language model{'' if train.lora else ' were trained'}."
        f"{f' The {names} stayed as in the base.' if names else ''}\n"
    )


def _fit(report: FitReport) -> str:
    return (
        "## This round's training\n\n"
        "| optimizer steps | examples | tokens | tokens with a loss | first loss | last loss |\n"
        "|---|---|---|---|---|---|\n"
        f"| {report.num_steps:,} | {report.num_examples:,} | {report.num_tokens:,} "
        f"| {report.num_target_tokens:,} | {report.first_loss:.4f} | {report.last_loss:.4f} |\n"
    )


def _use(cfg: Config) -> str:
    model, sampling = cfg.model, cfg.explore.sampling
    low = "the base's bound" if model.min_pixels is None else f"{model.min_pixels:,}"
    high = "the base's bound" if model.max_pixels is None else f"{model.max_pixels:,}"
    return (
        "## Use\n\n"
        f"- pixels of a picture, at least: {low}; at most: {high} (set in the processor's files)\n"
        f"- sampled at temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, up to "
        f"{sampling.max_tokens:,} tokens (set in `generation_config.json`)\n"
        "- system message and instruction: `prompt` below\n"
    )


def _shown_config(cfg: Config) -> str:
    shown = {
        key: value
        for key, value in flatten(cfg).items()
        if any(key == s or key.startswith(f"{s}.") for s in SHOWN_SECTIONS)
        and (not is_harmless(key) or key == "rounds")
    }
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100)
