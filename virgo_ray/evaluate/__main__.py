"""`python -m virgo_ray.evaluate MODEL [--benchmarks ...] [key=value ...]`: how good is a model?

MODEL is a config, a run directory, a checkpoint directory or a Hugging Face id. The same command on
the same --out goes on where it was. Exit codes: 0 all answered and reported; 2 the request or the
data are wrong; 1 anything else; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from virgo_ray.command import exit_code
from virgo_ray.config import Config, resolve_run_dir

if TYPE_CHECKING:
    from virgo_ray.evaluate.command import OpenEngines, Ports
    from virgo_ray.evaluate.targets import Target

PROG = "python -m virgo_ray.evaluate"

EPILOG = """\
what is MODEL:
  configs/my.yaml         the model.path of a config, asked as it says
  runs/tiny               the final checkpoint of a run (--all-rounds: base and every round),
                          asked as the run asks, by default on its held-out problems
  runs/tiny/weights/v0002 one checkpoint of a run
  Qwen/Qwen2.5-VL-7B-Instruct, or a directory: any checkpoint that vLLM serves

benchmarks: READER=PATH[:SPLIT], where PATH is a file, a directory or a Hugging Face id, or a name
in the config's `benchmarks:` mapping. Readers: mathvista mathverse mathvision mmmu olympiadbench
scienceqa chartqa geometry3k ... vlmevalkit jsonl parquet (all: docs/data.md).

examples:
  %(prog)s runs/tiny --base tiny
  %(prog)s runs/tiny --all-rounds
  %(prog)s Qwen/Qwen2.5-VL-7B-Instruct \\
      --benchmarks mathvista=AI4Math/MathVista vlmevalkit=LMUData/MathVision.tsv
  %(prog)s runs/seven --compare evaluations/Qwen/report.json -n 8

written to --out: report.json, report.md, predictions/MODEL_BENCHMARK.tsv (VLMEvalKit's columns),
answers/MODEL.jsonl (every judged response), data/quarantine.jsonl, logs/. What is measured and how:
docs/evaluation.md. Keys for key=value: `virgo-ray run --help`."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv, prog)
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    return exit_code(lambda: work(args), "interrupted; the same command goes on")


def work(args: argparse.Namespace) -> None:
    """The whole command. Imported late, so that --help is quick."""
    from virgo_ray.evaluate.command import EvaluationOptions, evaluate
    from virgo_ray.evaluate.tables import markdown
    from virgo_ray.evaluate.targets import find_target

    benchmarks, late = split_benchmarks(args.benchmarks)
    overrides = [*args.overrides, *late]
    if args.temperature is not None:
        overrides.append(f"evaluate.sampling.temperature={args.temperature}")
    if args.max_tokens is not None:
        overrides.append(f"evaluate.sampling.max_tokens={args.max_tokens}")
    target = find_target(args.model, overrides, args.config, args.base, args.all_rounds)
    for line in target.left_out:
        print(line, flush=True)
    options = EvaluationOptions(
        out=resolve_run_dir(args.out or default_out(args.model, target)),
        benchmarks=tuple(benchmarks),
        num_samples=args.n,
        has_greedy=args.greedy,
        limit=args.limit,
        compare=args.compare,
        has_judge=args.judge,
    )
    with on_ray(target.cfg) as open_engines:
        report = evaluate(target, options, open_engines, lambda text: print(text, flush=True))
    print(markdown(report))
    print(f"report: {options.out}/report.md, {options.out}/report.json")


@contextmanager
def on_ray(cfg: Config) -> Iterator[OpenEngines]:
    """Something that opens engines; Ray starts with the first of them, and ends with the block."""
    with ExitStack() as stack:
        joined: list[str] = []

        @contextmanager
        def open_engines(own: Config) -> Iterator[Ports]:
            from virgo_ray.actors.cluster import connect_cluster, serve_model

            if not joined:
                joined.append(stack.enter_context(connect_cluster(cfg)))
            with serve_model(own) as ports:
                yield ports

        yield open_engines


def default_out(model: str, target: Target) -> str:
    """`evaluation` in a run directory; elsewhere `evaluations/` and the model's name."""
    from virgo_ray.evaluate.directory import slug

    if (Path(model).expanduser() / "ledger.json").is_file():
        return str(Path(model).expanduser() / "evaluation")
    return f"evaluations/{slug(target.models[-1].label)}"


def split_benchmarks(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """(benchmarks, overrides): `key=value` may follow --benchmarks, which takes all words.

    >>> split_benchmarks(["mathvista=AI4Math/MathVista", "seed=1", "model.dtype=float32"])
    (['mathvista=AI4Math/MathVista'], ['seed=1', 'model.dtype=float32'])
    """
    overrides = [
        word
        for word in given
        if (key := word.partition("=")[0]) != word and ("." in key or key in Config.model_fields)
    ]
    return [word for word in given if word not in overrides], overrides


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure a vision-language model on benchmarks: pass@1, pass@k, maj@k, thought "
        "lengths, by category and difficulty, with intervals and a paired test against a base. The "
        "same command goes on where it was stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a config, a run directory, a checkpoint, or a hub id")
    add("overrides", metavar="key=value", nargs="*", help="set a key of the config")
    add("--benchmarks", metavar="NAME", nargs="+", default=[], help="what to ask, see below")
    add("--config", metavar="FILE", help="prompts, limits and engines for a checkpoint")
    add("--base", metavar="MODEL", help="a checkpoint or hub id that the others are compared with")
    add("--compare", metavar="REPORT.json", help="compare with an earlier report's base instead")
    add("--all-rounds", action="store_true", help="of a run: its base and every round")
    add("-n", type=_count, metavar="N", help="samples per problem beside the greedy answer "
        "(default: evaluate.k of the config; without one, or 0: greedy alone)")  # fmt: skip
    add("--no-greedy", dest="greedy", action="store_false", help="only the samples; pass@1 is "
        "their average")  # fmt: skip
    add("--temperature", type=float, metavar="T", help="of the samples")
    add("--max-tokens", type=_positive, metavar="N", help="longest response")
    add("--limit", type=_positive, metavar="N", help="at most N problems of each benchmark")
    add("--judge", action="store_true", help="ask verify.judge where the rules find no right "
        "answer")  # fmt: skip
    add("--out", metavar="DIR", help="default: evaluation in a run, else evaluations/MODEL")
    return parser.parse_intermixed_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
