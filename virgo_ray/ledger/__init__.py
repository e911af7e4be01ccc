"""The committed state of a run, with its gates and their decisions."""
