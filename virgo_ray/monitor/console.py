"""What a person sees while a run goes on, and when it is done.

On a terminal a live view; elsewhere (files, job logs) a plain line per phase and every few seconds.
It only shows; the numbers come from `watch.Progress` and the report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from virgo_ray.monitor.watch import Progress

PLAIN_EVERY_S = 10.0
TABLE_WIDTH = 100


class ConsoleScreen:
    """A live line on a terminal, plain lines elsewhere. Close it to give the terminal back."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._shown = 0.0
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def update(self, progress: Progress, phase_changed: bool) -> None:
        if self._live:
            self._live.update(Text(describe(progress)))
        elif phase_changed or time.monotonic() - self._shown > PLAIN_EVERY_S:
            self._shown = time.monotonic()
            self.say(describe(progress))

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def close(self) -> None:
        if self._live:
            self._live.stop()


def describe(p: Progress) -> str:
    """One line: `tiny  round 1/2  sample  312/1600  2,913 tok/s  accept 61 %  4:10 left`."""
    words = [p.name, f"round {p.label}/{p.last_round}", p.phase]
    if p.total:
        words.append(f"{p.done}/{p.total}")
    if p.tokens:
        words.append(f"{p.tokens_per_s:,.0f} tok/s")
    if p.accept_rate is not None:
        words.append(f"accept {p.accept_rate:.0%}")
    if p.loss is not None:
        words.append(f"loss {p.loss:.3f}")
    if p.total and p.seconds_left is not None:
        words.append(f"{clock(p.seconds_left)} left")
    return "  ".join(words)


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


COLUMNS = (
    ("pass_at_1", "pass@1", "{:.1%}"),
    ("pass_at_k", "pass@k", "{:.1%}"),
    ("maj_at_k", "maj@k", "{:.1%}"),
    ("blank_image_pass_at_1", "blank", "{:.0%}"),
    ("mean_thought_tokens", "tokens", "{:.0f}"),
    ("long_format_share", "long", "{:.0%}"),
    ("truncated_share", "cut", "{:.0%}"),
    ("accepted", "kept", "{}"),
    ("seconds", "time", "{:.0f} s"),
)


def result_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """Held-out results, one row per round; fits TABLE_WIDTH columns."""
    k = rounds[0]["k"]
    table = Table(
        title="held-out problems",
        caption=f"k = {k}; blank: pass@1 without the picture; tokens: mean thought length; long: "
        "share in the long format; cut: share truncated; kept: rollouts accepted of asked",
        box=box.SIMPLE,
    )
    table.add_column("round", no_wrap=True)
    for _, title, _ in COLUMNS:
        table.add_column(title.replace("@k", f"@{k}"), justify="right", no_wrap=True)
    for entry in rounds:
        shown = {**entry, "accepted": f"{entry['accepted']}/{entry['asked']}"}
        cells = ["-" if shown[key] is None else form.format(shown[key]) for key, _, form in COLUMNS]
        rejected = " rejected" if entry["rejected"] else ""
        table.add_row(f"{entry['round']}{rejected}", *cells)
    return table


def summary(rounds: Sequence[Mapping[str, Any]]) -> str:
    """A sentence or two that a newcomer can repeat; of the last round that was kept."""
    first, last = rounds[0], [entry for entry in rounds if not entry["rejected"]][-1]
    if last is first:
        return f"No round was kept; held-out pass@1 of the base is {first['pass_at_1']:.1%}."
    gain = 100 * (last["pass_at_1"] - first["pass_at_1"])
    return (
        f"Held-out pass@1 went from {first['pass_at_1']:.1%} (base) to {last['pass_at_1']:.1%} "
        f"(round {last['round']}), {gain:+.1f} points; {last['long_format_share']:.0%} of its "
        f"answers are long thoughts of {last['mean_thought_tokens']:.0f} tokens in the mean."
    )
