"""How many tokens the phases of a run handle, and how long that takes on a card.

Prompts are counted where the data is there. Responses cannot be known before they are sampled:
their mean is given or assumed. Hours of a fit follow from a measured row where there is one for the
card; all others are assumptions, and each says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.config import Config, SourceConfig
from virgo_ray.plan.cards import MEASURED, Card, nearest
from virgo_ray.plan.engines import EngineMemory
from virgo_ray.train.shape import ModelShape

MEASURED_MARK, ASSUMED_MARK = "measured", "assumed"
SEED_FIT = "fit of round 0"
PROMPT_TEXT_TOKENS = 150  # of a question, assumed where the data is not there
PICTURE_TOKENS = 1280  # assumed where model.max_pixels is null
NUM_UNKNOWN = 5000  # records of a source that neither counts them nor is there
RESPONSE_SHARE = 1 / 3  # of sampling.max_tokens, assumed
DECODE_SHARE, PREFILL_SHARE = 0.6, 0.4  # of a card's bandwidth and peak, assumed
SAMPLING_BASIS = (
    f"{ASSUMED_MARK}: no engine has been measured; {DECODE_SHARE:g} of the card's bandwidth, "
    f"{PREFILL_SHARE:g} of its peak"
)


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts of one source, or of prompt and thought together."""

    num: int
    total: int
    longest: int
    is_counted: bool

    @property
    def mean(self) -> float:
        return self.total / self.num if self.num else 0.0


@dataclass(frozen=True)
class Material:
    train: Lengths
    heldout: Lengths
    seeds: Lengths
    probes: Lengths
    response: float  # mean tokens of a sampled response
    response_basis: str


@dataclass(frozen=True)
class Phase:
    """One phase, once: requests or examples, tokens read and written, hours and their basis."""

    name: str
    times: int  # in the whole run
    num: int
    prompt_tokens: int
    response_tokens: int
    hours: float | None
    basis: str

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.response_tokens


def assume_material(cfg: Config, shape: ModelShape, response: float | None) -> Material:
    """Of a config whose data is not here."""
    pixels = cfg.model.max_pixels
    picture = pixels // shape.token_pixels if pixels else PICTURE_TOKENS
    prompt = PROMPT_TEXT_TOKENS + picture
    mean, basis = _response(cfg, response)
    seed = min(PROMPT_TEXT_TOKENS + round(mean), cfg.model.max_length)
    seeds = cfg.data.seed_thoughts
    longest = min(
        cfg.model.max_length, PROMPT_TEXT_TOKENS + (seeds.max_tokens or cfg.model.max_length)
    )
    probes = [p for p in (cfg.evaluate.perception, cfg.evaluate.text) if p]
    num_probes = sum(_num(p) for p in probes)
    num_seeds = seeds.num or NUM_UNKNOWN
    return Material(
        _assumed(_num(cfg.data.train), prompt, prompt),
        _assumed(_num(cfg.data.heldout), prompt, prompt),
        _assumed(num_seeds, seed, longest),
        _assumed(num_probes, prompt, prompt),
        mean,
        basis,
    )


def count_material(
    cfg: Config, num_tokens: dict[str, list[int]], response: float | None
) -> Material:
    """Of lengths that were counted, by source."""
    mean, basis = _response(cfg, response)
    probes = [n for name in ("perception", "text") for n in num_tokens.get(name, [])]
    train, heldout, seeds = (num_tokens[name] for name in ("train", "heldout", "seed_thoughts"))
    return Material(
        _counted(train), _counted(heldout), _counted(seeds), _counted(probes), mean, basis
    )


def phases(
    cfg: Config,
    shape: ModelShape,
    material: Material,
    engine: EngineMemory | None,
    card: Card | None,
) -> list[Phase]:
    """What one run does, in the order of a round."""
    clock = Clock(cfg, shape, engine, card)
    explored = _explored(cfg, material)
    asked, prompts = _evaluated(cfg, material)
    made = []
    if cfg.explore.screen:
        num, total = material.train.num, material.train.total
        made.append(clock.sampling("screen with the base", 1, num, total, material.response))
    if cfg.rounds:
        num = explored * cfg.explore.num_samples
        total = round(num * material.train.mean)
        made.append(clock.sampling("explore", cfg.rounds, num, total, material.response))
    if cfg.seed_round:
        made.append(clock.fit(SEED_FIT, 1, material.seeds.num, material.seeds.total))
    if cfg.rounds:
        traces = most_traces(cfg, material)
        seeds = 0 if has_no_seeds(cfg) else material.seeds.num
        total = round(traces * (material.train.mean + material.response))
        total += material.seeds.total if seeds else 0
        num = traces + seeds
        made.append(clock.fit("fit of a later round, at most", cfg.rounds, num, total))
        if cfg.train.objective.has_reference:
            read = round(traces * (material.train.mean + material.response))
            made.append(clock.reference(cfg.rounds, traces, read))
    times = num_evaluations(cfg)
    made.append(clock.sampling("evaluate", times, asked, prompts, material.response))
    return made


def num_evaluations(cfg: Config) -> int:
    """Of the base, and of every trained round that `evaluate.every` makes due."""
    trained = range(0 if cfg.seed_round else 1, cfg.rounds + 1)
    return 1 + sum(cfg.evaluate.is_due(t, cfg.rounds) for t in trained)


def most_traces(cfg: Config, material: Material) -> int:
    """Traces of a later round if all that may be kept is kept, in one round; of groups all
    rollouts, of pairs both."""
    objective = cfg.train.objective
    per_problem = cfg.select.max_per_problem if cfg.select.policy == "improved" else 1
    if objective.is_reinforcement:
        per_problem = cfg.explore.num_samples
    if objective.name == "dpo":
        per_problem = 2 * objective.dpo.pairs_per_problem
    traces = _explored(cfg, material) * min(per_problem, cfg.explore.num_samples)
    return min(traces, cfg.select.max_traces or traces)


def has_no_seeds(cfg: Config) -> bool:
    """Whether later rounds train without seed thoughts."""
    return cfg.train.seed_share == 0 and cfg.train.seed_floor == 0


@dataclass(frozen=True)
class Clock:
    """Hours on a card; without one there are none."""

    cfg: Config
    shape: ModelShape
    engine: EngineMemory | None
    card: Card | None

    def fit(self, name: str, times: int, num: int, tokens: int) -> Phase:
        """Examples and tokens of one epoch; all epochs are counted."""
        train = self.cfg.train
        epochs = 1 if self._is_in_steps(name) else train.stop_epoch or train.num_epochs
        total = train.num_tokens or round(epochs * tokens)
        flops = (6 if train.lora else 8) - (0 if train.gradient_checkpointing else 2)
        return self._trainer(name, times, round(epochs * num), total, flops)

    def reference(self, times: int, num: int, tokens: int) -> Phase:
        """One pass without gradients, over what is trained on with a group."""
        return self._trainer("log-probabilities of the start", times, num, tokens, flops=2)

    def _is_in_steps(self, name: str) -> bool:
        """Whether the steps of an objective share all examples once."""
        return name != SEED_FIT and self.cfg.train.objective.steps is not None

    def _trainer(self, name: str, times: int, num: int, tokens: int, flops: int) -> Phase:
        """`flops` are those of a decoder parameter and token."""
        hours, basis = None, "no card was named"
        if self.card:
            train = self.cfg.train
            row = nearest(train.lora is not None, train.zero_stage, train.micro_batch_tokens)
            work = flops * self.shape.decoder * tokens
            hours = work / (row.mfu * self.card.flops * train.num_workers) / 3600
            basis = _fit_basis(self.card, row.card, row.row, row.mfu)
        return Phase(name, times, num, tokens, 0, hours, basis)

    def sampling(self, name: str, times: int, num: int, prompts: int, response: float) -> Phase:
        written = round(num * response)
        hours, basis = None, "no card was named"
        if self.card and self.engine and num:
            seconds = self._decode_s(num, prompts, written) + self._prefill_s(prompts)
            hours, basis = seconds / 3600, SAMPLING_BASIS
        return Phase(name, times, num, prompts, written, hours, basis)

    def _decode_s(self, num: int, prompts: int, written: int) -> float:
        """Every token of a step reads the weights once, and its own sequence's cache."""
        assert self.card and self.engine
        cfg = self.cfg.rollout
        length = (prompts + written / 2) / num
        together = max(1, min(cfg.max_in_flight, int(self.engine.kv_tokens / max(length, 1))))
        per_token = self.engine.kv_cache / max(self.engine.kv_tokens, 1)
        step = self.engine.weights + together * length * per_token
        rate = together * DECODE_SHARE * self.card.bandwidth / step
        return written / (rate * cfg.num_workers)

    def _prefill_s(self, prompts: int) -> float:
        assert self.card
        num_gpus = self.cfg.rollout.num_workers * (self.cfg.rollout.gpus_per_worker or 1)
        work = 2 * self.shape.decoder * prompts
        return work / (PREFILL_SHARE * self.card.flops * num_gpus)


def _fit_basis(card: Card, measured_on: str, row: str, mfu: float) -> str:
    if any(one.card == card.name for one in MEASURED):
        return f"{MEASURED_MARK} on {measured_on}: MFU {mfu:g} of {row}, scaled to this model"
    return (
        f"{ASSUMED_MARK}: no row of {card.name} is measured; MFU {mfu:g} of {row} on {measured_on}"
    )


def _response(cfg: Config, given: float | None) -> tuple[float, str]:
    if given:
        return given, "given by --response-tokens"
    limit = cfg.explore.sampling.max_tokens
    return limit * RESPONSE_SHARE, f"{ASSUMED_MARK}: a third of max_tokens={limit}"


def _num(source: SourceConfig) -> int:
    if source.parts:
        return sum(part.num or NUM_UNKNOWN for part in source.parts)
    return source.num or NUM_UNKNOWN


def _assumed(num: int, each: int, longest: int) -> Lengths:
    return Lengths(num, num * each, longest, is_counted=False)


def _counted(lengths: list[int]) -> Lengths:
    return Lengths(len(lengths), sum(lengths), max(lengths, default=0), is_counted=True)


def _explored(cfg: Config, material: Material) -> int:
    return min(cfg.explore.num_problems, material.train.num)


def _evaluated(cfg: Config, material: Material) -> tuple[int, int]:
    """Requests of one evaluation, and tokens of their prompts: every problem greedily, k times,
    blanked and with its options permuted, and the probes once."""
    evaluate = cfg.evaluate
    each = 1 + evaluate.k + int(evaluate.blank_image) + evaluate.permute_options
    num = each * material.heldout.num + material.probes.num
    return num, each * material.heldout.total + material.probes.total
