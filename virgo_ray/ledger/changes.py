"""What changed in the config of a run since its last start, and from which round on that holds.

A key of the run's identity is refused by its name. A key that holds later is recorded in the ledger
with the round, before the new config is stored, so that no change stays unrecorded by a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virgo_ray.config import (
    Config,
    Moment,
    budget_as_share,
    fingerprint,
    flatten,
    moment_of,
    parse_config,
    read_stored,
)
from virgo_ray.config.importing import is_import_path, source_hash
from virgo_ray.errors import ConfigError, LedgerError

# What the choice of a round's examples reads (selection/training_set.py), beside keys of the run's
# identity.
CHOOSING = (
    "select", "train.seed_share", "train.seed_floor", "explore.num_samples", "explore.extra",
    "train.objective",
)  # fmt: skip

SOURCE = "source of "  # before the key of a function that was edited
# From when on an edited function holds; the gates judge an evaluation that follows a fit.
EDITED = {
    "prompt": Moment.NEVER, "verify": Moment.ROLLOUT, "select": Moment.FIT, "gates": Moment.FIT,
}  # fmt: skip


@dataclass(frozen=True)
class KeyChange:
    """Another value of a key, that holds from a moment of round `round` on."""

    key: str
    before: Any
    after: Any
    holds: str
    round: int

    def __str__(self) -> str:
        """train.lr: 0.0005 -> 0.0001, from the next fit on (round 2)"""
        return f"{self.key}: {self.before!r} -> {self.after!r}, {self.holds} (round {self.round})"


def record_changes(cfg: Config, state: dict[str, Any], run_dir: Path) -> list[KeyChange]:
    """Add what `cfg` changes to the ledger's state; returns what is new.

    Raises:
        LedgerError: a key of the run's identity changed, or nobody can say what did.
    """
    changes = find_changes(cfg, state, run_dir)
    if changes:
        state["changes"] = [*state.get("changes", []), *map(asdict, changes)]
    state["fingerprint"] = fingerprint(cfg)
    state["functions"] = own_functions(cfg)
    return changes


def own_functions(cfg: Config) -> dict[str, dict[str, str]]:
    """The user's functions by key: their import path, and the hash of their source; empty where it
    has none. Readers are not among them: their data are compared by content.

    Raises:
        ConfigError: one cannot be imported, or was edited since this process did so.
    """
    named = [
        ("prompt.custom", cfg.prompt.custom),
        ("verify.custom", cfg.verify.custom),
        ("select.custom", cfg.select.custom),
        *((f"gates.custom.{place}", gate) for place, gate in enumerate(_gates(cfg))),
    ]
    return {
        key: {"where": where, "source": source_hash(key, where)}
        for key, where in named
        if where is not None and is_import_path(where)
    }


def _gates(cfg: Config) -> Sequence[str]:
    return (cfg.gates and cfg.gates.custom) or ()


def _find_edited(cfg: Config, state: Mapping[str, Any], run_dir: Path) -> list[KeyChange]:
    """Functions of the same import path whose source is another one than at the last start.

    Raises:
        LedgerError: that of the prompts is, and `data.accept_changes` does not name it.
    """
    before, found = state.get("functions", {}), []
    for key, now in own_functions(cfg).items():
        was = before.get(key, now)
        if was == now or was["where"] != now["where"]:
            continue
        old, new = was["source"][:12], now["source"][:12]
        moment = EDITED[key.partition(".")[0]]
        if moment is Moment.NEVER and key not in cfg.data.accept_changes:
            raise LedgerError(
                f"{run_dir}: the file of {key}={now['where']!r} is another one than at the last "
                f"start (sha256 {old} -> {new}), expected the same, so that all rounds are asked "
                "by the same prompts. Set the file back, or start a new run with run_dir=PATH; if "
                f"the prompts that it writes are the same, data.accept_changes={key} goes on"
            )
        moment = Moment.EXPLORATION if moment is Moment.NEVER else moment
        found.append(KeyChange(SOURCE + key, old, new, str(moment), _round_of(moment, state)))
    return found


def find_changes(cfg: Config, state: Mapping[str, Any], run_dir: Path) -> list[KeyChange]:
    """The keys whose value is another one than the run has, the harmless ones left out, and the
    user's functions that were edited.

    Raises:
        LedgerError: as `record_changes`.
    """
    return [*_find_keys(cfg, state, run_dir), *_find_edited(cfg, state, run_dir)]


def _find_keys(cfg: Config, state: Mapping[str, Any], run_dir: Path) -> list[KeyChange]:
    if state["fingerprint"] == fingerprint(cfg):
        return []
    try:
        old = flatten(read_stored(run_dir))
    except ConfigError as error:
        raise LedgerError(
            f"{run_dir} was made with another config, and its config.yaml cannot be read: {error}; "
            "choose another directory with run_dir=PATH"
        ) from error
    num_problems = old["explore.num_problems"]
    changes = [c for c in state.get("changes", []) if not c["key"].startswith(SOURCE)]
    earlier = [_as_called_now(change, num_problems) for change in changes]
    old |= {change["key"]: change["after"] for change in earlier}
    new = flatten(cfg)
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    _refuse_other_identity([k for k in keys if _is_identity(k, old, new)], old, new, run_dir)
    return [
        KeyChange(k, old.get(k), new.get(k), str(moment_of(k)), _round_of(moment_of(k), state))
        for k in keys
        if moment_of(k) is not Moment.ANY
    ]


def _is_identity(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a changed key makes another run. A longest length that is lowered does, because what
    is stored may be longer."""
    is_lowered = key == "model.max_length" and new[key] < old[key]
    return is_lowered or moment_of(key) is Moment.NEVER


def choosing_config(cfg: Config, changes: Sequence[Mapping[str, Any]], t: int) -> Config:
    """`cfg` with the values that the keys of CHOOSING had in round `t`.

    `changes` are those of the ledger, the oldest first. Other keys stay as they are: an old value
    may contradict a key whose changes nobody records, as train.batch_size may train.num_workers.
    """
    known = [_as_called_now(change, cfg.explore.num_problems) for change in reversed(changes)]
    later = [c for c in known if c["round"] > t and _is_choosing(c["key"])]
    raw = cfg.model_dump(mode="json")
    for change in later:
        *sections, name = change["key"].split(".")
        section = raw
        for part in sections:
            section = section[part]
        section[name] = change["before"]
    return parse_config(raw, f"the config of round {t}") if later else cfg


def _as_called_now(change: Mapping[str, Any], num_problems: int) -> Mapping[str, Any]:
    """A recorded change, with a key that was renamed since by its new name."""
    if change["key"] != "explore.extra.budget":
        return change
    shares = {side: budget_as_share(change[side], num_problems) for side in ("before", "after")}
    return {**change, **shares, "key": "explore.extra.budget_share"}


def _is_choosing(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in CHOOSING)


def _refuse_other_identity(
    keys: list[str], old: Mapping[str, Any], new: Mapping[str, Any], run_dir: Path
) -> None:
    if keys:
        changed = "\n  ".join(f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys)
        raise LedgerError(
            f"{run_dir} was made with another config; these keys changed, and they make another "
            f"run:\n  {changed}\nset them back to resume, or start a new run with run_dir=PATH; "
            f"store.from={run_dir} takes the rollouts of this one into it"
        )


def _round_of(moment: Moment, state: Mapping[str, Any]) -> int:
    """The first round that a change at this moment reaches.

    With round 2 explored and not trained, that is 2 for a fit and 3 for an exploration.
    """
    rounds = state["rounds"]
    next_round = sum("trained" in r for r in rounds.values())
    is_explored = "explored" in rounds.get(str(next_round), {})
    has_begun = state.get("begun", {}).get("round") == next_round
    is_over = {
        Moment.FIT: False,
        Moment.ROLLOUT: is_explored,
        Moment.EXPLORATION: is_explored or has_begun,
    }[moment]
    return next_round + is_over
