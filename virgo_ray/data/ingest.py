"""All data of a config, read and checked in one place, with an account of every row.

`read_data` is what a run calls: in strict mode (`data.strict`, the default) one bad row stops it
with the list; otherwise bad rows go into `run_dir/data/quarantine.jsonl`, with source, row number
and reason, and the run goes on without them. `intake.json` beside it counts what was used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from virgo_ray.config import PROBES, Config, SourceConfig
from virgo_ray.data.contents import CheckedContents, Contents, check_contents, contents_of
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.input_checks import ModelInputCheck, make_probe_check
from virgo_ray.data.overlap import find_near, put_aside_held, put_aside_taught
from virgo_ray.data.problems import Check, read_problems
from virgo_ray.data.room import note_tight_prompts, response_limit
from virgo_ray.data.rows import Reading
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors, write_atomically
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, SeedThought
from virgo_ray.selection.guessing import name_unbelievable

QUARANTINE = "quarantine.jsonl"
REPORT = "intake.json"
SOURCES = ("train", "heldout", "seed_thoughts")


@dataclass
class Intake:
    """What became of every row: readings by config key, one for each part of a mix.

    `num_tokens` holds lengths with images expanded: of prompts, or of prompt and thought together;
    `contents` fingerprints by id; `near_duplicates` the ids of training and held-out problems that
    are nearly the same.
    """

    train: list[Reading[Problem]]
    heldout: list[Reading[Problem]]
    seed_thoughts: list[Reading[SeedThought]]
    probes: dict[str, list[Reading[Problem]]] = field(default_factory=dict)
    num_tokens: dict[str, list[int]] = field(default_factory=dict)
    near_duplicates: list[tuple[str, str]] = field(default_factory=list)
    contents: Contents = field(default_factory=dict)
    contents_by_looks: Contents = field(default_factory=dict)

    @property
    def problems(self) -> list[Problem]:
        return [problem for reading in self.train for problem in reading.records]

    @property
    def heldout_problems(self) -> list[Problem]:
        return [problem for reading in self.heldout for problem in reading.records]

    @property
    def probe_problems(self) -> dict[str, list[Problem]]:
        return {
            name: [problem for reading in readings for problem in reading.records]
            for name, readings in self.probes.items()
        }

    @property
    def thoughts(self) -> list[SeedThought]:
        return [thought for reading in self.seed_thoughts for thought in reading.records]

    @property
    def readings(self) -> dict[str, Reading[Any]]:
        """By key: "data.train", or "data.train.parts.1" of a mix; "evaluate.text"."""
        sources: dict[str, list[Reading[Any]]] = {
            "data.train": self.train,
            "data.heldout": self.heldout,
            "data.seed_thoughts": self.seed_thoughts,
            **{f"evaluate.{name}": readings for name, readings in self.probes.items()},
        }
        return {
            key + (f".parts.{i}" if len(parts) > 1 else ""): reading
            for key, parts in sources.items()
            for i, reading in enumerate(parts)
        }

    @property
    def num_faults(self) -> int:
        return sum(len(reading.faults) for reading in self.readings.values())

    def complaints(self) -> str:
        """Every source's bad rows, the first ones of each listed."""
        bad = [(key, reading) for key, reading in self.readings.items() if reading.faults]
        return "\n".join(f"{key}, {r.where}: {r.complaint()}" for key, r in bad)

    def report(self) -> dict[str, object]:
        """Counts, for programs."""
        return {"sources": describe_readings(self.readings), "near_overlap": self.near_duplicates}


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of one source; `quarantined` and `left_out` are by reason."""

    where: str
    rows: int
    used: int
    quarantined: Mapping[str, int]
    left_out: Mapping[str, int]
    pictures: Mapping[str, int]  # rows by their number of pictures
    notes: Mapping[str, int]

    @classmethod
    def of(cls, reading: Reading[Any]) -> RowCounts:
        bad = dict(Counter(fault.kind for fault in reading.faults))
        num, used = reading.num_rows, len(reading.taken)
        pictures = {str(k): rows for k, rows in sorted(picture_counts(reading).items())}
        left_out, notes = dict(reading.left_out), dict(reading.notes)
        return cls(reading.where, num, used, bad, left_out, pictures, notes)


def describe_readings(readings: Mapping[str, Reading[Any]]) -> dict[str, object]:
    """The counts of every source, for programs."""
    return {key: asdict(RowCounts.of(reading)) for key, reading in readings.items()}


def account_of(key: str, reading: Reading[Any]) -> str:
    """One line for a person: "data.train: 500 rows, 498 with 1 picture, 2 with 3"."""
    pictures = [
        f"{rows} with {num or 'no'} picture{'s' if num > 1 else ''}"
        for num, rows in sorted(picture_counts(reading).items())
    ]
    notes = [f"{num} {note}" for note, num in reading.notes.items()]
    bad = [f"{len(reading.faults)} bad"] if reading.faults else []
    return f"{key}: " + ", ".join([f"{len(reading.taken)} rows", *pictures, *notes, *bad])


def picture_counts(reading: Reading[Any]) -> Counter[int]:
    """How many problems of a source have how many pictures; empty for seed thoughts."""
    problems = (record for record in reading.records if isinstance(record, Problem))
    return Counter(len(problem.images) for problem in problems)


@dataclass(frozen=True)
class Data:
    """What a run works with."""

    problems: list[Problem]
    heldout: list[Problem]
    seed_thoughts: list[SeedThought]
    probes: dict[str, list[Problem]] = field(default_factory=dict)
    account: tuple[str, ...] = ()  # a line for each source: rows, pictures, what is odd
    contents: CheckedContents = field(default_factory=CheckedContents)


def read_data(cfg: Config, prompter: Prompter) -> Data:
    """Problems, held-out problems and seed thoughts, checked.

    Raises:
        DataError: a source cannot be read or is too small, or changed since the run began; in
            strict mode: any bad row.
        ConfigError: no problem can ever be learned from.
    """
    intake = survey(cfg, prompter)
    folder = Path(cfg.run_dir) / "data"
    write_account(intake, folder)
    if intake.num_faults and cfg.data.strict:
        raise DataError(f"{intake.complaints()}\nall of them: {folder / QUARANTINE}")
    for key, reading in intake.readings.items():
        if not reading.taken:
            raise DataError(f"{key}, {reading.where}: no row can be used; {reading.complaint()}")
    contents = check_contents(intake.contents, cfg, intake.contents_by_looks)
    account = [account_of(key, reading) for key, reading in intake.readings.items()]
    account += name_unbelievable(intake.problems, cfg)
    return Data(
        intake.problems,
        intake.heldout_problems,
        intake.thoughts,
        intake.probe_problems,
        tuple(account),
        contents,
    )


def survey(cfg: Config, prompter: Prompter) -> Intake:
    """Read and check everything; bad rows are put aside, whatever `data.strict` says.

    Raises:
        DataError: a source cannot be read at all, or holds fewer usable rows than `num`; the
        place for pictures cannot be written.
    """
    cache = cache_directory(cfg)
    _make_directory(cache, "data.cache_dir" if cfg.data.cache_dir else "run_dir")
    with Gallery(cache) as gallery, TokenCounts(prompter, cache, gallery) as tokens:
        return _survey(cfg, cache, gallery, tokens)


def cache_directory(cfg: Config) -> Path:
    """Where pictures that are no files yet are written, and what was found out about the data."""
    return Path(cfg.data.cache_dir or Path(cfg.run_dir) / "data").expanduser().resolve()


def _survey(cfg: Config, cache: Path, gallery: Gallery, tokens: TokenCounts) -> Intake:
    checks = {
        name: ModelInputCheck(tokens, cfg.model.max_length, *response_limit(cfg, name))
        for name in (*SOURCES, *PROBES)
    }

    def read(source: SourceConfig, check: Check) -> list[Reading[Problem]]:
        return read_problems(source, cfg.seed, cache, gallery, check, cfg.verify)

    train, heldout = (
        read(cfg.data.train, checks["train"].check_problem),
        read(cfg.data.heldout, checks["heldout"].check_problem),
    )
    with gallery.progress.step("seed thoughts checked", cfg.data.seed_thoughts.num) as count:

        def check_thought(thought: SeedThought) -> None:
            count()
            checks["seed_thoughts"].check_thought(thought)

        thoughts = read_seed_thoughts(
            cfg.data.seed_thoughts,
            cfg.seed,
            cfg.prompt.thought_format,
            tokens.of_text,
            check_thought,
        )
    probes = {
        name: read(source, make_probe_check(name, checks[name]))
        for name in PROBES
        if (source := getattr(cfg.evaluate, name))
    }
    return _complete(cfg, Intake(train, heldout, thoughts, probes), checks, gallery)


def _complete(
    cfg: Config, intake: Intake, checks: Mapping[str, ModelInputCheck], gallery: Gallery
) -> Intake:
    """Compare the sources with each other, and fill in lengths and fingerprints."""
    _refuse_without_pictures(cfg, intake)
    _separate(intake, gallery, is_near_bad=cfg.data.near_overlap == "refuse")
    ids = {
        "train": [p.id for p in intake.problems],
        "heldout": [p.id for p in intake.heldout_problems],
        "seed_thoughts": [t.problem.id for t in intake.thoughts],
        **{name: [p.id for p in problems] for name, problems in intake.probe_problems.items()},
    }
    for name in ("train", "heldout", *intake.probes):
        readings = intake.probes.get(name) or getattr(intake, name)
        note_tight_prompts(cfg, name, readings, checks[name].lengths)
    intake.num_tokens = {name: [checks[name].lengths[id] for id in ids[name]] for name in ids}
    records: dict[str, Sequence[Problem | SeedThought]] = {
        "data.train": intake.problems,
        "data.heldout": intake.heldout_problems,
        "data.seed_thoughts": intake.thoughts,
        **{f"evaluate.{name}": problems for name, problems in intake.probe_problems.items()},
    }
    intake.contents = contents_of(records, gallery.pixels)
    looks = gallery.looks
    intake.contents_by_looks = contents_of(records, lambda path: looks[path].as_bytes())
    return intake


def _separate(intake: Intake, gallery: Gallery, is_near_bad: bool) -> None:
    """Put training problems aside that are held out too; note or put aside near duplicates."""
    held = [("data.heldout", problem) for problem in intake.heldout_problems]
    for name, problems in intake.probe_problems.items():
        held += [(f"evaluate.{name}", problem) for problem in problems]
    for thoughts in intake.seed_thoughts:
        put_aside_taught(thoughts, [one for one in held if one[0] == "evaluate.text"])
    for reading in intake.train:
        put_aside_held(reading, held, gallery)
        intake.near_duplicates += find_near(reading, held, gallery, is_near_bad)


def _refuse_without_pictures(cfg: Config, intake: Intake) -> None:
    """
    Raises:
        DataError: a source that is to have pictures has none at all.
    """
    for key, source, readings in (
        ("data.train", cfg.data.train, intake.train),
        ("data.heldout", cfg.data.heldout, intake.heldout),
    ):
        for part, reading in zip(source.parts or (source,), readings, strict=True):
            if part.text_only or part.reader == "tiny" or set(picture_counts(reading)) != {0}:
                continue
            seen = "; ".join(f"{n} {note}" for note, n in reading.notes.items())
            raise DataError(
                f"{key}, {reading.where}: none of its {len(reading.taken)} problems has a picture"
                + (f" ({seen})" if seen else "")
                + "; expected `images`, or `text_only: true` in this source"
            )


def write_account(intake: Intake, folder: Path) -> None:
    """`intake.json` always, `quarantine.jsonl` where there are bad rows; each is written whole.

    Raises:
        DataError: the folder cannot be written.
    """
    write_readings(intake.readings, intake.report(), folder)


def write_readings(
    readings: Mapping[str, Reading[Any]], report: Mapping[str, object], folder: Path
) -> None:
    """Do as `write_account` does, with readings by name and a report of the caller's."""
    lines = [
        {"source": key, "where": r.where, "row": f.row, "kind": f.kind, "reason": f.detail}
        for key, r in readings.items()
        for f in r.faults
    ]
    _make_directory(folder, "run_dir")
    with _write_errors(folder, "run_dir"):
        write_atomically(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False))
        if lines:
            text = "\n".join(json.dumps(line) for line in lines) + "\n"
            write_atomically(folder / QUARANTINE, text)
        else:
            (folder / QUARANTINE).unlink(missing_ok=True)


def _make_directory(folder: Path, key: str) -> None:
    with _write_errors(folder, key):
        folder.mkdir(parents=True, exist_ok=True)


def _write_errors(folder: Path, key: str) -> AbstractContextManager[None]:
    what = f"{folder} cannot be written"
    return disk_errors(DataError, what, way_out=f"choose another with {key}=PATH")
