"""A plan as a page for a person, and as JSON for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from virgo_ray.config import Config
from virgo_ray.plan.disk import Disk
from virgo_ray.plan.ways import Way
from virgo_ray.plan.whole import RunPlan
from virgo_ray.plan.work import Lengths

GB = 1e9
NUM_SEATS = 4  # that are listed


def to_json(plan: RunPlan, ways: Sequence[Way]) -> dict[str, Any]:
    """Everything that the page says; bytes are integers."""
    return {
        "fits": plan.is_fitting,
        "problems": list(plan.problems),
        "model": asdict(plan.shape),
        "card": asdict(plan.machine.card) if plan.machine.card else None,
        "nodes": asdict(plan.seats.nodes),
        "engines": plan.seats.engines,
        "ranks": plan.seats.ranks,
        "rank_bytes": asdict(plan.rank),
        "largest_micro_batch": asdict(plan.batch),
        "engine_bytes": asdict(plan.engine) if plan.engine else None,
        "push": asdict(plan.push),
        "gpu_bytes": {p.name: {**asdict(p), "total": p.total} for p in plan.gpu_phases},
        "host_bytes": [asdict(item) for item in plan.host],
        "disk_bytes": {**asdict(plan.disk), "round": plan.disk.round, "peak": plan.disk.peak},
        "tokens": {
            name: asdict(getattr(plan.material, name))
            for name in ("train", "heldout", "seeds", "probes")
        },
        "phases": [asdict(phase) for phase in plan.phases],
        "ways": [asdict(way) for way in ways],
    }


def page(cfg: Config, plan: RunPlan, ways: Sequence[Way], notes: Sequence[str]) -> str:
    return "\n".join(_lines(cfg, plan, ways, notes))


def _lines(cfg: Config, plan: RunPlan, ways: Sequence[Way], notes: Sequence[str]) -> Iterator[str]:
    shape = plan.shape
    sizes = f"{_count(shape.saved)} parameters, {_count(shape.trained)} trained"
    yield f"{cfg.name}: {shape.kind}, {sizes}"
    yield from notes
    yield from _actors(cfg, plan)
    yield from _memory(cfg, plan)
    yield from _host(plan)
    yield from _disk(plan)
    yield from _work(plan)
    yield from _ways(plan, ways)
    yield ""
    yield "it fits" if plan.is_fitting else "it does not fit:"
    yield from (f"  {problem}" for problem in plan.problems)


def _actors(cfg: Config, plan: RunPlan) -> Iterator[str]:
    seats = plan.seats
    nodes = f"{seats.nodes.num} node{'s' if seats.nodes.num > 1 else ''}"
    card = plan.machine.card
    has = f" with {seats.nodes.gpus} {card.name}" if card and seats.nodes.gpus else ", CPUs"
    yield f"\nactors ({nodes}{has}; {cfg.placement.mode}; GPU a/b is number b of node a)"
    for name, num, groups in (
        ("engines", cfg.rollout.num_workers, seats.engines),
        ("trainer ranks", cfg.train.num_workers, seats.ranks),
    ):
        shown = ", ".join(_gpus(group) for group in groups[:NUM_SEATS])
        more = ", ..." if len(groups) > NUM_SEATS else ""
        yield f"  {name:<15}{num:>4}  {'GPU ' + shown + more if groups else 'on CPUs'}"
    yield f"  {'verifiers':<15}{cfg.verify.num_workers:>4}  on CPUs, anywhere"
    yield f"  {'Ray CPUs':<15}{seats.demand.cpus:>4g}"
    yield f"  new weights reach engines by {plan.push.transport}: {plan.push.why}"


def _gpus(group: Sequence[str]) -> str:
    """Neighbours on one node.

    >>> _gpus(("0/3",)), _gpus(("1/0", "1/1", "1/2"))
    ('0/3', '1/0-2')
    """
    return group[0] if len(group) == 1 else f"{group[0]}-{group[-1].split('/')[1]}"


def _memory(cfg: Config, plan: RunPlan) -> Iterator[str]:
    batch = plan.batch
    what = f"micro-batch of {batch.tokens:,} tokens, all of them targets"
    if not plan.gpu_phases:
        yield f"\na trainer rank, GB by its allocator ({what})"
        for name, size in asdict(plan.rank).items():
            yield f"  {name.replace('_', ' '):<26}{size / GB:>9.3f}"
        return
    card = plan.machine.card
    assert card and plan.engine
    yield f"\nGB of the fullest GPU, of {card.usable / GB:.0f} ({what})"
    yield f"  {'phase':<26}{'tensors':>9}{'assumed':>9}{'together':>9}"
    for phase in plan.gpu_phases:
        held = phase.ranks + phase.engines
        mark = "  <- too much" if phase.total > card.usable else ""
        yield (
            f"  {phase.name:<26}{held / GB:>9.1f}{phase.other / GB:>9.1f}"
            f"{phase.total / GB:>9.1f}{mark}"
        )
    yield f"  KV cache of an engine: {plan.engine.kv_tokens:,} tokens"
    yield f"  longest micro-batch that fits: {plan.longest_that_fits:,} tokens"


def _host(plan: RunPlan) -> Iterator[str]:
    has = plan.machine.host_bytes
    yield "\nGB of host memory of the fullest node" + (f", of {has / GB:.0f}" if has else "")
    for item in plan.host:
        yield f"  {item.name:<32}{item.bytes / GB:>8.1f}  {item.basis}"
    yield f"  {'together':<32}{sum(item.bytes for item in plan.host) / GB:>8.1f}"


def _disk(plan: RunPlan) -> Iterator[str]:
    disk = plan.disk
    is_all = disk.num_versions == disk.num_trained
    at_once = f"{disk.num_versions} of them"
    if not is_all:
        at_once += f", of the {disk.num_trained} that are made (weights.keep_last)"
    yield "\nGB of disk, under run_dir"
    for name, size, basis in (
        ("one version of weights", disk.version, "computed"),
        (
            "all versions" if is_all else "versions at once, at most",
            disk.num_versions * disk.version,
            at_once,
        ),
        ("checkpoints of a fit, at most", disk.checkpoints, "two and one that is written"),
        *_optimizers(disk),
        ("store of rollouts", disk.rollouts, "4.45 bytes a token, measured"),
        ("answers of evaluations", disk.answers, "12 bytes a token, measured"),
        ("a round leaves", disk.round, ""),
        ("whole run, at most", disk.peak, ""),
    ):
        yield f"  {name:<32}{size / GB:>8.3g}  {basis}".rstrip()


def _optimizers(disk: Disk) -> list[tuple[str, int, str]]:
    """What `train.carry_optimizer` takes, if anything."""
    basis = "three, one of them being written"
    return [("optimizers, at most", disk.optimizers, basis)] if disk.optimizers else []


def _work(plan: RunPlan) -> Iterator[str]:
    material = plan.material
    yield "\ntokens of prompts"
    for name in ("train", "heldout", "seeds", "probes"):
        lengths: Lengths = getattr(material, name)
        if lengths.num:
            how = "counted" if lengths.is_counted else "assumed"
            yield (
                f"  {name:<10}{lengths.num:>8,} records{lengths.total:>14,} tokens, "
                f"longest {lengths.longest:,} ({how})"
            )
    yield f"  a response: {material.response:.0f} tokens, {material.response_basis}"
    yield f"\n{'phase':<32}{'times':>6}{'M tokens':>10}{'hours each':>12}"
    for phase in plan.phases:
        hours = "-" if phase.hours is None else f"{phase.hours:.2f}"
        yield f"{phase.name:<32}{phase.times:>6}{phase.tokens / 1e6:>10.2f}{hours:>12}"
    for basis in dict.fromkeys(p.basis for p in plan.phases):
        names = ", ".join(p.name for p in plan.phases if p.basis == basis)
        yield f"  hours of {names}: {basis}"


def _ways(plan: RunPlan, ways: Sequence[Way]) -> Iterator[str]:
    where = "GPU" if plan.gpu_phases else "node"
    yield f"\n{'what would change it':<64}{'GB of a fit':>12}{'fullest ' + where:>14}"
    for way in ways:
        verdict = "fits" if way.is_fitting else "does not fit"
        remark = f" ({way.remark})" if way.remark else ""
        sizes = f"{way.fit_peak / GB:>12.1f}{way.peak / GB:>14.1f}"
        yield f"  {way.keys:<62}{sizes}  {verdict}{remark}"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"
