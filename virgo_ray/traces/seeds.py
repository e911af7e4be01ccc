"""The seed thoughts that a round was trained on beside its traces."""

from __future__ import annotations

from pathlib import Path

from virgo_ray.config import Config
from virgo_ray.data.contents import NAME, fingerprint_record, read_contents
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.input_checks import ModelInputCheck
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.errors import DataError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import SeedThought
from virgo_ray.selection.training_set import find_seeds

SOURCE = "data.seed_thoughts"


def count_seeds(
    cfg: Config, t: int, num_traces: int, num_taken: int | None, run_dir: Path
) -> int | None:
    """How many seed thoughts belong to round `t`; None where the run does not say.

    `num_taken` is what the round's fit noted, if it did.
    """
    known = _known(run_dir)
    if num_taken is not None or known is None:
        return num_taken
    found = find_seeds(cfg, t, len(known), num_traces, None)
    return None if found is None else len(found)


def seeds_of(
    cfg: Config, t: int, num_traces: int, num_taken: int | None, run_dir: Path
) -> list[SeedThought]:
    """The seed thoughts of round `t`, read as the run read them; `num_taken` as in `count_seeds`.

    Raises:
        DataError: they cannot be read, are not those that the run began with, or nobody knows yet
            which the round takes.
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
    chosen = find_seeds(cfg, t, len(thoughts), num_traces, num_taken)
    if chosen is None:
        raise DataError(
            f"round {t} is not trained yet, and train.seed_floor={cfg.train.seed_floor:g} lets its "
            "fit say how many seed thoughts it takes; export when it is trained, or without "
            "--seed-thoughts"
        )
    return [thoughts[i] for i in chosen]


def _known(run_dir: Path) -> dict[str, str] | None:
    """Fingerprints of the seed thoughts by id, in the order of the run."""
    path = run_dir / "data" / NAME
    return read_contents(path)[SOURCE] if path.is_file() else None
