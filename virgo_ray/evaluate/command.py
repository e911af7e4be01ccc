"""The evaluation command without its command line: from what was asked for to the files.

Guarantees: everything that can be refused is refused before an engine starts; what was judged is on
disk; the report is written once every problem is answered. The caller hands in how engines are
opened (`open_engines`), so this runs with fakes too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.config import Config, ModelConfig
from virgo_ray.errors import ConfigError
from virgo_ray.evaluate.answers import AnswerFile
from virgo_ray.evaluate.benchmarks import Benchmark, find_sources, read_benchmarks
from virgo_ray.evaluate.directory import EvaluationDirectory, Protocol, identity
from virgo_ray.evaluate.fallback import VerifiersWithFallback
from virgo_ray.evaluate.progress import Progress
from virgo_ray.evaluate.results import (
    Baseline,
    BenchmarkResult,
    ModelResult,
    Report,
    measure_benchmark,
    read_baseline,
)
from virgo_ray.evaluate.sampling import Ports, SamplingPlan, Serving, complete
from virgo_ray.evaluate.tables import markdown
from virgo_ray.evaluate.targets import Model, Target
from virgo_ray.evaluate.tsv import write_predictions
from virgo_ray.verify.asking import check_verifier
from virgo_ray.verify.opinions.llm_judge import LlmJudge

# Engines that serve `model.path` of a config, and verifiers, as long as the block lasts.
OpenEngines = Callable[[Config], AbstractContextManager[Ports]]


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of the command line beside the target; without `num_samples` the config decides."""

    out: Path
    benchmarks: tuple[str, ...] = ()
    num_samples: int | None = None
    has_greedy: bool = True
    limit: int | None = None
    compare: str | None = None
    has_judge: bool = False


def evaluate(
    target: Target,
    options: EvaluationOptions,
    open_engines: OpenEngines,
    show: Callable[[str], None],
) -> Report:
    """Ask what is not answered yet; then write `report.json`, `report.md` and the predictions.

    Raises:
        ConfigError, DataError: what was asked for cannot be done, or a model was dropped meanwhile.
        RolloutError, VerifierError: the engines or verifiers gave up; the same command resumes.
    """
    cfg, plan = target.cfg, _make_plan(target, options)
    judge = _judge(cfg, options)
    rules = Protocol(cfg, judge)
    earlier = read_baseline(options.compare, rules, plan.has_greedy) if options.compare else None
    if earlier and target.base:
        raise ConfigError(
            "--compare and a base (--base or --all-rounds) are both given; expected one of them to "
            "compare with"
        )
    check_verifier(cfg.verify)
    sources = find_sources(options.benchmarks, cfg, target.has_heldout)
    trusted = cfg.model.trust_remote_code
    known = {model.label: identity(model, trusted) for model in target.models}
    with closing(EvaluationDirectory.open(options.out, rules, known)) as directory:
        configs = [_model_config(cfg, model) for model in target.models]
        benchmarks = read_benchmarks(sources, cfg, configs, options.limit, directory.path)
        _say_what_is_asked(benchmarks, directory, show)
        evaluation = _Evaluation(benchmarks, plan, directory, cfg)
        results: list[ModelResult] = []
        for model in target.models:
            if gone := target.find_gone(model):
                show(gone)
                continue
            base = results[0].baseline if target.base and results else earlier
            progress = Progress(model.label, show)
            serving = _prepare_serving(cfg, model, directory, open_engines, judge)
            found = evaluation.run(model, serving, base, progress)
            results.append(ModelResult(model, model == target.base, found))
        report = Report(rules, plan, options.limit, benchmarks, results)
        directory.write("report.json", json.dumps(report.as_json(), indent=1, ensure_ascii=False))
        directory.write("report.md", markdown(report))
    return report


@dataclass(frozen=True)
class _Evaluation:
    """Asks one model after the other about the same benchmarks, by the same plan."""

    benchmarks: Sequence[Benchmark]
    plan: SamplingPlan
    directory: EvaluationDirectory
    cfg: Config

    def run(
        self, model: Model, serving: Serving, base: Baseline | None, progress: Progress
    ) -> dict[str, BenchmarkResult]:
        """Ask, write the predictions, and return the figures by benchmark."""
        problems = [p for benchmark in self.benchmarks for p in benchmark.problems]
        requests = self.plan.requests(problems)
        with closing(AnswerFile(self.directory.answers(model.label), problems)) as file:
            sampling = self.plan.sampling
            answers = complete(requests, sampling, file, serving, model.label, progress)
            texts = file.texts()
        found = {}
        for benchmark in self.benchmarks:
            ids = {p.id for p in benchmark.problems}
            own = [answer for answer in answers if answer.id in ids]
            found[benchmark.name] = measure_benchmark(benchmark, own, base, self.cfg.seed)
            path = self.directory.predictions(model.label, benchmark.name)
            write_predictions(path, benchmark, texts, self.cfg.verify.formats)
        return found


def _make_plan(target: Target, options: EvaluationOptions) -> SamplingPlan:
    evaluate = target.cfg.evaluate
    num = options.num_samples
    if num is None:
        num = evaluate.k if target.has_config else 0
    if not num and not options.has_greedy:
        raise ConfigError(
            "--no-greedy without samples leaves nothing to ask; expected -n 1 or more"
        )
    if num > 1 and evaluate.sampling.temperature == 0:
        raise ConfigError(
            f"-n {num} at temperature 0 gives the same answer {num} times; set --temperature, or "
            "-n 0 for greedy alone"
        )
    return SamplingPlan(evaluate.sampling, num, options.has_greedy, f"{target.cfg.seed}/benchmark")


def _judge(cfg: Config, options: EvaluationOptions) -> LlmJudge | None:
    if not options.has_judge:
        return None
    if cfg.verify.judge is None:
        raise ConfigError(
            "--judge needs verify.judge; add 'verify.second_opinions=[judge]', "
            "verify.judge.url=... and verify.judge.model=..."
        )
    return LlmJudge.of(cfg.verify.judge, options.out / "judge.jsonl")


def _model_config(cfg: Config, model: Model) -> ModelConfig:
    return cfg.model.model_copy(update={"path": model.path})


def _prepare_serving(
    cfg: Config,
    model: Model,
    directory: EvaluationDirectory,
    open_engines: OpenEngines,
    judge: LlmJudge | None,
) -> Serving:
    """Return how to serve one model, with the LLM judge as fallback where there is one.

    Its verifiers give no second opinions, because those decide nothing here.
    """
    alone = cfg.verify.model_copy(update={"second_opinions": (), "judge": None})
    changed = {
        "model": _model_config(cfg, model), "verify": alone, "run_dir": str(directory.path),
    }  # fmt: skip
    own = cfg.model_copy(update=changed)

    @contextmanager
    def serve() -> Iterator[Ports]:
        with open_engines(own) as (rollouts, verifiers):
            if judge is not None and cfg.verify.judge is not None:
                num_parallel, formats = cfg.verify.judge.num_parallel, cfg.verify.formats
                verifiers = VerifiersWithFallback(verifiers, judge, num_parallel, formats)
            yield rollouts, verifiers

    return serve


def _say_what_is_asked(
    benchmarks: Sequence[Benchmark], directory: EvaluationDirectory, show: Callable[[str], None]
) -> None:
    for benchmark in benchmarks:
        text = f"{benchmark.name}: {len(benchmark.problems)} problems"
        if benchmark.num_not_asked:
            where = directory.path / "data" / "quarantine.jsonl"
            text += f"; {benchmark.num_not_asked} bad rows are not asked, see {where}"
        show(text)
