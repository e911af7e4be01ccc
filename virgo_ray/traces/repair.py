"""Drops what is damaged of a stored run, so that the run can go on without it.

Only whole fragments of the store go, and only those whose files are not what was written. The round
that is not trained yet is opened again: the run asks for what it lacks, as it was begun. Rounds
that are trained stay as they are in the ledger; later rounds learn from what is left of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.config import StoreConfig
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.dataset import locate_store, open_for_reading, open_for_writing, refusals
from virgo_ray.store.sums import Damage, drop_fragments, find_damage


def look(run_dir: Path, store: StoreConfig) -> list[Damage]:
    """What is damaged; nothing is changed."""
    location = locate_store(run_dir, store)
    with refusals(location, "checked"):
        return find_damage(open_for_reading(location), location)


def repair(run_dir: Path, store: StoreConfig, ledger: Ledger) -> tuple[list[Damage], list[str]]:
    """Drop what is damaged; returns it, and sentences on what that means for the run.

    Raises:
        TraceStoreError: the store refused; then nothing has changed.
    """
    location = locate_store(run_dir, store)
    before = ledger.committed_buffer_version
    with refusals(location, "repaired"):
        dataset = open_for_writing(location, before, ledger.wandb_id)
        damage = find_damage(dataset, location)
        if not damage:
            return [], []
        drop_fragments(dataset, damage)
    buffer = ReplayBuffer.open(run_dir, before, store=store, owner=ledger.wandb_id)
    said = _missing(ledger, buffer)
    ledger.commit_repaired(buffer.seal(), [str(part) for part in damage])
    return damage, said


def _missing(ledger: Ledger, buffer: ReplayBuffer) -> list[str]:
    """A sentence on every explored round that lacks rollouts now."""
    found = Counter(round for round, _ in buffer.outcomes())
    said = []
    for t in range(ledger.next_round + 1):
        tally = ledger.round(t).tally if ledger.has_tally(t) else None
        if tally is None or found[t] == tally.asked:
            continue
        what = f"round {t} has {found[t]} of {tally.asked} rollouts"
        is_open = t == ledger.next_round
        said.append(
            f"{what}: the run asks for the others again"
            if is_open
            else f"{what}: it is trained, so they are not asked again"
        )
    return said


def describe(damage: Sequence[Damage], said: Sequence[str], is_written: bool) -> str:
    """What was found, and what was or can be done."""
    if not damage:
        return "every file of the store is what was written"
    lines = [f"damaged: {part}" for part in damage]
    if not is_written:
        return "\n".join([*lines, "nothing was changed; --write drops these fragments"])
    rows = sum(part.num_rows for part in damage)
    return "\n".join([*lines, f"{rows} rollouts were dropped", *said])
