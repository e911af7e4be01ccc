"""What tests of selection are made of."""

import random

from virgo_ray.config import ExploreConfig, SamplingConfig
from virgo_ray.records import Candidate, Problem


def rng(seed=0):
    return random.Random(seed)


def candidate(problem_id="p", sample_index=0, **fields):
    defaults = {
        "round": 1, "source": "s", "num_tokens": 100, "num_correct": 5, "num_judged": 5,
        "fingerprint": f"{problem_id}/{sample_index}",
    }  # fmt: skip
    return Candidate(problem_id=problem_id, sample_index=sample_index, **{**defaults, **fields})


def explore(num_problems, **fields):
    sampling = SamplingConfig(max_tokens=8)
    return ExploreConfig(num_problems=num_problems, num_samples=4, sampling=sampling, **fields)


def problems(num):
    return [Problem(f"p{i}", "How many?", "1") for i in range(num)]
