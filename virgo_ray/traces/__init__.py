"""`python -m virgo_ray.traces`: looking at what a run stored, exporting it, judging it again."""
