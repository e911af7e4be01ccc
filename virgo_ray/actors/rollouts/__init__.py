"""Engines in Ray actors: the pool, its slots, and what samples through them."""
