"""Runs from Python: `virgo_ray.run_config`, for notebooks and programs of the user's."""

from virgo_ray.api.running import CompletedRound, Rounds, run_config

__all__ = ["CompletedRound", "Rounds", "run_config"]
