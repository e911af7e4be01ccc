"""The ledger's file and journal: what well-formed ones look like, and what to say of others.

Reading never changes anything. A half-written or hand-damaged file is refused with the place of the
fault and with what beside it can still be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config

from virgo_ray.config import ExtraConfig, SamplingConfig
from virgo_ray.errors import DroppedWeightsError, LedgerError, WeightsError
from virgo_ray.files import disk_errors
from virgo_ray.ledger.journal import DamagedJournalError, num_cut_bytes, num_whole_bytes, replay
from virgo_ray.model.dropped import is_dropped, is_remade
from virgo_ray.records import Evaluation, Failure, FitReport, Tally
from virgo_ray.weights.manifest import check_weights

# 1: without a journal. A version that knows none must not go on from the file alone.
SCHEMA_VERSION = 2
READABLE = (1, 2)
JOURNAL_NAME = "ledger.journal"
MAPS = ("rounds", "evaluations", "seconds", "rejected")  # one line of the file for each entry

CUT = " (without that line and all after it, the run goes on from the commit before)"
DROPPED = (
    "{}: its last line ({} bytes) is not what was written, as after a power loss. It is dropped: "
    "what it said is done again"
)

_TALLY = TypeAdapter(Tally)
_FIT = TypeAdapter(FitReport)
_EVALUATION = TypeAdapter(Evaluation)


class _Part(BaseModel):
    """Known fields are checked, others are nobody's business here."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Weights(_Part):
    version: int = Field(ge=0)
    path: str


class _Explored(_Part):
    buffer_version: int = Field(ge=0)


class _Trained(_Part):
    weights: _Weights
    num_steps: int
    num_examples: int
    num_tokens: int
    first_loss: float
    last_loss: float
    seconds: float


class _Round(_Part):
    explored: _Explored | None = None
    trained: _Trained | None = None


class _Regrade(_Part):
    before: int
    after: int


class _Repair(_Part):
    after: int
    dropped: list[str]


class _Aside(_Part):
    after: int
    problems: int
    rollouts: int


class _Taking(_Part):
    run: str
    version: int
    rounds: list[int]


class _Taken(_Part):
    buffer_version: int = Field(ge=0)
    run: str
    rollouts: dict[str, int]
    aside: dict[str, int]


class _Begun(_Part):
    round: int = Field(ge=0)
    asked: list[str]
    weights_version: int = Field(ge=0)
    num_samples: int = Field(ge=1)
    sampling: SamplingConfig
    extra: ExtraConfig
    has_blank_probe: bool


class _Change(_Part):
    key: str
    before: Any
    after: Any
    holds: str
    round: int = Field(ge=0)


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Failure(Failure):
    """A failure as it is stored; a field that this version does not know is a fault."""


_FAILURES = TypeAdapter(list[_Failure])


class _Function(_Part):
    where: str
    source: str


class _State(_Part):
    fingerprint: str
    wandb_id: str
    sequence: int = Field(0, ge=0)
    base: _Weights
    rounds: dict[str, _Round]
    evaluations: dict[str, Evaluation]
    seconds: dict[str, float]
    taking: _Taking | None = None
    taken: _Taken | None = None
    begun: _Begun | None = None
    functions: dict[str, _Function] = {}
    changes: list[_Change] = []
    regrades: list[_Regrade] = []
    repairs: list[_Repair] = []
    asides: list[_Aside] = []
    rejected: dict[str, list[_Failure]] = {}


@dataclass(frozen=True)
class Stored:
    """A ledger's state as it is now. Its journal has `num_bytes` of whole lines, of which
    `num_commits` are not in the file yet. `text` is the state as JSON, where the file is that.
    `notice` says what was dropped, if anything was."""

    state: dict[str, Any]
    num_bytes: int = 0
    num_commits: int = 0
    text: bytes = b""
    notice: str = ""


def journal_of(path: Path) -> Path:
    """The journal beside the file of a ledger."""
    return path.with_name(JOURNAL_NAME)


def dump_state(state: dict[str, Any]) -> str:
    """The file's text: JSON with a line for each round."""
    parts = []
    for key, value in state.items():
        text = json.dumps(value)
        if key in MAPS and value:
            lines = (f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            text = "{\n" + ",\n".join(lines) + "\n }"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load_state(path: Path) -> dict[str, Any]:
    """The content of a ledger and its journal, not checked beyond their form.

    Raises:
        LedgerError: not readable, or damaged.
    """
    return _load(path).state


def read_state(path: Path) -> dict[str, Any]:
    """The content of a ledger and its journal, checked.

    Raises:
        LedgerError: not readable, damaged, or of another schema.
    """
    return read_ledger(path).state


def read_ledger(path: Path) -> Stored:
    """As `read_state`, with what is needed to go on with the journal."""
    stored = _load(path)
    state = stored.state
    if "schema" not in state:
        raise _damage_error(path, "it holds dict without a schema number")
    if state["schema"] not in READABLE:
        raise LedgerError(
            f"{path} has schema {state['schema']!r}, this version reads {READABLE}; "
            "use the version of virgo_ray that made it. Nothing was changed"
        )
    rounds = state.get("rounds", {})
    fault = (
        _fault(stored.text or json.dumps(state))
        or _order_fault(rounds)
        or _entry_fault(rounds)
        or _begun_fault(state)
    )
    if fault:
        raise _damage_error(path, fault)
    return stored


def _load(path: Path) -> Stored:
    """The journal is read first: a process that is writing may fold it into the file meanwhile."""
    journal = journal_of(path)
    with disk_errors(LedgerError, f"{path} cannot be read", way_out="check the file system"):
        lines = b""
        with suppress(FileNotFoundError):  # it goes whenever it is folded into the file
            lines = journal.read_bytes()
        text = path.read_bytes()
    try:
        state = json.loads(text)
    except ValueError as error:
        raise _damage_error(path, f"it is no complete JSON: {error}") from error
    if not isinstance(state, dict):
        raise _damage_error(path, f"it holds {type(state).__name__} without a schema number")
    try:
        num_commits = replay(state, lines)
    except DamagedJournalError as error:
        raise _damage_error(journal, str(error), CUT) from error
    notice = DROPPED.format(journal, num) if (num := num_cut_bytes(lines)) else ""
    whole = b"" if num_commits else text
    return Stored(state, num_whole_bytes(lines), num_commits, whole, notice)


def read_tally(entry: dict[str, Any]) -> Tally:
    """The tally of a stored exploration; what other versions also kept is left out."""
    return _TALLY.validate_python({k: v for k, v in entry.items() if k != "buffer_version"})


def read_fit(entry: dict[str, Any]) -> FitReport:
    """The report of a stored fit."""
    return _FIT.validate_python({"num_target_tokens": 0, **entry})  # not counted at first


def read_evaluation(entry: dict[str, Any]) -> Evaluation:
    """A stored evaluation."""
    return _EVALUATION.validate_python(entry)


def check_failures(entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse failures that could not be read again, before they are committed.

    Raises:
        LedgerError: naming the field.
    """
    try:
        _FAILURES.validate_json(json.dumps(entries, default=lambda value: [repr(value)]))
    except ValidationError as error:
        first = error.errors()[0]
        raise LedgerError(
            f"a failed gate cannot be committed: {first['loc'][1]} is {first['input']!r:.100}, and "
            f"{first['msg']}; mend the gate and start again: what was committed before is intact"
        ) from error


def _fault(text: str | bytes) -> str:
    """What is wrong with the fields of a state; empty for a sound one."""
    try:
        _State.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']} ({error.error_count()} faults in all)"
    return ""


def _entry_fault(rounds: dict[str, Any]) -> str:
    """What is wrong with a tally or a fit; empty where all can be read."""
    for label, entry in rounds.items():
        for part, read in (("explored", read_tally), ("trained", read_fit)):
            try:
                if part in entry:
                    read(entry[part])
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(place) for place in first["loc"])
                return f"rounds.{label}.{part}.{where}: {first['msg']}"
    return ""


def _order_fault(rounds: dict[str, Any]) -> str:
    """Rounds are done in order: 0, 1, 2 ..., each explored, then trained."""
    if sorted(rounds, key=lambda label: (len(label), label)) != [
        str(t) for t in range(len(rounds))
    ]:
        return f"rounds are {sorted(rounds)}, expected 0 to {len(rounds) - 1} without a gap"
    for t in range(len(rounds)):
        entry, is_last = rounds[str(t)], t == len(rounds) - 1
        if "explored" not in entry:
            return f"rounds.{t} was never explored"
        if "trained" not in entry and not is_last:
            return f"rounds.{t} was never trained, but round {t + 1} is there"
    return ""


def _begun_fault(state: dict[str, Any]) -> str:
    """An exploration asks weights of the run."""
    if "begun" not in state:
        return ""
    asked = state["begun"]["weights_version"]
    fits = [entry["trained"] for entry in state["rounds"].values() if "trained" in entry]
    known = {state["base"]["version"], *(fit["weights"]["version"] for fit in fits)}
    return "" if asked in known else f"begun.weights_version is {asked}, expected one of {known}"


def _damage_error(path: Path, fault: str, remedy: str = "") -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {fault}. Nothing was changed. {what_is_left(path.parent)}. Restore "
        f"the file from a copy or correct it{remedy}, or start anew with run_dir=PATH"
    )


def what_is_left(run_dir: Path) -> str:
    """What of a run directory can be used without its ledger, as a sentence."""
    whole, torn = whole_weights(run_dir / "weights")
    missing = [d for d in sorted((run_dir / "weights").glob("v[0-9]*")) if is_dropped(d)]
    unwritten = [d.name for d in missing if is_remade(d)]
    dropped = [d.name for d in missing if d.name not in unwritten]
    parts = [f"whole weights: {', '.join(whole) or 'none'}"]
    parts += [f"dropped by weights.keep_last: {', '.join(dropped)}"] if dropped else []
    parts += [f"not written (weights.publish_every): {', '.join(unwritten)}"] if unwritten else []
    parts += [f"damaged weights: {', '.join(torn)}"] if torn else []
    if (run_dir / "buffer.lance").is_dir():
        parts.append(f"rollouts: `python -m virgo_ray.traces stats {run_dir}` shows what is stored")
    return "Beside it can still be used: " + "; ".join(parts)


def whole_weights(root: Path) -> tuple[list[str], list[str]]:
    """(names of complete weights directories, names of damaged ones); neither those whose tensors
    were dropped on purpose."""
    whole: list[str] = []
    torn: list[str] = []
    for directory in sorted(root.glob("v[0-9]*")):
        try:
            check_weights(directory, checksums=False)
            whole.append(directory.name)
        except DroppedWeightsError:
            continue
        except WeightsError:
            torn.append(directory.name)
    return whole, torn
