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
from virgo_ray.records import Round
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

    The round is opened before anything is dropped, and also where nothing is damaged but rollouts
    are missing: no kill in between leaves a round that seems whole.

    Raises:
        TraceStoreError: the store refused; then nothing of it has changed.
    """
    location = locate_store(run_dir, store)
    before = ledger.committed_buffer_version
    rounds = [ledger.round(t) for t in range(ledger.next_round + 1) if ledger.has_tally(t)]
    with refusals(location, "repaired"):
        dataset = open_for_writing(location, before, ledger.wandb_id)
        if damage := find_damage(dataset, location):
            ledger.reopen_round()
            drop_fragments(dataset, damage)
    buffer = ReplayBuffer.open(run_dir, before, store=store, owner=ledger.wandb_id)
    lacking = _find_lacking(rounds, buffer)
    if damage or any(done.fit is None for done, _ in lacking):
        ledger.commit_repaired(buffer.seal(), [str(part) for part in damage])
    return damage, [_describe_lack(done, num) for done, num in lacking]


def _find_lacking(rounds: Sequence[Round], buffer: ReplayBuffer) -> list[tuple[Round, int]]:
    """The explored rounds that lack rollouts now, with how many they have."""
    found = Counter(t for t, _ in buffer.outcomes())
    numbers = [(done, found[done.number or 0]) for done in rounds]
    return [(r, num) for r, num in numbers if r.tally is not None and num != r.tally.asked]


def _describe_lack(done: Round, num: int) -> str:
    asked = done.tally.asked if done.tally is not None else 0
    then = (
        "the run asks for the others again"
        if done.fit is None
        else "it is trained, so they are not asked again"
    )
    return f"round {done.number} has {num} of {asked} rollouts: {then}"


def describe(damage: Sequence[Damage], said: Sequence[str], is_written: bool) -> str:
    """What was found, and what was or can be done."""
    if not damage:
        return "\n".join(["every file of the store is what was written", *said])
    lines = [f"damaged: {part}" for part in damage]
    if not is_written:
        return "\n".join([*lines, "nothing was changed; --write drops these fragments"])
    rows = sum(part.num_rows for part in damage)
    return "\n".join([*lines, f"{rows} rollouts were dropped", *said])
