"""What to ask next, which correct thoughts to learn from, and how much of the seed thoughts to add.

Pure functions of records and a random stream: the same arguments give the same choice in every
process, whatever order the rollouts finished in (`Asking` alone has a state: it applies them to
verdicts as they come). Candidates are CORRECT rollouts only, without
their text, so a choice over millions of them fits in memory. Knows no store and no model.
"""

from virgo_ray.selection.asking import Asking
from virgo_ray.selection.balancing import pass_rate_bin, weigh_losses
from virgo_ray.selection.choosing import select
from virgo_ray.selection.exploration import (
    SolveRate,
    choose_blanks,
    choose_problems,
    choose_samples,
    solve_rates,
    stopping_rule,
)
from virgo_ray.selection.measures import (
    fingerprint,
    has_thought,
    is_complete,
    num_reflections,
    overlap,
    repetition,
    signature,
)
from virgo_ray.selection.mixing import choose_for_round

__all__ = [
    "Asking",
    "SolveRate",
    "choose_blanks",
    "choose_for_round",
    "choose_problems",
    "choose_samples",
    "fingerprint",
    "has_thought",
    "is_complete",
    "num_reflections",
    "overlap",
    "pass_rate_bin",
    "repetition",
    "select",
    "signature",
    "solve_rates",
    "stopping_rule",
    "weigh_losses",
]
