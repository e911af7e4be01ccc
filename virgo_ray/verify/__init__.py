"""From a response to a verdict: extraction, comparison, processes. See docs/verification.md."""
