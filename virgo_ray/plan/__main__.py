"""`virgo-ray plan CONFIG [--gpus 8 --card h100 [--nodes 2]] [key=value ...]`.

Reads the config and the model's config.json; starts nothing and needs neither GPUs nor weights.
Data that lies here is counted. Exit codes: 0 the run fits; 1 it does not; 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.command import exit_code
from virgo_ray.config import (
    Config,
    SourceConfig,
    derive_gpus,
    open_config,
    refuse_without_gpus,
)
from virgo_ray.data.ingest import survey
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.model.files import describe_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.plan.cards import CARDS, find_card
from virgo_ray.plan.engines import find_uncounted
from virgo_ray.plan.seats import find_nodes, find_seats
from virgo_ray.plan.text import page, to_json
from virgo_ray.plan.ways import find_ways
from virgo_ray.plan.whole import Machine, RunPlan, plan_run
from virgo_ray.plan.work import Material, assume_material, count_material
from virgo_ray.train.shape import ModelShape, read_shape

PROG = "python -m virgo_ray.plan"
BUNDLED = ("tiny",)  # readers whose data comes with the package


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    args = parse_args(argv, prog)
    return exit_code(lambda: plan(args))


def plan(args: argparse.Namespace) -> int:
    """Print the plan; 1 where the run does not fit."""
    opened = open_config(args.config, args.overrides)
    cfg = opened.cfg
    is_open = None in (cfg.rollout.gpus_per_worker, cfg.train.gpus_per_worker)
    cfg = derive_gpus(cfg, num_gpus=args.gpus or int(args.card is not None))
    _refuse_gpu_keys(cfg)
    directory = describe_model(cfg.model.path, cfg.model.trust_remote_code)
    card = find_card(args.card) if args.card else None
    if card is None and (args.gpus or cfg.rollout.gpus_per_worker or cfg.train.gpus_per_worker):
        raise ConfigError("this config uses GPUs; say which a node has with --gpus 8 --card h100")
    host = args.host_memory * 10**9 if args.host_memory else None
    shape = read_shape(directory, cfg)
    material, notes = find_material(cfg, shape, args.response_tokens)
    notes = [*opened.remarks(args.config), *notes, *find_uncounted(cfg)]
    if is_open and card is None:
        notes.append("planned for CPUs alone; for GPUs say which: --gpus 8 --card h100")

    def replan(other: Config) -> RunPlan:
        own = shape if other.train == cfg.train else read_shape(directory, other)
        seats = find_seats(other, find_nodes(other, args.gpus, args.nodes))
        return plan_run(other, own, Path(directory), Machine(card, host), seats, material)

    made = replan(cfg)
    ways = find_ways(cfg, made, replan)
    if args.json:
        print(json.dumps(to_json(made, ways), indent=1))
    else:
        print(page(cfg, made, ways, notes))
    return int(not made.is_fitting)


def _refuse_gpu_keys(cfg: Config) -> None:
    try:
        refuse_without_gpus(cfg)
    except ConfigError as error:
        raise ConfigError(f"{error}\nTo plan for GPUs, say which: --gpus 8 --card h100") from error


def find_material(
    cfg: Config, shape: ModelShape, response: float | None
) -> tuple[Material, list[str]]:
    """Counted lengths where all data is here, assumed ones otherwise; and what to say of it."""
    away = [key for key, source in _sources(cfg) if not _is_here(source)]
    if away:
        return assume_material(cfg, shape, response), [
            f"{', '.join(away)} not here: lengths are assumed"
        ]
    try:
        counted = survey(cfg, Prompter(cfg.model, cfg.prompt)).num_tokens
    except DataError as error:
        return assume_material(cfg, shape, response), [f"lengths are assumed: {error}"]
    return count_material(cfg, counted, response), []


def _sources(cfg: Config) -> list[tuple[str, SourceConfig]]:
    data = cfg.data
    named = [("data.train", data.train), ("data.heldout", data.heldout)]
    probes = {"evaluate.perception": cfg.evaluate.perception, "evaluate.text": cfg.evaluate.text}
    return [*named, *((key, source) for key, source in probes.items() if source)]


def _is_here(source: SourceConfig) -> bool:
    return all(
        part.reader in BUNDLED or (part.path is not None and Path(part.path).expanduser().exists())
        for part in source.parts or (source,)
    )


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description="Say what a run would need, before anything is started."
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs of one node")
    parser.add_argument("--card", metavar="NAME", help=f"their kind: {', '.join(CARDS)}")
    parser.add_argument(
        "--nodes", type=int, metavar="N", help="nodes; as many as needed if left out"
    )
    parser.add_argument(
        "--host-memory", type=int, metavar="GB", help="memory of one node, to check"
    )
    parser.add_argument(
        "--response-tokens", type=float, metavar="N", help="mean length of a sampled response"
    )
    parser.add_argument("--json", action="store_true", help="print the plan for a program")
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/tiny.yaml")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="override a key")
    return parser.parse_intermixed_args(argv)  # options may stand behind the config


if __name__ == "__main__":
    sys.exit(main())
