"""Which problems are asked: benchmarks by name, read and checked once for all models.

A problem is asked only if every model compared can take it, so all answer the same ones. Bad rows
go into `data/quarantine.jsonl`, and every count is in the report: a score never hides what was not
asked. Ids are prefixed by the benchmark's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from virgo_ray.config import Config, ModelConfig, PartConfig, SourceConfig
from virgo_ray.config.data import ReaderName
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.ingest import RowCounts, describe_readings, write_readings
from virgo_ray.data.input_checks import ModelInputCheck
from virgo_ray.data.problems import read_problems
from virgo_ray.data.published import ADAPTERS
from virgo_ray.data.rows import Reading
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.model.files import describe_model, hash_description
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem

# The split that papers report, where a benchmark is named on the command line without one.
SPLITS = {
    "mathvista": "testmini", "mathverse": "testmini", "mathvision": "test", "mmmu": "validation",
    "scienceqa": "test", "chartqa": "test", "geometry3k": "test", "iconqa": "test",
    "tabmwp": "test", "clevr": "val",
}  # fmt: skip
HELDOUT = "heldout"


@dataclass(frozen=True)
class Benchmark:
    """Problems to be asked; `rows` says what became of the others."""

    name: str
    source: SourceConfig
    problems: tuple[Problem, ...]
    rows: tuple[RowCounts, ...]

    @property
    def num_not_asked(self) -> int:
        """Rows in quarantine; what was left out by design or by --limit does not count."""
        return sum(sum(row.quarantined.values()) for row in self.rows)

    def category(self, problem: Problem) -> str:
        """What follows the data set's name in the problem's source ("algebra" of
        "mathvision/algebra"), or a source that is no such name; else empty."""
        head, slash, tail = problem.source.partition("/")
        parts = self.source.parts or (self.source,)
        names = {"unknown", self.name, *(Path(part.path or "").stem for part in parts)}
        return tail if slash else "" if head in names else head


def find_sources(names: Sequence[str], cfg: Config, has_heldout: bool) -> dict[str, SourceConfig]:
    """The sources of `--benchmarks`, else of the config's `benchmarks`, else its held-out problems.

    `names` are keys of the config's `benchmarks` or `READER=PATH[:SPLIT]`.

    Raises:
        ConfigError: an unknown name, or nothing to ask.
    """
    if not names:
        heldout = {HELDOUT: cfg.data.heldout} if has_heldout else {}
        found = dict(cfg.benchmarks) or heldout
        if not found:
            raise ConfigError(
                "no benchmark is named; expected --benchmarks READER=PATH, such as "
                "--benchmarks mathvista=AI4Math/MathVista, or a config with `benchmarks`"
            )
        return found
    sources: dict[str, SourceConfig] = {}
    for given in names:
        known = {**cfg.benchmarks, **({HELDOUT: cfg.data.heldout} if has_heldout else {})}
        name, source = (
            (given, known[given]) if given in known else _parse_benchmark(given, list(known))
        )
        if name in sources:
            raise ConfigError(
                f"--benchmarks: two are called {name!r}; give them names in the config's "
                "`benchmarks` mapping"
            )
        sources[name] = source
    return sources


def _parse_benchmark(given: str, known: Sequence[str]) -> tuple[str, SourceConfig]:
    """`mathvista=AI4Math/MathVista:testmini` as a name and a source."""
    reader, is_pair, path = given.partition("=")
    readers = [name for name in get_args(ReaderName) if name != "mix"]
    if not is_pair or not path or reader not in readers:
        known_names = f"a name in the config's benchmarks ({', '.join(known) or 'it has none'})"
        raise ConfigError(
            f"--benchmarks {given!r}: expected READER=PATH[:SPLIT] or {known_names}; readers: "
            f"{', '.join(readers)}"
        )
    split = ""
    if (named := re.fullmatch(r"(.+):([\w.-]+)", path)) and not Path(path).exists():
        path, split = named[1], named[2]
    name = reader if reader in ADAPTERS else Path(path).stem
    fields: dict[str, str] = {}
    if not split and reader not in SPLITS:
        fields = {"split": ""}  # a file is asked whole, whatever its rows call their split
    source = SourceConfig.model_validate(
        {"reader": reader, "path": path, "fields": fields}
        | ({"split": split or SPLITS[reader]} if split or reader in SPLITS else {})
        | ({"subset": "*"} if reader == "mmmu" and not Path(path).exists() else {})
    )
    return name, source


def read_benchmarks(
    sources: Mapping[str, SourceConfig],
    cfg: Config,
    models: Sequence[ModelConfig],
    limit: int | None,
    out: Path,
) -> list[Benchmark]:
    """Read all, quarantine what is bad or fits not every model, write the account.

    `limit` takes that many problems of each source, chosen by the config's seed.

    Raises:
        DataError: a source cannot be read, or none of its rows can be used.
    """
    readings: dict[str, Reading[Problem]] = {}
    benchmarks = []
    for name, found in _read_sources(sources, cfg, models, limit, out / "data"):
        source = sources[name]
        for i, reading in enumerate(found):
            readings[name + (f".parts.{i}" if len(found) > 1 else "")] = reading
        problems = [problem for reading in found for problem in reading.records]
        prefixed = tuple(replace(p, id=f"{name}/{p.id}") for p in problems)
        benchmarks.append(Benchmark(name, source, prefixed, tuple(map(RowCounts.of, found))))
    write_readings(readings, {"sources": describe_readings(readings)}, out / "data")
    return benchmarks


def _read_sources(
    sources: Mapping[str, SourceConfig],
    cfg: Config,
    models: Sequence[ModelConfig],
    limit: int | None,
    cache: Path,
) -> Iterator[tuple[str, list[Reading[Problem]]]]:
    with ExitStack() as stack:
        gallery = stack.enter_context(Gallery(cache))
        counts = [TokenCounts(prompter, cache, gallery) for prompter in _prompters(models, cfg)]
        checks = [
            ModelInputCheck(stack.enter_context(tokens), cfg.model.max_length) for tokens in counts
        ]

        def check(problem: Problem) -> None:
            for one in checks:
                one.check_problem(problem)

        for name, source in sources.items():
            limited = _limit_source(source, limit)
            try:
                found = read_problems(limited, cfg.seed, cache, gallery, check)
            except DataError:
                if limited == source:
                    raise
                # smaller than the limit: all of it
                found = read_problems(source, cfg.seed, cache, gallery, check)
            yield name, found


def _limit_source(source: SourceConfig, limit: int | None) -> SourceConfig:
    def smaller(part: PartConfig) -> int | None:
        return part.num if limit is None else min(limit, part.num or limit)

    if not source.parts:
        return source.model_copy(update={"num": smaller(source)})
    parts = tuple(part.model_copy(update={"num": smaller(part)}) for part in source.parts)
    return source.model_copy(update={"parts": parts})


def _prompters(models: Sequence[ModelConfig], cfg: Config) -> list[Prompter]:
    """One for each kind of model: those with equal files are asked once."""
    kinds = {_prompt_files(model): model for model in models}
    prompters = [Prompter(model, cfg.prompt) for model in kinds.values()]
    for prompter in prompters:
        prompter.check_model()
    return prompters


def _prompt_files(model: ModelConfig) -> str:
    """A hash of what makes prompts: tokenizer, template and processor."""
    return hash_description(describe_model(model.path, model.trust_remote_code))
