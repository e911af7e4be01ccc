"""A source as one list, where nothing bad is tolerated."""

from virgo_ray.data.problems import read_problems
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.errors import DataError


def load_problems(source, seed, cache_dir):
    return _whole(read_problems(source, seed, cache_dir))


def load_seed_thoughts(source, seed, wanted="tags", count_tokens=None):
    return _whole(read_seed_thoughts(source, seed, wanted, count_tokens))


def _whole(readings):
    for reading in readings:
        if reading.faults:
            raise DataError(f"{reading.where}: {reading.complaint()}")
    return [record for reading in readings for record in reading.records]
