"""Every metric of a run: its name, unit and meaning, by the kind of record that holds it.

`Metrics.log` refuses what is not declared here, and docs/metrics.md is this list, so neither can
drift from the other. A name may have places, such as `{status}`, that stand for one word each. What
the sinks make of a name is in `monitor/rows.py` (W&B and other trackers) and
`monitor/prometheus.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from virgo_ray.ports import Counts

PLACE = re.compile(r"\{\w+\}")
HOURS = "hours"  # an axis: since the first record of the run
ROLLOUTS = "rollouts_total"  # an axis: of the phase, over all rounds
SO_FAR: Counts = "so far"
IN_PHASE: Counts = "in the phase"
SINCE: Counts = "since the record before"
TEXT = "text"  # the unit of what is no number; JSONL has it, the other sinks leave it out
SHARE, COUNT, TOKENS, S, MIB, RATE = "share", "count", "tokens", "s", "MiB", "tokens/s"


@dataclass(frozen=True)
class Metric:
    """`when` says in which runs it is there, if not in all. `counts`: the number only grows, over a
    start (SO_FAR) or within a phase (IN_PHASE), or is what came since the record before (SINCE)."""

    name: str
    unit: str
    meaning: str
    when: str = ""
    counts: Counts = ""


@dataclass(frozen=True)
class Kind:
    """A kind of record; `axis` is what it is drawn over, by phase where `by_phase`.

    An axis is a number that no two records of a curve share: what is logged every minute is drawn
    over HOURS, not over its round.
    """

    name: str
    when: str
    metrics: tuple[Metric, ...]
    axis: str = "round"
    by_phase: bool = False


def _total(name: str, meaning: str) -> Metric:
    return Metric(name, COUNT, meaning, counts=SO_FAR)


ON_GPU = "GPU"
ALWAYS = ("time", "kind", "round", "train_step")  # of every record; train_step of `train` only
GRPO = "train.objective: grpo"
POLICY = "train.objective: rloo, reward_weighted, grpo"
START = "grpo that scores its start weights"
SAMPLER = "grpo that needs the sampler's log-probabilities"
DPO = "train.objective: dpo"
ACCURACIES = ("pass_at_1", "pass_at_k", "maj_at_k")
PROBES = ("perception_pass_at_1", "text_pass_at_1")
FORM = ("long_format", "truncated", "repetitive", "no_answer", "distinct")

_PROBE_DISTANCES = tuple(
    Metric(f"probe/{tokens}_{figure}", "nats", f"{what} of the {tokens} tokens' differences")
    for tokens in ("text", "image")
    for figure, what in (("rms", "root mean square"), ("p99", "99th percentile"))
)
_PORTIONS = tuple(
    Metric(f"{kind}{ending}", unit, f"{what} of {kind.replace('_', ' ')}, each once")
    for kind in ("seed_thoughts", "text_traces", "picture_traces")
    for ending, unit, what in (("", COUNT, "examples"), ("_tokens", TOKENS, "tokens"))
)

_OBJECTIVES = (
    Metric(
        "train/entropy",
        "nats/token",
        "minus the mean log-probability of sampled tokens: estimates the entropy",
        POLICY,
    ),
    Metric("train/positive_share", SHARE, "of sampled tokens with an advantage above 0", POLICY),
    Metric(
        "train/ratio_mean", "1", "mean probability ratio, before any clip; far from 1: stale", GRPO
    ),
    Metric(
        "train/clip_share",
        SHARE,
        "of sampled tokens whose ratio is beyond the bound that their advantage drives it to: clip "
        "ppo takes their gradient, cispo bounds their weight",
        GRPO,
    ),
    Metric(
        "train/effective_share",
        SHARE,
        "effective sample size of importance weights to the sampler, over the tokens",
        SAMPLER,
    ),
    Metric("train/start_kl", "nats/token", "KL divergence from the start weights, by k2", START),
    Metric(
        "train/sampler_gap",
        "nats/token",
        "mean difference of log-probabilities between sampler and trainer, without a sign",
        f"{START}; {SAMPLER}",
    ),
    Metric(
        "train/dropped_share",
        SHARE,
        "of sampled tokens with an importance of 0",
        f"{START}; {SAMPLER}",
    ),
    Metric(
        "train/margin_mean", "nats", "by how much pairs prefer the chosen one, before beta", DPO
    ),
    Metric("train/preferred_share", SHARE, "of pairs with a margin above 0", DPO),
    Metric("train/chosen_logratio", "nats/token", "of chosen rollouts to the start weights", DPO),
    Metric(
        "train/rejected_logratio", "nats/token", "of rejected rollouts to the start weights", DPO
    ),
)

KINDS = (
    Kind(
        "phase", "when a phase of a round has ended",
        (
            Metric("phase", TEXT, "start engines, push, publish, sample, train or evaluate"),
            Metric("phase_seconds", S, "how long it took"),
            Metric("phase_tokens_per_s", RATE, "sampled or trained tokens over that time"),
            Metric(
                "device_busy_share", SHARE,
                "of that time in which a GPU of the run had work, mean over its GPUs; not measured "
                "on CPU", ON_GPU,
            ),
            Metric("device_memory_peak_mib", MIB, "of the GPU with the most in use", ON_GPU),
        ),
        by_phase=True,
    ),
    Kind(
        "sampling", "every 5 s while rollouts are judged, and at the end",
        (
            Metric("phase", TEXT, "sample or evaluate"),
            Metric("rollouts_done", COUNT, "rollouts sampled in this phase"),
            Metric(ROLLOUTS, COUNT, "the same, of all rounds and starts", counts=SO_FAR),
            Metric("rollouts_asked", COUNT, "rollouts that the phase asks for"),
            Metric("tokens_per_s", RATE, "sampled tokens over the time of the phase so far"),
            Metric("accept_rate", SHARE, "of judged rollouts that are correct; null: none judged"),
            Metric("status_{status}", COUNT, "judged rollouts with this status", counts=IN_PHASE),
            Metric(
                "opinion_{opinion}", COUNT, "second opinions of this name and outcome",
                "verify.second_opinions", IN_PHASE,
            ),
        ),
        axis=ROLLOUTS,
        by_phase=True,
    ),
    Kind(
        "pools", "every minute, and after every fit and evaluation; totals of this start",
        (
            _total("rollout_requests", "requests given to engines"),
            _total("rollout_requests_repeated", "of them handed over again after a loss"),
            _total("rollout_requests_aborted", "of them ended before they finished"),
            _total("rollout_worker_restarts", "engines that were replaced"),
            _total("rollout_workers_retired", "engines that were given up"),
            _total(
                "rollout_pictures_processed",
                "pictures that were in no engine's cache of processed ones",
            ),
            _total("verifier_judged", "rollouts judged"),
            Metric("verifier_share_{status}", SHARE, "of them with this status"),
            Metric("verifier_ms_p{percent}", "ms", "time of one judgement, percentile"),
            _total("verifier_worker_restarts", "verifier actors that were replaced"),
            _total("verifier_judge_restarts", "judging processes that were replaced"),
            Metric(
                "verifier_opinion_{opinion}", COUNT, "second opinions of this name and outcome",
                "verify.second_opinions", SO_FAR,
            ),
            _total("trainer_restarts", "times that all ranks were started again"),
        ),
        axis=HOURS,
    ),
    Kind(
        "engines", "every minute, and after every fit and evaluation; since the record before",
        (
            Metric("running_{worker}", COUNT, "requests that the engine computes, mean per step"),
            Metric("waiting_{worker}", COUNT, "requests in vLLM's queue, mean per step"),
            Metric("kv_cache_peak_{worker}", SHARE, "of the KV cache in use, the most"),
            Metric(
                "preempted_{worker}", COUNT, "requests that lost their place in the KV cache",
                counts=SINCE,
            ),
            Metric("prefix_hit_share_{worker}", SHARE, "of prompt tokens in the prefix cache"),
            Metric("picture_hit_share_{worker}", SHARE, "of pictures that were processed before"),
        ),
        axis=HOURS,
    ),
    Kind(
        "memory", "every minute, and after every fit and evaluation",
        (
            Metric("phase", TEXT, "what went on"),
            Metric("rss_driver_mib", MIB, "resident memory of the driver"),
            Metric("rss_rollout_worker_{worker}_mib", MIB, "of an engine with its processes"),
            Metric("rss_verifier_worker_{worker}_mib", MIB, "of a verifier with its processes"),
            Metric("rss_trainer_rank_{rank}_mib", MIB, "of a trainer rank"),
        ),
        axis=HOURS,
    ),
    Kind(
        "train", "every optimizer step",
        (
            Metric(
                "train/loss", "nats/token",
                "mean over the step's target tokens; of another train.objective than imitation its "
                "loss, whose value says little",
            ),
            Metric("train/lr", "1", "learning rate"),
            Metric("train/grad_norm", "1", "norm of the gradient before clipping"),
            Metric("train/num_tokens", TOKENS, "read in the step, all ranks", counts=SINCE),
            Metric("train/num_steps", COUNT, "steps of the fit"),
            Metric("train/seconds", S, "time of the step"),
            Metric("train/tokens_per_s", RATE, "read tokens over that time"),
            Metric(
                "train/collate_seconds", S,
                "of threads, for the step's micro-batches; spent during earlier steps, if they "
                "keep up; mean over ranks",
            ),
            Metric(
                "train/collate_share", SHARE,
                "that over the time of the step; above 1, one thread does not keep up",
            ),
            Metric("train/wait_seconds", S, "that the step waited for them, mean over ranks"),
            Metric("train/wait_share", SHARE, "that over the time of the step"),
            Metric(
                "train/idle_share", SHARE,
                "of the ranks' time in which they wait for a slower one: computed from FLOPs, "
                "not measured",
            ),
            *_OBJECTIVES,
            Metric("train/device_peak_mib", MIB, "peak of rank 0 since it began", ON_GPU),
            Metric("train/mfu", SHARE, "FLOPs of the language model, of the card's peak", ON_GPU),
        ),
        axis="train_step",
    ),
    Kind(
        "fit", "when a fit has ended",
        (
            Metric("weights_version", "1", "version of the published weights"),
            Metric("steps", COUNT, "optimizer steps"),
            Metric("examples", COUNT, "examples over all passes"),
            Metric("tokens", TOKENS, "read over all passes"),
            Metric("target_tokens", TOKENS, "of them with a loss"),
            Metric("first_loss", "nats/token", "of the first step"),
            Metric("last_loss", "nats/token", "of the last step"),
            Metric("fit_seconds", S, "loading and steps"),
            Metric("resumed_from_step", "1", "step of the checkpoint it went on from; 0: none"),
            *_PORTIONS,
        ),
    ),
    Kind(
        "push", "when the engines have taken over weights",
        (
            Metric("weights_version", "1", "version of the weights"),
            Metric("push_seconds", S, "until all engines proved them"),
            Metric("transport", TEXT, "disk, broadcast, ipc or adapter"),
            Metric("gather_seconds", S, "making the tensors whole at the end of the fit; 0: disk"),
            Metric("wire_seconds", S, "of the sender, until all engines had loaded; 0: disk"),
            Metric("load_seconds", S, "of the slowest engine, fetching included"),
            Metric("probe_seconds", S, "of the slowest engine"),
            Metric("max_diff_text", "nats", "largest log-probability difference to the trainer"),
            Metric("max_diff_image", "nats", "the same, for tokens after a picture"),
            *_PROBE_DISTANCES,
            Metric(
                "probe/{tokens}_share", SHARE,
                "way from the weights before to the new ones, of text, image or cached tokens; 1: "
                "all of it",
                "versions that differ by more than noise",
            ),
        ),
        axis=HOURS,
    ),
    Kind(
        "round", "when a round is complete",
        (
            *(Metric(f"heldout/{a}", SHARE, "accuracy on held-out problems") for a in ACCURACIES),
            Metric(
                "heldout/blank_image_pass_at_1", SHARE, "accuracy without the pictures",
                "evaluate.blank_image",
            ),
            *(Metric(f"heldout/{p}", SHARE, "accuracy on a probe", "evaluate") for p in PROBES),
            *(Metric(f"heldout/{f}_share", SHARE, "of held-out answers") for f in FORM),
            Metric("heldout/consistent_choice_share", SHARE, "of held-out answers", "choices"),
            Metric("heldout/not_judged_share", SHARE, "of held-out answers"),
            Metric("heldout/k", COUNT, "samples behind pass@k"),
            Metric("heldout/mean_thought_tokens", TOKENS, "average length of a held-out answer"),
            Metric("heldout/rejected", "0 or 1", "whether a gate rejected the round"),
            Metric("heldout/accepted", COUNT, "rollouts accepted in the round's exploration"),
            Metric("heldout/asked", COUNT, "rollouts of the round's exploration"),
            Metric("heldout/seconds", S, "of the whole round"),
            Metric("heldout/trained_tokens", TOKENS, "read over all passes of the fit"),
            Metric("heldout/trained_target_tokens", TOKENS, "of them with a loss"),
            *(Metric(f"heldout/trained_{m.name}", m.unit, m.meaning) for m in _PORTIONS),
            Metric("heldout/weights_version", "1", "version of the round's weights"),
        ),
    ),
    Kind(
        "sources", "when a round is complete and was evaluated; a source's name in letters, digits "
        "and _",
        (
            *(
                Metric(f"sources/{{source}}/{a}", SHARE, "accuracy on its held-out problems")
                for a in ACCURACIES
            ),
            Metric("sources/{source}/num_problems", COUNT, "its held-out problems"),
            Metric("sources/{source}/mean_thought_tokens", TOKENS, "average length of an answer"),
            Metric("sources/{source}/truncated_share", SHARE, "of its held-out answers"),
            Metric("sources/{source}/asked", COUNT, "its rollouts in the round's exploration"),
            Metric("sources/{source}/accepted", COUNT, "of them accepted"),
        ),
    ),
    Kind(
        "groups", "when a round of reinforcement is complete (train.objective)",
        (
            Metric("num_groups", COUNT, "problems whose rollouts were learned from, or could be"),
            Metric("num_with_signal", COUNT, "of them, learned from; for dpo: those with a pair"),
            Metric("signal_share", SHARE, "of groups with signal; falls to 0: nothing is learned"),
            Metric("num_single", COUNT, "groups of fewer than two rollouts that could be judged"),
            Metric("num_left", COUNT, "rollouts that left their group"),
            Metric("mean_reward", "1", "over all rollouts in groups"),
            Metric("reward_spread", "1", "standard deviation in a group, mean over groups"),
        ),
    ),
    Kind(
        "gate", "for every gate that a round did not pass",
        (
            Metric("gate/gate", TEXT, "its key in `gates`"),
            Metric("gate/figure", TEXT, "what it looks at"),
            Metric("gate/value", "1", "the round's figure"),
            Metric("gate/bound", "1", "what was expected, noise forgiven"),
            Metric("gate/limit", "1", "the gate's own limit"),
            Metric("gate/noise", "1", "what was forgiven"),
            Metric("gate/is_lower_bound", "0 or 1", "whether the figure must be larger"),
            Metric("gate/reference", "1", "the figure that it is compared with"),
            Metric("gate/reference_round", TEXT, "whose figure that is"),
        ),
    ),
    Kind(
        "weights", "when weights of old rounds were dropped (weights.keep_last)",
        (
            Metric("num_dropped", COUNT, "versions that lost their tensors", "weights.keep_last"),
            Metric("freed_gb", "GB", "what that gave back", "weights.keep_last"),
        ),
    ),
    Kind(
        "warning", "where a fit has under half of the tokens of the one before",
        (
            Metric("warning", TEXT, "its name: few_tokens"),
            Metric("tokens", TOKENS, "read over all passes of the fit"),
            Metric("tokens_before", TOKENS, "the same, of the fit before"),
        ),
    ),
)  # fmt: skip


def find(kind: str, name: str) -> Metric | None:
    """The declaration of a metric, such as that of `status_{status}` for "status_wrong"."""
    return next((m for pattern, m in _patterns().get(kind, ()) if pattern.fullmatch(name)), None)


def undeclared(kind: str, names: Iterable[str]) -> list[str]:
    """Those names that records of this kind may not have."""
    return [name for name in names if name not in ALWAYS and find(kind, name) is None]


@cache
def _patterns() -> dict[str, list[tuple[re.Pattern[str], Metric]]]:
    """Names without places come first: they are never taken for one with."""
    found = {}
    for kind in KINDS:
        ordered = sorted(kind.metrics, key=lambda m: bool(PLACE.search(m.name)))
        found[kind.name] = [(_pattern(metric.name), metric) for metric in ordered]
    return found


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(r"\w+".join(map(re.escape, PLACE.split(name))))
