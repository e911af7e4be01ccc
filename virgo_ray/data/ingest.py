"""All data of a config, read and checked in one place, with an account of every row.

`read_data` is what a run calls: in strict mode (`data.strict`, the default) one bad row stops it
with the list; otherwise bad rows go into `run_dir/data/quarantine.jsonl`, with source, row number
and reason, and the run goes on without them. `intake.json` beside it counts what was used.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virgo_ray.config import Config
from virgo_ray.data.overlap import Look, near_pairs
from virgo_ray.data.problems import read_problems, shared_pairs
from virgo_ray.data.prompts import Prompter
from virgo_ray.data.rows import Fault, Reading
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.errors import DataError
from virgo_ray.records import Problem, SeedThought

QUARANTINE = "quarantine.jsonl"
REPORT = "intake.json"


@dataclass
class Intake:
    """What became of every row: readings by config key, one for each part of a mix.

    `num_tokens` are the lengths of prompts (of seed thoughts: prompt and thought), images expanded;
    `near` the ids of training and held-out problems that look nearly the same.
    """

    train: list[Reading[Problem]]
    heldout: list[Reading[Problem]]
    seed_thoughts: list[Reading[SeedThought]]
    num_tokens: dict[str, list[int]] = field(default_factory=dict)
    near: list[tuple[str, str]] = field(default_factory=list)

    @property
    def problems(self) -> list[Problem]:
        return [problem for reading in self.train for problem in reading.records]

    @property
    def heldout_problems(self) -> list[Problem]:
        return [problem for reading in self.heldout for problem in reading.records]

    @property
    def thoughts(self) -> list[SeedThought]:
        return [thought for reading in self.seed_thoughts for thought in reading.records]

    @property
    def readings(self) -> dict[str, Reading[Any]]:
        """By key: "data.train", or "data.train.parts.1" of a mix."""
        named = {}
        for name in ("train", "heldout", "seed_thoughts"):
            parts: list[Reading[Any]] = getattr(self, name)
            for i, reading in enumerate(parts):
                named[f"data.{name}" + (f".parts.{i}" if len(parts) > 1 else "")] = reading
        return named

    @property
    def num_faults(self) -> int:
        return sum(len(reading.faults) for reading in self.readings.values())

    def complaints(self) -> str:
        """Every source's bad rows, the first of each listed."""
        bad = [(key, reading) for key, reading in self.readings.items() if reading.faults]
        return "\n".join(f"{key}, {r.where}: {r.complaint()}" for key, r in bad)

    def report(self) -> dict[str, Any]:
        """Counts, for programs."""
        sources = {
            key: {
                "where": reading.where,
                "rows": reading.num_rows,
                "used": len(reading.taken),
                "quarantined": dict(Counter(fault.kind for fault in reading.faults)),
                "left_out": dict(reading.left_out),
            }
            for key, reading in self.readings.items()
        }
        return {"sources": sources, "near_overlap": self.near}


@dataclass(frozen=True)
class Data:
    """What a run works with."""

    problems: list[Problem]
    heldout: list[Problem]
    seed_thoughts: list[SeedThought]


def read_data(cfg: Config, prompter: Prompter) -> Data:
    """Problems, held-out problems and seed thoughts, checked.

    Raises:
        DataError: a source cannot be read or is too small; in strict mode: any bad row.
    """
    intake = survey(cfg, prompter)
    folder = Path(cfg.run_dir) / "data"
    write_account(intake, folder)
    if intake.num_faults and cfg.data.strict:
        raise DataError(f"{intake.complaints()}\nall of them: {folder / QUARANTINE}")
    for key, reading in intake.readings.items():
        if not reading.taken:
            raise DataError(f"{key}, {reading.where}: no row is left; {reading.complaint()}")
    return Data(intake.problems, intake.heldout_problems, intake.thoughts)


def survey(cfg: Config, prompter: Prompter) -> Intake:
    """Read and check everything; bad rows are put aside, whatever `data.strict` says.

    Raises:
        DataError: a source cannot be read at all, or holds fewer usable rows than `num`.
    """
    cache = Path(cfg.data.cache_dir or Path(cfg.run_dir) / "data").expanduser().resolve()
    looks: dict[str, Look] = {}
    intake = Intake(
        read_problems(cfg.data.train, cfg.seed, cache, looks),
        read_problems(cfg.data.heldout, cfg.seed, cache, looks),
        read_seed_thoughts(
            cfg.data.seed_thoughts, cfg.seed, cfg.prompt.thought_format, prompter.num_text_tokens
        ),
    )
    _part_from_heldout(intake, looks, is_near_bad=cfg.data.near_overlap == "refuse")
    _measure(intake, prompter, cfg.model.max_length)
    return intake


def write_account(intake: Intake, folder: Path) -> None:
    """`intake.json` always, `quarantine.jsonl` where there are bad rows; each is written whole."""
    lines = [
        {"source": key, "where": r.where, "row": f.row, "kind": f.kind, "reason": f.detail}
        for key, r in intake.readings.items()
        for f in r.faults
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / REPORT, json.dumps(intake.report(), indent=1, ensure_ascii=False))
    if lines:
        _write(folder / QUARANTINE, "\n".join(json.dumps(line) for line in lines) + "\n")
    else:
        (folder / QUARANTINE).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def _part_from_heldout(intake: Intake, looks: Mapping[str, Look], is_near_bad: bool) -> None:
    """Training problems that are held out too are put aside; near ones are named, or the same."""
    heldout = intake.heldout_problems
    for reading in intake.train:
        same = {
            i: Fault(
                reading.taken[i][0], "also held out", f"it is {heldout[j].id!r} of data.heldout"
            )
            for i, j in shared_pairs(reading.records, heldout)
        }
        reading.put_aside(same)
        near = near_pairs(reading.records, heldout, looks)
        intake.near += [(reading.records[i].id, heldout[j].id) for i, j in near]
        if is_near_bad:
            bad = {
                i: Fault(
                    reading.taken[i][0],
                    "nearly held out",
                    f"picture and question look like {heldout[j].id!r} of data.heldout",
                )
                for i, j in near
            }
            reading.put_aside(bad)


def _measure(intake: Intake, prompter: Prompter, max_length: int) -> None:
    """Lengths as the model will see them; what it cannot take is put aside."""
    for name, readings in (("train", intake.train), ("heldout", intake.heldout)):
        intake.num_tokens[name] = [
            length
            for reading in readings
            for length in _lengths(reading, prompter.num_prompt_tokens, max_length - 1)
        ]
    intake.num_tokens["seed_thoughts"] = [
        length
        for reading in intake.seed_thoughts
        for length in _lengths(
            reading, lambda s: prompter.example(s.problem.id, s.problem, s.thought).num_tokens,
            max_length,
        )
    ]  # fmt: skip


def _lengths(reading: Reading[Any], measure: Any, longest: int) -> list[int]:
    lengths, bad = [], {}
    for i, (number, record) in enumerate(reading.taken):
        try:
            length = measure(record)
        except DataError as error:
            bad[i] = Fault(number, "not for this model", str(error))
            continue
        if length > longest:
            detail = f"{length} tokens, expected at most {longest}; raise model.max_length"
            bad[i] = Fault(number, "too long", detail)
        else:
            lengths.append(length)
    reading.put_aside(bad)
    return lengths
