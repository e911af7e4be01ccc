"""The live view of a run on a terminal: a bar for each phase of the round, and how things go.

It is drawn four times a second by a thread of rich, from what `update` was given last, so a run is
never held up by its terminal. It fits 80 columns. Its height is bounded: of a round with many
phases the last ones are shown. The cursor stays visible, so that a run that is ended by force
leaves the terminal usable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from virgo_ray.monitor.progress import Progress, pace

NUM_PHASES = 6  # of the round, the running one included
BAR_WIDTH = 24  # columns, where there is room
SHORTEST_BAR = 4
NUM_GAPS = 5  # one beside each column
PER_SECOND = 4.0
GIB_MIB = 1024.0


@dataclass(frozen=True)
class Ended:
    """A phase of this round that is over."""

    phase: str
    done: int
    seconds: float


class LiveView:
    """Shows a run at the lower end of a terminal until `close`."""

    def __init__(self, console: Console) -> None:
        self._now: Progress | None = None
        self._label = ""
        self._ended: deque[Ended] = deque(maxlen=NUM_PHASES - 1)
        self._console = console
        self._live = Live(
            console=console,
            get_renderable=self.draw,
            refresh_per_second=PER_SECOND,
            transient=True,
        )
        self._live.start()
        console.show_cursor(True)

    def update(self, now: Progress) -> None:
        before = self._now
        if now.label != self._label:
            self._label = now.label  # of the same object, when the next round begins
            self._ended.clear()
        elif before is None or now is before:
            pass  # the same phase goes on
        elif before.phase != now.phase or before.done:
            self._ended.append(Ended(before.phase, before.done, before.seconds))
        self._now = now

    def close(self) -> None:
        self._live.stop()

    def draw(self) -> RenderableType:
        """What is seen now."""
        now = self._now
        if now is None:
            return Text("")
        rows = [_over(ended) for ended in list(self._ended)]
        bars = _table([*rows, _running(now)], self._console.width)
        return Group(Text(title(now), style="bold"), bars, Text(f"  {figures(now)}"))


@dataclass(frozen=True)
class _Row:
    """A phase: its bar, and words beside it."""

    phase: str
    bar: tuple[int, int]  # done, total
    count: str
    elapsed: str
    left: str = ""


def _over(ended: Ended) -> _Row:
    return _Row(ended.phase, (1, 1), f"{ended.done:,}" if ended.done else "", clock(ended.seconds))


def _running(now: Progress) -> _Row:
    left = now.seconds_left
    is_known = bool(now.total) and left is not None
    return _Row(
        now.phase,
        (now.done, now.total),
        f"{now.done:,}/{now.total:,}" if now.total else "",
        clock(now.seconds),
        f"{clock(left or 0.0)} left" if is_known else "",
    )


def _table(rows: Sequence[_Row], width: int) -> Table:
    """Bars with their words. Where they have too little room the bars get shorter, and below
    SHORTEST_BAR they go: a word that is cut says nothing."""
    words = [[f"  {r.phase}", r.count, r.elapsed, r.left] for r in rows]
    taken = sum(max(map(len, column)) for column in zip(*words, strict=True))
    bar = min(BAR_WIDTH, width - taken - NUM_GAPS)
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row, (phase, *rest) in zip(rows, words, strict=True):
        table.add_row(phase, "" if bar < SHORTEST_BAR else _bar(*row.bar, bar), *rest)
    return table


def _bar(done: int, total: int, width: int) -> ProgressBar:
    return ProgressBar(total=total or None, completed=done, width=width, pulse=not total)


def title(now: Progress) -> str:
    """`tiny  round 2 of 3  sample  about 12:10 left of the run`."""
    where = now.label if not now.label.isdigit() else f"round {now.label} of {now.last_round}"
    words = [now.name[:30], where]
    if now.run_seconds_left is not None:
        words.append(f"about {clock(now.run_seconds_left)} left of the run")
    return "  ".join(words)


def figures(now: Progress) -> str:
    """`2,913 tok/s  accept 61 %  GPU memory 71.2 GiB`; what is not known yet is left out."""
    words = pace(now)
    running = now.running
    if running.device_mib is not None:
        words.append(f"GPU memory {running.device_mib / GIB_MIB:.1f} GiB")
    elif running.resident_mib is not None:
        words.append(f"memory {running.resident_mib / GIB_MIB:.1f} GiB")
    return "  ".join(words)


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
