"""What to ask next, which correct thoughts to learn from, and how much of the seed thoughts to add.

Pure functions of records and a random stream: the same arguments give the same choice in every
process, whatever order the rollouts finished in. Candidates are CORRECT rollouts only, without
their text, so a choice over millions of them fits in memory. Knows no store and no model.
"""

from virgo_ray.selection.asking import choose_problems
from virgo_ray.selection.balancing import balance, pass_rate_bin
from virgo_ray.selection.candidates import Candidate
from virgo_ray.selection.choosing import num_correct_needed, select
from virgo_ray.selection.measures import fingerprint, is_complete, num_reflections
from virgo_ray.selection.mixing import mix

__all__ = [
    "Candidate",
    "balance",
    "choose_problems",
    "fingerprint",
    "is_complete",
    "mix",
    "num_correct_needed",
    "num_reflections",
    "pass_rate_bin",
    "select",
]
