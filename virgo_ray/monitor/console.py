"""What a person sees while a run goes on, and when it is done.

On a terminal a live view; elsewhere (files, job logs) a plain line per phase and every few seconds.
It only shows; the numbers come from `monitor.watch.Progress` and the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from virgo_ray.monitor.intake import portion_numbers
from virgo_ray.monitor.summary import intervals
from virgo_ray.monitor.watch import Progress
from virgo_ray.records import Kind, Round, Tally

PLAIN_EVERY_S = 10.0
TABLE_WIDTH = 120


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


def describe_round(done: Round) -> str:
    """One line on a complete round: `round 1: held-out pass@1 62.0%, pass@4 81.0%, ...`."""
    figures, tally = done.evaluation, done.tally or Tally()
    accepted = f"accepted {tally.accepted} of {tally.asked}{_several_verifiers(tally)}"
    if figures is None:
        return f"round {done.label}: not evaluated (evaluate.every), {accepted}"
    blank = figures.blank_image_pass_at_1
    return (
        f"round {done.label}: held-out pass@1 {figures.pass_at_1:.1%}{_interval(done)}, "
        f"pass@{figures.k} {figures.pass_at_k:.1%}, "
        f"thought length {figures.mean_thought_tokens:.0f} tokens, "
        f"long format {figures.long_format_share:.0%}, "
        f"blank image {'-' if blank is None else format(blank, '.1%')}, "
        f"{accepted}"
    )


def _interval(done: Round, form: str = " ({:.1f} to {:.1f})") -> str:
    """ " (74.5 to 85.4)": of pass@1, in percent; empty of no problems."""
    low_high = intervals(done.evaluation).get("pass_at_1")
    return "" if low_high is None else form.format(*(100 * x for x in low_high))


def _several_verifiers(tally: Tally) -> str:
    """Say that one round was judged by verifiers of several versions."""
    if not tally.verifiers:
        return ""
    counts = ", ".join(f"{version} ({num})" for version, num in tally.verifiers.items())
    return (
        f"; its rollouts were judged by verifiers {counts}: `virgo-ray traces regrade RUN --write` "
        "judges all by the newest"
    )


COLUMNS = (
    ("pass_at_1", "pass@1", "{:.1%}"),
    ("pass_at_k", "pass@k", "{:.1%}"),
    ("maj_at_k", "maj@k", "{:.1%}"),
    ("blank_image_pass_at_1", "blank", "{:.0%}"),
    ("mean_thought_tokens", "tokens", "{:.0f}"),
    ("long_format_share", "long", "{:.0%}"),
    ("truncated_share", "cut", "{:.0%}"),
)


def result_table(rounds: Sequence[Round]) -> Table:
    """Held-out results, one row per complete round; fits TABLE_WIDTH columns."""
    k = rounds[0].measured.k
    table = Table(
        title="held-out problems",
        caption=f"k = {k}; 95 %: interval of pass@1; blank: pass@1 without the picture; "
        "tokens: average thought length; long: share in the long format; cut: share truncated; "
        "kept: rollouts accepted of asked; trained on: seed thoughts + text traces + picture "
        "traces",
        box=box.SIMPLE,
    )
    table.add_column("round", no_wrap=True)
    titles = [title for _, title, _ in COLUMNS]
    for title in (titles[0], "95 %", *titles[1:], "kept", "trained on", "time"):
        table.add_column(title.replace("@k", f"@{k}"), justify="right", no_wrap=True)
    for done in rounds:
        values = [(getattr(done.evaluation, name, None), form) for name, _, form in COLUMNS]
        cells = ["-" if value is None else form.format(value) for value, form in values]
        cells.insert(1, _interval(done, "{:.0f}-{:.0f}"))
        tally = done.tally or Tally()
        cells += [f"{tally.accepted}/{tally.asked}", _trained_on(done), f"{done.seconds:.0f} s"]
        table.add_row(f"{done.label}{' rejected' if done.is_rejected else ''}", *cells)
    return table


def _trained_on(done: Round) -> str:
    """ "672+0+412": examples of every kind; "-" of no fit, "?" of one that did not count them."""
    if done.fit is None or not done.fit.num_steps:
        return "-"
    numbers = portion_numbers(done.fit)
    return "+".join("?" if numbers[kind] is None else str(numbers[kind]) for kind in Kind)


def summary(rounds: Sequence[Round]) -> str:
    """A sentence or two that a newcomer can repeat; of the last evaluated round that was kept."""
    last = [r for r in rounds if not r.is_rejected and r.evaluation is not None][-1]
    first, now = rounds[0].measured, last.measured
    if last.number is None:
        return f"No round was kept; held-out pass@1 of the base is {first.pass_at_1:.1%}."
    gain = 100 * (now.pass_at_1 - first.pass_at_1)
    return (
        f"Held-out pass@1 went from {first.pass_at_1:.1%} (base) to {now.pass_at_1:.1%} "
        f"(round {last.number}), {gain:+.1f} points; {now.long_format_share:.0%} of its "
        f"answers are long thoughts of {now.mean_thought_tokens:.0f} tokens on average."
    )
