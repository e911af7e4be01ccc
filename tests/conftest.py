"""Property tests draw the same examples in every run, and are not failed for being slow."""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
