"""From what a user names to the models that are evaluated, and the config they are asked with.

A config (its model.path), a run directory (its final checkpoint, or every round), a checkpoint
directory, `tiny` or a Hugging Face id. A checkpoint inside a run directory is asked as that run
asks. Knows nothing of engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, SourceConfig, load_config, make_config
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.dropped import is_dropped, say_dropped
from virgo_ray.model.files import TINY, resolve_model
from virgo_ray.records import Weights
from virgo_ray.weights.publish import version_dir

_UNUSED = {"reader": "tiny", "num": 1}
# What a whole config needs beside what an evaluation uses; sampling leaves room for long thoughts.
DEFAULTS: dict[str, Any] = {
    "name": "evaluation",
    "run_dir": "evaluations",
    "model": {"path": "none", "max_length": 16384},
    "data": {"train": _UNUSED, "heldout": _UNUSED, "seed_thoughts": _UNUSED},
    "explore": {"num_problems": 1, "num_samples": 1, "sampling": {"max_tokens": 1}},
    "evaluate": {"k": 1, "sampling": {"temperature": 0.8, "max_tokens": 8192}},
}


@dataclass(frozen=True)
class Model:
    """Something to evaluate: how the tables call it, and its `model.path`."""

    label: str
    path: str


@dataclass(frozen=True)
class Target:
    """The models of a command, the base first where there is one; `has_config`: `cfg` comes from a
    file, so that its `evaluate` and `data.heldout` mean something. `left_out` says which rounds of
    a run cannot be asked any more, and why. `has_all_rounds`: one that goes later is left out, too.
    """

    cfg: Config
    models: tuple[Model, ...]
    base: Model | None
    has_config: bool
    left_out: tuple[str, ...] = ()
    has_all_rounds: bool = False

    def find_gone(self, model: Model) -> str:
        """Why a model is left out now, which was there when this target was found; else empty.

        Raises:
            ConfigError: its weights were dropped meanwhile, and it was asked for by name.
        """
        said = say_dropped(Path(model.path).expanduser())
        if said and (not self.has_all_rounds or model == self.base):
            raise ConfigError(f"{model.label} can no longer be asked: {said}")
        return f"{model.label} is left out: {said}" if said else ""

    @property
    def has_heldout(self) -> bool:
        return self.cfg.data.heldout != SourceConfig.model_validate(_UNUSED)


def find_target(
    name: str,
    overrides: Sequence[str] = (),
    config: str | None = None,
    base: str | None = None,
    all_rounds: bool = False,
) -> Target:
    """Look at what `name` is; model files are found (a hub model is fetched), not opened.

    Raises:
        ConfigError: there is no such thing, or it has no config or weights.
        LedgerError: the run is going on, or its ledger is damaged.
    """
    directory = Path(name).expanduser()
    is_run = (directory / "ledger.json").is_file()
    if all_rounds and not is_run:
        raise ConfigError(f"--all-rounds: {name!r} is no run directory; expected one")
    if name.endswith((".yaml", ".yml")):
        if config:
            raise ConfigError(f"--config {config!r} beside the config {name!r}; expected one")
        cfg = load_config(name, overrides, DEFAULTS)
        if cfg.model.path == DEFAULTS["model"]["path"]:
            raise ConfigError(f"{name} has no model.path; add it, or name a checkpoint")
        found, config = [Model(_label(cfg.model.path), cfg.model.path)], name
    elif is_run:
        cfg, config = _config(config or str(directory / "config.yaml"), overrides)
        run, path = directory.resolve(), cfg.model.path
        found = _rounds(run, path) if all_rounds else [_final(run, path)]
    else:
        cfg, config = _config(config or _config_of_its_run(directory), overrides)
        found = [Model(_label(name), name)]
    gone = [model for model in found if all_rounds and is_dropped(Path(model.path))]
    found = [model for model in found if model not in gone]
    first = Model(_label(base), base) if base else found[0] if all_rounds else None
    models = [first, *found] if first else found
    distinct = _make_distinct(
        list({model.path: model for model in reversed(models)}.values())[::-1]
    )
    for model in distinct:
        resolve_model(model.path, cfg.model.trust_remote_code)
    left_out = tuple(f"{m.label} is left out: {say_dropped(Path(m.path))}" for m in gone)
    base_model = distinct[0] if first else None
    return Target(cfg, distinct, base_model, config is not None, left_out, all_rounds)


def _config(path: str | None, overrides: Sequence[str]) -> tuple[Config, str | None]:
    if path is None:
        return make_config(DEFAULTS, overrides, "the command line"), None
    return load_config(path, overrides, DEFAULTS), path


def _config_of_its_run(directory: Path) -> str | None:
    """`runs/tiny/config.yaml` of `runs/tiny/weights/v0003`."""
    run = directory.resolve().parent.parent
    is_of_run = directory.is_dir() and (run / "ledger.json").is_file()
    return str(run / "config.yaml") if is_of_run and (run / "config.yaml").is_file() else None


def _rounds(run: Path, base: str) -> list[Model]:
    """The base and every round; rounds that kept earlier weights are not asked again."""
    with closing(Ledger.reopen(run)) as ledger:
        rounds = ledger.rounds()
    return [Model(f"{run.name} {_round(r.number)}", _path(run, r.weights, base)) for r in rounds]


def _final(run: Path, base: str) -> Model:
    with closing(Ledger.reopen(run)) as ledger:
        newest, weights = ledger.newest, ledger.weights
    if newest.number is None:
        raise ConfigError(f"{run} has trained no round yet; expected at least one, or --all-rounds")
    return Model(f"{run.name} {_round(newest.number)}", _path(run, weights, base))


def _round(number: int | None) -> str:
    return "base" if number is None else f"round {number}"


def _path(run: Path, weights: Weights, base: str) -> str:
    """Where the version lies now: the run may have been moved since. `base` is the model.path."""
    here = version_dir(run / "weights", weights.version)
    if weights.version and here.is_dir():
        return str(here)
    return weights.path if weights.version or Path(weights.path).is_dir() else base


def _label(path: str) -> str:
    """`tiny/v0003` of `runs/tiny/weights/v0003`; a hub id as it is."""
    directory = Path(path).expanduser()
    if path == TINY or not directory.is_dir():
        return path
    directory = directory.resolve()
    if directory.parent.name == "weights":
        return f"{directory.parent.parent.name}/{directory.name}"
    return directory.name


def _make_distinct(models: Sequence[Model]) -> tuple[Model, ...]:
    """Replace labels that two models share by paths: labels name rows of tables and files."""
    labels = [model.label for model in models]
    return tuple(
        Model(model.path, model.path) if labels.count(model.label) > 1 else model
        for model in models
    )
