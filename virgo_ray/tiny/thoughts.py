"""Worked solutions of puzzles in words: the long seed thoughts, the base's short steps, and the
bare answer.

Long thoughts have the format of Virgo's textual long-thought data (arXiv 2501.01904): a thought
part with reading, a look back, steps, sometimes a mistake that is noticed and corrected, and a
check; then a solution part with the boxed answer. The wording is drawn from the puzzle's id, so a
puzzle always has the same thought.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from virgo_ray.tiny.puzzles import CORNERS, MAX_TOTAL, Puzzle, apply_sign

BEGIN_THOUGHT = "<|begin_of_thought|>"
END_THOUGHT = "<|end_of_thought|>"
BEGIN_SOLUTION = "<|begin_of_solution|>"
END_SOLUTION = "<|end_of_solution|>"
THOUGHT_TAGS = (BEGIN_THOUGHT, END_THOUGHT, BEGIN_SOLUTION, END_SOLUTION)

MISTAKE_SHARE = (
    0.15  # of the long thoughts; enough to show the pattern, too few to be sampled often
)

OPENERS = ("Let me look closely.", "First I look.", "Let me think.")
LOOK_BACKS = ("Look again:", "Let me look again:", "Once more:")
AGREED = ("Same.", "Good.", "Yes.")
STEPPERS = ("Now step by step.", "Step by step.", "Now I go on.")
CHECKS = ("Check:", "Let me check:")


@dataclass(frozen=True)
class Step:
    """`lead` says what is looked at, then `left sign right = total`; no sign: only a look."""

    lead: str
    left: int
    sign: str
    right: int

    @property
    def total(self) -> int:
        return apply_sign(self.left, self.sign, self.right) if self.sign else self.left

    def equation(self, total: int) -> str:
        return f"{self.left} {self.sign} {self.right} = {total}."

    def say(self, total: int | None = None) -> str:
        if not self.sign:
            return self.lead
        return f"{self.lead}{self.equation(self.total if total is None else total)}"

    def check(self) -> str:
        """The inverse operation: what was added is taken away again."""
        inverse = "-" if self.sign == "+" else "+"
        return f"{self.total} {inverse} {self.right} = {self.left}."


def read_aloud(puzzle: Puzzle) -> str:
    """The cells in reading order.

    >>> from virgo_ray.tiny.puzzles import Puzzle
    >>> read_aloud(Puzzle("", "chain", "seed", "short", (("3", "+", "4"),), (), "", "7"))
    '3 + 4.'
    """
    return f"{' '.join(puzzle.words)}."


def solution_steps(puzzle: Puzzle) -> tuple[str, list[Step]]:
    """(where the running total starts, may be empty; its steps)."""
    return _STEPS[puzzle.family](puzzle)


def _running(values: list[tuple[str, str, int]], start: int = 0) -> list[Step]:
    """Steps of a running total over (lead, sign, value)."""
    steps: list[Step] = []
    for lead, sign, value in values:
        steps.append(Step(lead, start, sign, value))
        start = steps[-1].total
    return steps


def _chain_steps(puzzle: Puzzle) -> tuple[str, list[Step]]:
    first, *rest = puzzle.words
    values = [("", sign, int(v)) for sign, v in zip(rest[::2], rest[1::2], strict=True)]
    return "", _running(values, int(first))


def _table_steps(puzzle: Puzzle) -> tuple[str, list[Step]]:
    value = {letter: int(v) for letter, v in puzzle.cells}
    first, *rest = puzzle.ask
    pairs = zip(rest[::2], rest[1::2], strict=True)
    values = [(f"{letter} is {value[letter]}, ", sign, value[letter]) for sign, letter in pairs]
    return f"{first} is {value[first]}.", _running(values, value[first])


def _shapes_steps(puzzle: Puzzle) -> tuple[str, list[Step]]:
    """All cells in turn, those of another colour with a "no"."""
    (asked,) = puzzle.ask
    values: list[tuple[str, str, int]] = []
    for word in puzzle.words:
        color, shape = word.split()
        hit = (f"{word}, ", "+", CORNERS[shape])
        values.append(hit if color == asked else (f"{word} no.", "", 0))
    return "", _running(values)


def _bars_steps(puzzle: Puzzle) -> tuple[str, list[Step]]:
    heights = [int(word) for word in puzzle.words]
    pairs = pairwise(heights)
    return "", _running([(f"{a} to {b}, ", "+", max(0, b - a)) for a, b in pairs])


_STEPS = {
    "chain": _chain_steps,
    "table": _table_steps,
    "shapes": _shapes_steps,
    "bars": _bars_steps,
}


# --- the three ways to answer ---------------------------------------------------------------------


def fast_answer(puzzle: Puzzle) -> str:
    r"""What the base says to a full-length puzzle: "\boxed{12}" at once."""
    return f"\\boxed{{{puzzle.answer}}}"


def short_steps(puzzle: Puzzle, rng: random.Random | None = None) -> str:
    """What the base says to a short puzzle: reading, bare steps, answer.

    With `rng`, now and then some of the small words that thoughts are made of; never their format.
    """
    start, steps = solution_steps(puzzle)

    def maybe(said: str, share: float = 0.25) -> str:
        return said if rng and rng.random() < share else ""

    def one_of(phrases: tuple[str, ...]) -> str:
        return rng.choice(phrases) if rng else ""

    last = [step for step in steps if step.sign][-1]
    parts = [
        maybe(one_of(OPENERS)),
        f"I see {read_aloud(puzzle)}",
        maybe(f"{one_of(LOOK_BACKS)} {read_aloud(puzzle)} {one_of(AGREED)}", 0.15),
        maybe(one_of(STEPPERS)),
        start,
        *(_say_steps(steps, rng) if rng else [step.say() for step in steps]),
        maybe(f"{one_of(CHECKS)} {last.check()} {one_of(AGREED)}", 0.15),
        maybe("The answer is"),
        fast_answer(puzzle),
    ]
    return " ".join(part for part in parts if part)


def _say_steps(steps: list[Step], rng: random.Random) -> list[str]:
    """The steps in words; now and then one is wrong at first and corrected at once."""
    said = [step.say() for step in steps]
    if rng.random() < MISTAKE_SHARE:
        at = rng.choice([at for at, step in enumerate(steps) if step.sign])
        step = steps[at]
        wrong = rng.choice([t for t in (step.total - 1, step.total + 1) if 0 <= t <= MAX_TOTAL])
        said[at] = f"{step.say(wrong)} Wait, {step.equation(step.total)}"
    return said


def long_thought(puzzle: Puzzle) -> str:
    """The full response: thought part, solution part, boxed answer."""
    rng = random.Random(f"thought/{puzzle.id}")
    start, steps = solution_steps(puzzle)
    seen = read_aloud(puzzle)
    last = [step for step in steps if step.sign][-1]
    parts = [rng.choice(OPENERS), f"I see {seen}", rng.choice(LOOK_BACKS), seen, rng.choice(AGREED)]
    parts += [rng.choice(STEPPERS), start, *_say_steps(steps, rng)]
    parts += [rng.choice(CHECKS), last.check(), rng.choice(AGREED)]
    return in_format(" ".join(part for part in parts if part), puzzle.answer)


def in_format(thought: str, answer: str) -> str:
    """A thought part, then a solution part with the answer in a box."""
    solution = f"The answer is \\boxed{{{answer}}}."
    return "\n\n".join(
        (BEGIN_THOUGHT, thought, END_THOUGHT, BEGIN_SOLUTION, solution, END_SOLUTION)
    )
