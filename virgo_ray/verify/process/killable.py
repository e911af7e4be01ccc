"""Judging in processes that can be killed: a deadline and a memory limit for every item.

`submit` takes items, `step` returns verdicts as items finish; `judge` does both for one batch. One
judge process works through what was submitted; the parent watches the item it is at. An item that
needs long is put aside: its process keeps that one item, and a fresh process (forked in
milliseconds, see child.py) goes on with the rest, so that a hanging item costs the others a
fraction of a second instead of a deadline. One that has burnt LOWER_CPU_S runs on at the lowest
priority. At the deadline the process is killed and its item becomes TIMEOUT; a process that dies
makes its item ERROR. All other items are judged as if nothing had happened. Second opinions come
after their verdict and have as long again; when they are late, they are unknown and the verdict
stands.

The verdict does not depend on the load of the machine. The deadline counts the CPU time of the
item; beside it stands a wall limit of WALL_FACTOR deadlines, for an item that does not compute. One
that met the wall limit, or whose process was killed by something else, is asked once again in
another process, and then at full priority. A custom verifier may wait for others, as for an HTTP
endpoint: its deadline counts the wall clock, and is final.

Who waits for whom: only the caller's thread works here; `step` waits for verdicts with `select`,
for POLL_S at most. Works without Ray, and in any thread, by one thread at a time.
Why this is no library pool: docs/verification.md, "Why not pebble".
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from virgo_ray.config import VerifyConfig
from virgo_ray.records import AnswerType, Opinion, SecondOpinion, Status, Verdict
from virgo_ray.verify.item import VERIFIER_VERSION, Item
from virgo_ray.verify.process.frames import receive_frame, send_frame
from virgo_ray.verify.process.maker import Death, Maker, cpu_seconds, lower_priority

POLL_S = 0.05
# An item that does not compute, because it is blocked or stopped, is ended after so many deadlines.
WALL_FACTOR = 10
# An item is put aside after this much CPU time, or wall time if it does not compute. A judge put
# aside takes its warm caches along: hardly any ordinary item may need as long, but some need 0.1 s.
ASIDE_CPU_S = 0.2
ASIDE_WALL_S = 1.0
LOWER_CPU_S = 0.4
# Fewer than WALL_FACTOR: on one core, all of them reach the deadline in CPU time before the wall
# limit.
MAX_SLOW = 8


@dataclass(eq=False)
class _Judge:
    """One process and the items it was given; `todo[0]` is the one it is at.

    `since` and `cpu_before` are the time and the process's CPU time when it came to that item.
    `verdict` is that item's, if only its second opinions are still awaited.
    """

    pid: int
    sock: socket.socket
    todo: list[int] = field(default_factory=list)
    since: float = 0.0
    cpu_before: float = 0.0
    has_low_priority: bool = False
    verdict: Verdict | None = None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.since

    @property
    def cpu_s(self) -> float:
        return cpu_seconds(self.pid) - self.cpu_before


@dataclass(frozen=True)
class _Loss:
    """Why an item has no verdict; it `may_be_asked_again` if that was no doing of its own."""

    status: Status
    reason: str
    may_be_asked_again: bool = False


def longest_batch_s(cfg: VerifyConfig, num_items: int) -> float:
    """The longest time until `num_items` have their verdicts: each is blocked, and asked again."""
    num_answers = 2 if cfg.local_opinions else 1  # opinions have a deadline of their own
    longest_s = cfg.deadline_s * (1 if cfg.custom else 2 * WALL_FACTOR) * num_answers
    return longest_s * (1 + num_items // MAX_SLOW) + num_items * ASIDE_WALL_S


class KillableJudge:
    """Judges items in processes of its own; `num_killed` and `num_died` count the replaced ones.

    `num_asked_again` counts the items that were judged a second time.
    """

    def __init__(self, cfg: VerifyConfig) -> None:
        self._deadline_s = cfg.deadline_s
        self._is_custom = cfg.custom is not None
        self._aside_s = min(ASIDE_WALL_S, cfg.deadline_s / 2)
        self._opinions = cfg.local_opinions
        self._maker = Maker(cfg)
        self._fast: _Judge | None = None
        self._slow: list[_Judge] = []
        self._rest: list[int] = []
        self._items: dict[int, Item] = {}
        self._asked_again: set[int] = set()
        self.num_killed = 0
        self.num_died = 0
        self.num_asked_again = 0

    def submit(self, items: Mapping[int, Item]) -> None:
        """Add items under keys that no unfinished item has."""
        self._items.update(items)
        self._rest += items

    @property
    def num_unfinished(self) -> int:
        return len(self._items)

    @property
    def has_waiting(self) -> bool:
        """Whether there is more unfinished than items that were put aside."""
        return bool(self._rest or (self._fast and self._fast.todo))

    def step(self) -> list[tuple[int, Verdict]]:
        """The (key, verdict) pairs of the next POLL_S; none if nothing finished, or nothing is
        there.

        Raises:
            VerifierError: no judging process can be started.
        """
        self._feed()
        if not self._busy():
            return []
        ready, quiet = self._wait()
        outcomes = [self._collect(judge) for judge in ready] + self._end_late(quiet)
        finished = [pair for pair in outcomes if pair is not None]
        self._set_aside_slow(quiet)
        for key, _ in finished:
            del self._items[key]
            self._asked_again.discard(key)
        return finished

    def judge(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """One (index, verdict) per item, in the order they finish. Not while others are unfinished.

        Raises:
            VerifierError: no judging process can be started.
        """
        self.submit(dict(enumerate(items)))
        try:
            while self._items:
                yield from self.step()
        finally:
            self._abandon()  # the consumer left, or something was raised

    def _abandon(self) -> None:
        for judge in self._busy():
            self._end(judge)
        self._forget_items()

    def close(self) -> None:
        """End all processes; the object starts new ones if it is used again."""
        for judge in [*self._slow, *([self._fast] if self._fast else [])]:
            judge.sock.close()
        self._fast, self._slow = None, []
        self._forget_items()
        self._maker.close()

    def _forget_items(self) -> None:
        self._rest, self._items, self._asked_again = [], {}, set()

    def _busy(self) -> list[_Judge]:
        judges = [*self._slow, *([self._fast] if self._fast else [])]
        return [judge for judge in judges if judge.todo]

    def _feed(self) -> None:
        """Give the whole rest to the fast judge if it is idle."""
        if not self._rest or (self._fast and self._fast.todo):
            return
        for _ in range(2):  # a judge that died while idle is replaced, and no item blamed for it
            if self._fast is None:
                self._fast = _Judge(*self._maker.new_judge())
            try:
                send_frame(self._fast.sock, [self._items[key].to_json() for key in self._rest])
                break
            except ConnectionError:
                self._end(self._fast)
        if self._fast is not None:
            self._fast.todo, self._rest = self._rest, []
            self._fast.since = time.monotonic()
            self._fast.cpu_before = cpu_seconds(self._fast.pid)

    def _wait(self) -> tuple[list[_Judge], list[_Judge]]:
        """(judges that have a verdict, judges that do not), within POLL_S."""
        busy = self._busy()
        readable, _, _ = select.select([judge.sock for judge in busy], [], [], POLL_S)
        ready = [judge for judge in busy if judge.sock in readable]
        return ready, [judge for judge in busy if judge not in ready]

    def _collect(self, judge: _Judge) -> tuple[int, Verdict] | None:
        """The verdict on the item a judge was at; a judge that is gone makes it ERROR.

        None where its second opinions are still to come, or it is asked again.
        """
        try:
            message = receive_frame(judge.sock)
        except (EOFError, ConnectionError):
            self.num_died += 1
            index, death = judge.todo.pop(0), self._end(judge)
            reason = f"the judging process died ({death.reason})"
            return self._lose(judge, index, _Loss(Status.ERROR, reason, death.is_foreign))
        judge.since = message["at"]  # of the machine's monotonic clock
        judge.cpu_before = message["cpu"]  # both count from the fork
        verdict = verdict_from_json(message["verdict"])
        judge.verdict = verdict if message["has_more"] else None
        if message["has_more"]:
            return None
        index = judge.todo.pop(0)
        if judge is not self._fast:
            self._end(judge)  # it would go on with items that others have by now
        return index, verdict

    def _end(self, judge: _Judge) -> Death:
        """Kill a judge and put what it had not judged back to the rest."""
        judge.sock.close()
        if judge is self._fast:
            self._fast = None
        else:
            self._slow.remove(judge)
        self._rest, judge.todo = [*judge.todo, *self._rest], []
        return self._maker.bury(judge.pid)

    def _end_late(self, quiet: list[_Judge]) -> list[tuple[int, Verdict] | None]:
        late = [(judge, loss) for judge in quiet if (loss := self._lateness(judge))]
        outcomes = []
        for judge, loss in late:
            self.num_killed += 1
            index = judge.todo.pop(0)
            self._end(judge)
            outcomes.append(self._lose(judge, index, loss))
        return outcomes

    def _lateness(self, judge: _Judge) -> _Loss | None:
        """Why the item that a judge is at has to end; None where it may go on."""
        age_s, limit_s = judge.age_s, self._deadline_s
        if age_s < limit_s:
            return None
        if self._is_custom and judge.verdict is None:
            return _Loss(Status.TIMEOUT, f"not judged within {limit_s:g} s")
        cpu_s = judge.cpu_s
        if cpu_s >= limit_s:
            return _Loss(Status.TIMEOUT, f"not judged within {limit_s:g} s of CPU time")
        wall_s = WALL_FACTOR * limit_s
        if age_s < wall_s:
            return None
        reason = f"not judged within {wall_s:g} s, of which it computed {cpu_s:.1f} s"
        return _Loss(Status.TIMEOUT, reason, may_be_asked_again=True)

    def _lose(self, judge: _Judge, index: int, loss: _Loss) -> tuple[int, Verdict] | None:
        """What becomes of the item that a judge was at when it ended; its verdict may have come.

        None where it is asked again.
        """
        if judge.verdict is not None:
            unknown = SecondOpinion(Opinion.UNKNOWN, loss.reason)
            return index, replace(judge.verdict, opinions=dict.fromkeys(self._opinions, unknown))
        if loss.may_be_asked_again and index not in self._asked_again:
            self._asked_again.add(index)
            self._rest.insert(0, index)
            self.num_asked_again += 1
            return None
        again = ", for the second time" if index in self._asked_again else ""
        return index, Verdict(
            loss.status,
            verifier_version=VERIFIER_VERSION,
            milliseconds=1000 * judge.age_s,
            reason=loss.reason + again,
        )

    def _set_aside_slow(self, quiet: list[_Judge]) -> None:
        """Put a fast judge that is stuck aside with its one item; the rest is given out again."""
        for slow in self._slow:
            # Lowered, an item may starve up to the wall limit on a busy machine, but only once.
            is_lowered = slow.has_low_priority or slow.todo[0] in self._asked_again
            if not is_lowered and slow.cpu_s >= LOWER_CPU_S:
                lower_priority(slow.pid)
                slow.has_low_priority = True
        judge = self._fast
        if judge not in quiet or judge is None or len(self._slow) >= MAX_SLOW:
            return
        if judge.age_s >= self._aside_s or (judge.age_s > POLL_S and judge.cpu_s >= ASIDE_CPU_S):
            self._rest, judge.todo = [*judge.todo[1:], *self._rest], judge.todo[:1]
            self._slow.append(judge)
            self._fast = None


def verdict_from_json(fields: dict[str, Any]) -> Verdict:
    opinions = {
        name: SecondOpinion(Opinion(second["opinion"]), second["reason"])
        for name, second in fields["opinions"].items()
    }
    return Verdict(
        **{
            **fields,
            "status": Status(fields["status"]),
            "answer_type": AnswerType(fields["answer_type"]),
            "opinions": opinions,
        }
    )
