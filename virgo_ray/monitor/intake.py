"""What a fit trains on, in words, and the warning where that is far less than the fit before had.

Pure: from the records of fits to text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from virgo_ray.records import FitReport, Kind, Portion, Round

FEW_TOKENS = "few_tokens"  # the warning's name in console, report and metrics
FEW = 0.5  # of the tokens of the fit before


def describe_portions(portions: Mapping[str, Portion]) -> str:
    """ "672 seed thoughts (91,204 tokens), 0 text traces, 412 picture traces (96,100 tokens)"."""
    parts = []
    for kind in Kind:
        portion = portions.get(kind, Portion(0, 0))
        tokens = f" ({portion.num_tokens:,} tokens)" if portion.num_examples else ""
        parts.append(f"{portion.num_examples:,} {kind.replace('_', ' ')}{tokens}")
    return ", ".join(parts)


def warn_of_few_tokens(
    before: FitReport | None, num_tokens: int, portions: Mapping[str, Portion]
) -> str:
    """A sentence where a fit has under FEW of the tokens of the one before; else empty.

    Tokens are compared twice: those that are read in all passes, and those of the examples, each
    counted once. The second falls alone where `train.num_tokens` repeats few examples many times.
    """
    if before is None or not before.num_tokens:
        return ""
    pairs = [("tokens in all passes", num_tokens, before.num_tokens)]
    if before.portions and portions:
        pairs.append(("tokens of examples", _one_pass(portions), _one_pass(before.portions)))
    what, now, then = min(pairs, key=lambda pair: pair[1] / pair[2])
    if now >= FEW * then:
        return ""
    return (
        f"{FEW_TOKENS}: it trains on {now:,} {what}, {now / then:.0%} of the {then:,} of the fit "
        "before, and may unlearn what that one learned; look at how many thoughts were accepted, "
        "and at train.seed_share, train.seed_floor, select.last_rounds and select.max_traces"
    )


def warnings_by_round(rounds: Sequence[Round]) -> dict[str | int, list[str]]:
    """The warnings of every round that trained, by its label; rounds are in order."""
    found: dict[str | int, list[str]] = {}
    before: FitReport | None = None
    for fit, label in ((r.fit, r.label) for r in rounds):
        if fit is None or not fit.num_steps:
            continue
        warning = warn_of_few_tokens(before, fit.num_tokens, fit.portions)
        found[label] = [warning] if warning else []
        before = fit
    return found


def portion_numbers(fit: FitReport | None) -> dict[str, int | None]:
    """`seed_thoughts`, `seed_thoughts_tokens` and so on; None where a fit did not count them."""
    is_unknown = fit is not None and fit.num_steps > 0 and not fit.portions
    portions = fit.portions if fit is not None else {}
    numbers: dict[str, int | None] = {}
    for kind in Kind:
        portion = portions.get(kind, Portion(0, 0))
        numbers[str(kind)] = None if is_unknown else portion.num_examples
        numbers[f"{kind}_tokens"] = None if is_unknown else portion.num_tokens
    return numbers


def _one_pass(portions: Mapping[str, Portion]) -> int:
    return sum(portion.num_tokens for portion in portions.values())
