"""A custom verifier whose import fails."""

raise RuntimeError("broken on purpose")
