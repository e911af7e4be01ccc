"""Values that follow from others where a config does not say them.

They are filled in before validation, so the stored config holds them as numbers. Knows plain
mappings only: what is malformed is left for the validation to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By model.dtype, the largest difference of log-probabilities that right weights may show, in nats.
LOGPROB_DIFF = {"float32": 1e-3, "bfloat16": 0.5}


def fill_derived(raw: Any, dtype: str) -> Any:
    """A config's plain mapping, completed by what follows from it; what is set stays.

    `push.max_logprob_diff` follows from `model.dtype`; `dtype` is its default.

    >>> fill_derived({"push": {"deadline_s": 9}}, "bfloat16")["push"]
    {'max_logprob_diff': 0.5, 'deadline_s': 9}
    """
    if not isinstance(raw, Mapping):
        return raw
    filled = dict(raw)
    limit = LOGPROB_DIFF.get(_at(raw, "model", "dtype") or dtype)
    if limit is not None:
        _fill(filled, "push", "max_logprob_diff", limit)
    return filled


def _at(raw: Any, *keys: str) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def _fill(raw: dict[str, Any], section: str, key: str, value: Any) -> None:
    own = raw.get(section, {})
    if isinstance(own, Mapping):
        raw[section] = {key: value, **own}
