"""The dataset card of an export: what is in it, and how it was made; no paths of this machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virgo_ray.config import Config
from virgo_ray.model.files import TINY

CARD = "README.md"
PURPOSES = {
    "parquet": "One row is one rollout: question, pictures, sampled text and token ids, verdict.",
    "trl": "One row is a `prompt` and its `completion`, for supervised fine-tuning with TRL.",
    "dpo": "One row is a `prompt` with a right (`chosen`) and a wrong (`rejected`) completion.",
}


@dataclass
class Facts:
    """Counts of what was written."""

    sources: Counter[str] = field(default_factory=Counter)
    rounds: Counter[int] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    verifiers: Counter[str] = field(default_factory=Counter)
    sampling: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of the store."""
        self.sources[row["source"]] += 1
        self.rounds[row["round"]] += 1
        self.statuses[row["status"]] += 1
        if row["verifier_version"]:
            self.verifiers[row["verifier_version"]] += 1
            told = public_sampling(row["sampling"])
            sampling = {k: v for k, v in told.items() if k != "seed"}
            self.sampling[", ".join(f"{k} {v}" for k, v in sorted(sampling.items()))] += 1


def dataset_card(cfg: Config, format: str, facts: Facts, left_out: Counter[str]) -> str:
    """README.md of a data set on the Hugging Face hub; its header says where the rows are."""
    tables = (
        ("Source of the problems", facts.sources),
        ("Round of the run", facts.rounds),
        ("Status", facts.statuses),
        ("Verifier version", facts.verifiers),
        ("Sampling", facts.sampling),
        ("Left out, because they", left_out),
    )
    num = sum(facts.statuses.values())
    return "\n".join(
        [
            "---",
            "tags: [virgo_ray, self-distillation, visual-reasoning]",
            "configs:",
            "- config_name: default",
            "  data_files: [{split: train, path: data/train-*}]",
            "---",
            "",
            f"# {num:,} long thoughts about pictures",
            "",
            f"{PURPOSES[format]} A vision-language model wrote them; a verifier compared its "
            "answers with the known ones.",
            "",
            f"Model: {model_name(cfg.model.path)}, as taught by virgo_ray.",
            "",
            *(line for title, counts in tables if counts for line in _table(title, counts)),
        ]
    )


def model_name(path: str) -> str:
    """What a model may be called in public: its hub name, or the last part of its path.

    >>> model_name("Qwen/Qwen2.5-VL-7B-Instruct"), model_name("/home/me/models/mine")
    ('Qwen/Qwen2.5-VL-7B-Instruct', 'mine')
    """
    if path == TINY:
        return "the tiny model of virgo_ray"
    is_local = path.startswith((".", "/", "~")) or path.count("/") != 1 or Path(path).is_dir()
    return Path(path).name if is_local else path


def public_sampling(stored: str) -> dict[str, Any]:
    """How a rollout was sampled, as it may be told in public: the teacher without the directory
    that it lies in, and without what an endpoint said as it declined.

    >>> public_sampling('{"seed": 3, "teacher": "/data1/qvq", "declined": "HTTP 400 for team 7"}')
    {'seed': 3, 'teacher': 'qvq'}
    """
    told = {k: v for k, v in json.loads(stored).items() if k != "declined"}
    return told | ({"teacher": model_name(str(told["teacher"]))} if "teacher" in told else {})


def _table(title: str, counts: Mapping[Any, int]) -> list[str]:
    rows = [f"| {str(name).replace('|', '/')} | {num:,} |" for name, num in sorted(counts.items())]
    return [f"| {title} | rows |", "|---|---|", *rows, ""]
