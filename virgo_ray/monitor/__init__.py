"""Watching a run: progress, console, metrics with their sinks, and the report."""
