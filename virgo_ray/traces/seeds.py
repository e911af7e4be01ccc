"""The seed thoughts that a round was trained on beside its traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from virgo_ray.config import Config
from virgo_ray.data.contents import NAME, fingerprint_record, read_contents
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.input_checks import ModelInputCheck
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.errors import DataError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import SeedThought
from virgo_ray.selection import mix
from virgo_ray.selection.streams import stream
from virgo_ray.selection.training_set import seed_share

SOURCE = "data.seed_thoughts"


def count_seeds(cfg: Config, t: int, num_traces: int, run_dir: Path) -> int | None:
    """How many seed thoughts belong to round `t`; None where the run does not say what it read."""
    known = _known(run_dir)
    return None if known is None else len(mixed(cfg, t, list(known), num_traces))


def seeds_of(cfg: Config, t: int, num_traces: int, run_dir: Path) -> list[SeedThought]:
    """The seed thoughts of round `t`, read as the run read them.

    Raises:
        DataError: they cannot be read, or are not those that the run began with.
    """
    source, wanted, cache = cfg.data.seed_thoughts, cfg.prompt.thought_format, run_dir / "data"
    prompter = Prompter(cfg.model, cfg.prompt)
    with Gallery(cache) as gallery, TokenCounts(prompter, cache, gallery) as tokens:
        check = ModelInputCheck(tokens, cfg.model.max_length).check_thought
        readings = read_seed_thoughts(source, cfg.seed, wanted, tokens.of_text, check)
    thoughts = [thought for reading in readings for thought in reading.records]
    known = _known(run_dir)
    if known is not None:
        thoughts = [x for x in thoughts if x.problem.id in known]
        changed = known.keys() ^ {x.problem.id for x in thoughts}
        changed |= {
            x.problem.id
            for x in thoughts
            if fingerprint_record(x, str.encode) != known[x.problem.id]
        }
        if changed:
            raise DataError(
                f"{len(changed)} seed thoughts are not what the run was trained on, the first is "
                f"{min(changed)!r}; put {SOURCE} back as it was, or export without --seed-thoughts"
            )
    return mixed(cfg, t, thoughts, num_traces)


def mixed(cfg: Config, t: int, seeds: Sequence[Any], num_traces: int) -> list[Any]:
    """Those of `seeds` that round `t` mixed with that many traces."""
    traces = [None] * num_traces
    both = mix(cast(Any, seeds), cast(Any, traces), seed_share(cfg, t), stream(cfg.seed, t, "mix"))
    return [seed for seed in both if seed is not None]


def _known(run_dir: Path) -> dict[str, str] | None:
    """Fingerprints of the seed thoughts by id, in the order of the run."""
    path = run_dir / "data" / NAME
    return read_contents(path)[SOURCE] if path.is_file() else None
