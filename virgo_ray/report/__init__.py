"""The report of a run: a folder of static pages with every rollout, opened from disk."""
