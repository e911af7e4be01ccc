"""What a person sees while a run goes on, and when it is done.

On a terminal a live view (`monitor/live.py`); elsewhere (files, job logs) a plain line per phase
and every few seconds. It only shows; the numbers come from `monitor/progress.py` and the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from virgo_ray.monitor.intake import portion_numbers
from virgo_ray.monitor.live import LiveView, clock
from virgo_ray.monitor.progress import Progress, pace
from virgo_ray.monitor.summary import intervals
from virgo_ray.records import Kind, Round, Tally

PLAIN_EVERY_S = 10.0
TABLE_WIDTH = 120


class ConsoleScreen:
    """A live view on a terminal, plain lines elsewhere. Close it to give the terminal back."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._view = LiveView(self._console) if self._console.is_terminal else None
        self._shown = 0.0

    def update(self, progress: Progress, phase_changed: bool) -> None:
        if self._view:
            self._view.update(progress)
        elif phase_changed or time.monotonic() - self._shown > PLAIN_EVERY_S:
            self._shown = time.monotonic()
            self.say(describe(progress))

    def say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        if self._view:
            self._view.close()


def describe(p: Progress) -> str:
    """One line: `tiny  round 1/2  sample  312/1600  2,913 tok/s  accept 61 %  4:10 left`."""
    words = [p.name, f"round {p.label}/{p.last_round}", p.phase]
    if p.total:
        words.append(f"{p.done}/{p.total}")
    words += pace(p)
    if p.total and p.seconds_left is not None:
        words.append(f"{clock(p.seconds_left)} left")
    if p.run_seconds_left is not None:
        words.append(f"run {clock(p.run_seconds_left)} left")
    return "  ".join(words)


def describe_round(done: Round) -> str:
    """One line on a complete round: `round 1: held-out pass@1 62.0%, pass@4 81.0%, ...`."""
    tally = done.tally or Tally()
    sampled = f"accepted {tally.accepted} of {tally.asked}" + _several_verifiers(tally)
    if (figures := done.evaluation) is None:
        return f"round {done.label}: not evaluated (evaluate.every), {sampled}"
    blank = figures.blank_image_pass_at_1
    at_k = "" if figures.k == 1 else f"pass@{figures.k} {figures.pass_at_k:.1%}, "
    return (
        f"round {done.label}: held-out pass@1 {figures.pass_at_1:.1%}{_interval(done)}, {at_k}"
        f"thought length {figures.mean_thought_tokens:.0f} tokens, "
        f"long format {figures.long_format_share:.0%}, "
        f"blank image {'-' if blank is None else format(blank, '.1%')}, {sampled}"
    )


def _interval(done: Round, form: str = " ({:.1f} to {:.1f})") -> str:
    """ " (74.5 to 85.4)": of pass@1, in percent; empty of no problems."""
    low_high = intervals(done.evaluation).get("pass_at_1") if done.evaluation else None
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


FIGURES = (
    ("pass_at_1", "pass@1", "{:.1%}"),
    ("pass_at_k", "pass@{k}", "{:.1%}"),
    ("maj_at_k", "maj@{k}", "{:.1%}"),
    ("blank_image_pass_at_1", "blank", "{:.0%}"),
    ("mean_thought_tokens", "tokens", "{:.0f}"),
    ("long_format_share", "long", "{:.0%}"),
    ("truncated_share", "cut", "{:.0%}"),
)
OF_SAMPLES = ("pass_at_k", "maj_at_k")  # of one sample they say what pass@1 says
Cells = dict[str, str]  # by the column's title


def result_tables(rounds: Sequence[Round], width: int) -> list[Table]:
    """Held-out results, one row per complete round; two tables where one is wider than `width`."""
    rows = [_cells(done, _k_of(rounds)) for done in rounds]
    titles = list(rows[0])
    if width >= TABLE_WIDTH:
        return [_table("held-out problems", titles, rows, f"{_of_k(rounds)}{OF_ANSWERS}; {OF_FIT}")]
    middle = titles.index("long")
    return [
        _table("held-out problems", titles[:middle], rows, f"{_of_k(rounds)}{OF_ANSWERS}"),
        _table("answers and training", [titles[0], *titles[middle:]], rows, OF_FIT),
    ]


OF_ANSWERS = "95 %: interval of pass@1; blank: pass@1 without the picture; tokens: average length"
OF_FIT = (
    "long: share in the long format; cut: share truncated; kept: rollouts accepted of asked; "
    "trained on: seed thoughts + text traces + picture traces"
)


def _k_of(rounds: Sequence[Round]) -> int:
    return next((r.evaluation.k for r in rounds if r.evaluation is not None), 1)


def _of_k(rounds: Sequence[Round]) -> str:
    k = _k_of(rounds)
    return "" if k == 1 else f"k = {k}; "


def _cells(done: Round, k: int) -> Cells:
    cells = {"round": f"{done.label}{' rejected' if done.is_rejected else ''}"}
    for name, title, form in FIGURES:
        if k == 1 and name in OF_SAMPLES:
            continue
        value = getattr(done.evaluation, name, None)
        cells[title.format(k=k)] = "-" if value is None else form.format(value)
        if name == "pass_at_1":
            cells["95 %"] = _interval(done, "{:.0f}-{:.0f}")
    tally = done.tally or Tally()
    return cells | {
        "kept": f"{tally.accepted}/{tally.asked}",
        "trained on": _trained_on(done),
        "time": f"{done.seconds:.0f} s",
    }


def _table(title: str, columns: Sequence[str], rows: Sequence[Cells], caption: str) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE)
    for column in columns:
        table.add_column(column, justify="left" if column == "round" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _trained_on(done: Round) -> str:
    """ "672+0+412": examples of every kind; "-" of no fit, "?" of one that did not count them."""
    if done.fit is None or not done.fit.num_steps:
        return "-"
    numbers = portion_numbers(done.fit)
    return "+".join("?" if numbers[kind] is None else str(numbers[kind]) for kind in Kind)


def summary(rounds: Sequence[Round]) -> str:
    """A sentence or two that a newcomer can repeat; of the last evaluated round that was kept."""
    evaluated = [done for done in rounds if done.evaluation is not None]
    last = [done for done in evaluated if not done.is_rejected][-1]
    first, now = evaluated[0].measured, last.measured
    if last.number is None:
        return f"No round was kept; held-out pass@1 of the base is {first.pass_at_1:.1%}."
    gain = 100 * (now.pass_at_1 - first.pass_at_1)
    return (
        f"Held-out pass@1 went from {first.pass_at_1:.1%} (base) to {now.pass_at_1:.1%} "
        f"(round {last.number}), {gain:+.1f} points; {now.long_format_share:.0%} of its "
        f"answers are long thoughts of {now.mean_thought_tokens:.0f} tokens on average."
    )
