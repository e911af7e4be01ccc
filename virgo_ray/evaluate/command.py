"""The evaluation command without its command line: from what was asked for to the files.

Guarantees: everything that can be refused is refused before an engine starts; what was judged is on
disk; the report is written once all is answered. Engines come from whoever calls (`opened`), so
this runs with fakes too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, ModelConfig
from virgo_ray.errors import ConfigError
from virgo_ray.evaluate.answers import AnswerFile
from virgo_ray.evaluate.asking import Asked, ask, keys_of, refuse_missing
from virgo_ray.evaluate.benchmarks import Benchmark, find_sources, read_benchmarks
from virgo_ray.evaluate.deciding import DecidingVerifiers
from virgo_ray.evaluate.place import Place, identity, protocol
from virgo_ray.evaluate.progress import Progress
from virgo_ray.evaluate.results import (
    Baseline,
    baseline,
    earlier_base,
    results_of,
    whole_report,
)
from virgo_ray.evaluate.tables import markdown
from virgo_ray.evaluate.targets import Model, Target
from virgo_ray.evaluate.tsv import write_predictions
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.verify.asking import check_verifier
from virgo_ray.verify.opinions.llm_judge import LlmJudge

Ports = tuple[Rollouts, Verifiers]
# Engines that serve `model.path` of a config, and verifiers, as long as the block lasts.
Opened = Callable[[Config], AbstractContextManager[Ports]]


@dataclass(frozen=True)
class Wishes:
    """What the command line says beside the target; `num_samples` None: what the config says."""

    out: Path
    benchmarks: tuple[str, ...] = ()
    num_samples: int | None = None
    has_greedy: bool = True
    limit: int | None = None
    compare: str | None = None
    has_judge: bool = False


def evaluate(
    target: Target, wishes: Wishes, opened: Opened, show: Callable[[str], None]
) -> dict[str, Any]:
    """Ask what is not answered yet, write `report.json`, `report.md` and the predictions.

    Raises:
        ConfigError, DataError: what was asked for cannot be done. RolloutError, VerifierError: the
        engines or verifiers gave up; the same command goes on from there.
    """
    cfg, asked = target.cfg, _asked(target, wishes)
    judge = _judge(cfg, wishes)
    named = None if judge is None else {"model": judge.model, "prompt": judge.prompt}
    rules = protocol(cfg, named)
    earlier = earlier_base(wishes.compare, rules, asked.has_greedy) if wishes.compare else None
    if earlier and target.base:
        raise ConfigError("--compare beside a base; expected one of them to compare with")
    check_verifier(cfg.verify)
    sources = find_sources(wishes.benchmarks, cfg, target.has_heldout)
    trusted = cfg.model.trust_remote_code
    known = {model.label: identity(model, trusted) for model in target.models}
    with closing(Place.open(wishes.out, rules, known)) as place:
        configs = [_model_config(cfg, model) for model in target.models]
        benchmarks = read_benchmarks(sources, cfg, configs, wishes.limit, place.path)
        _say_what_is_asked(benchmarks, place, show)
        entries: list[dict[str, Any]] = []
        for model in target.models:
            base = baseline(entries[0]) if target.base and entries else earlier
            progress = Progress(model.label, show)
            serving = _serving(cfg, model, place, opened, judge)
            work = _Work(benchmarks, asked, place, cfg)
            found = work.of(model, serving, base, progress)
            entries.append(_entry(model, model == target.base, found))
        report = whole_report(rules, asked, wishes.limit, benchmarks, entries)
        place.write("report.json", json.dumps(report, indent=1, ensure_ascii=False))
        place.write("report.md", markdown(report))
    return report


@dataclass(frozen=True)
class _Work:
    """The same for every model."""

    benchmarks: Sequence[Benchmark]
    asked: Asked
    place: Place
    cfg: Config

    def of(
        self,
        model: Model,
        serving: Callable[[], AbstractContextManager[Ports]],
        base: Baseline | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Figures by benchmark, once all is answered; writes the predictions."""
        problems = [p for benchmark in self.benchmarks for p in benchmark.problems]
        passes = self.asked.passes(problems)
        with closing(AnswerFile(self.place.answers(model.label), problems)) as file:
            ask(passes, file, serving, progress)
            refuse_missing(passes, file, model.label)
            wanted = keys_of(passes)
            answers = [answer for answer in file if answer.key in wanted]
            texts = file.texts()
        found = {}
        for benchmark in self.benchmarks:
            ids = {p.id for p in benchmark.problems}
            own = [answer for answer in answers if answer.id in ids]
            found[benchmark.name] = results_of(benchmark, own, base, self.cfg.seed)
            path = self.place.predictions(model.label, benchmark.name)
            write_predictions(path, benchmark, texts, self.cfg.verify.formats)
        return found


def _asked(target: Target, wishes: Wishes) -> Asked:
    evaluate = target.cfg.evaluate
    num = wishes.num_samples
    if num is None:
        num = evaluate.k if target.has_config else 0
    if not num and not wishes.has_greedy:
        raise ConfigError("--no-greedy without samples asks nothing; expected -n 1 or more")
    if num > 1 and evaluate.sampling.temperature == 0:
        raise ConfigError(
            f"-n {num} at temperature 0 gives the same answer {num} times; set --temperature, or "
            "-n 0 for greedy alone"
        )
    return Asked(evaluate.sampling, num, wishes.has_greedy, target.cfg.seed)


def _judge(cfg: Config, wishes: Wishes) -> LlmJudge | None:
    if not wishes.has_judge:
        return None
    if cfg.verify.judge is None:
        raise ConfigError(
            "--judge without verify.judge; add 'verify.second_opinions=[judge]', "
            "verify.judge.url=... and verify.judge.model=..."
        )
    return LlmJudge.of(cfg.verify.judge, wishes.out / "judge.jsonl")


def _model_config(cfg: Config, model: Model) -> ModelConfig:
    return cfg.model.model_copy(update={"path": model.path})


def _serving(
    cfg: Config, model: Model, place: Place, opened: Opened, judge: LlmJudge | None
) -> Callable[[], AbstractContextManager[Ports]]:
    """Engines for one model. The verifiers give no second opinions: they decide nothing here."""
    alone = cfg.verify.model_copy(update={"second_opinions": (), "judge": None})
    changed = {
        "model": _model_config(cfg, model), "verify": alone, "run_dir": str(place.path),
    }  # fmt: skip
    own = cfg.model_copy(update=changed)
    if judge is None or cfg.verify.judge is None:
        return lambda: opened(own)
    num_parallel, formats = cfg.verify.judge.num_parallel, cfg.verify.formats
    return lambda: _Judged(opened(own), judge, num_parallel, formats)


@dataclass
class _Judged(AbstractContextManager[Ports]):
    """Ports whose verifiers put open questions to the judge."""

    inner: AbstractContextManager[Ports]
    judge: LlmJudge
    num_parallel: int
    formats: Any

    def __enter__(self) -> Ports:
        rollouts, verifiers = self.inner.__enter__()
        return rollouts, DecidingVerifiers(verifiers, self.judge, self.num_parallel, self.formats)

    def __exit__(self, *exc: Any) -> bool | None:
        return self.inner.__exit__(*exc)


def _entry(model: Model, is_base: bool, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": model.label, "path": model.path, "is_base": is_base, "benchmarks": dict(found)}


def _say_what_is_asked(
    benchmarks: Sequence[Benchmark], place: Place, show: Callable[[str], None]
) -> None:
    for benchmark in benchmarks:
        text = f"{benchmark.name}: {len(benchmark.problems)} problems"
        if benchmark.num_not_asked:
            where = place.path / "data" / "quarantine.jsonl"
            text += f"; {benchmark.num_not_asked} bad rows are not asked, see {where}"
        show(text)
