"""What to ask next, which correct thoughts to learn from, and how much of the seed thoughts to add.

Pure functions of records and a random stream: the same arguments give the same choice in every
process, whatever order the rollouts finished in. Candidates are CORRECT rollouts only, without
their text, so a choice over millions of them fits in memory. Knows no store and no model.
"""

from virgo_ray.selection.balancing import loss_weights, pass_rate_bin
from virgo_ray.selection.choosing import num_correct_needed, select
from virgo_ray.selection.exploration import blanks_wanted, choose_problems, samples_wanted
from virgo_ray.selection.measures import (
    fingerprint,
    has_thought,
    is_complete,
    num_reflections,
    overlap,
    repetition,
    signature,
)
from virgo_ray.selection.mixing import mix, of_round

__all__ = [
    "blanks_wanted",
    "choose_problems",
    "fingerprint",
    "has_thought",
    "is_complete",
    "loss_weights",
    "mix",
    "num_correct_needed",
    "num_reflections",
    "of_round",
    "overlap",
    "pass_rate_bin",
    "repetition",
    "samples_wanted",
    "select",
    "signature",
]
