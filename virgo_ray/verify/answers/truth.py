r"""The truth value that an answer to a yes/no question says.

A sentence that begins with yes or no and goes on with a clause is that; a word for true or false
at its end, as in "it is not correct", is read with its "not". Whatever says
both, asks, or only looks like it ("true story", "No. 8", "No idea") says neither.
"""

from __future__ import annotations

import re

from virgo_ray.verify.answers.clean import plain

YES = frozenset({"yes", "true", "correct", "right", "y"})
NO = frozenset({"no", "false", "incorrect", "wrong", "n"})

_TOKEN = re.compile(r"[a-z]+(?:['\u2019][a-z]+)?|[0-9]+|[^\sa-z0-9]")
_STOPS = frozenset(".,;:!-\u2013\u2014")
# What may stand between two truth values that are offered together.
_JOINTS = frozenset(
    {
        "and", "or", "but", "maybe", "perhaps", "wait", "actually", "also", "then", "nor", "to",
        "not", "both", "sorry", "i", "mean", "possibly", "rather", "hmm", "well", "is", "it", "s",
        "/", "|", "&", "?", "(", ")", *_STOPS,
    }
)  # fmt: skip
_LEADS = frozenset(
    {
        "so", "therefore", "thus", "hence", "then", "the", "answer", "is", "final", "in", "short",
        "conclusion", "ok", "okay", "well", "finally", "a", "simple", "my", "and", "overall",
        ":", ",", "*", "#", "(",
    }
)  # fmt: skip
# A clause after "yes" or "no" without a comma begins with one of these.
_CLAUSE_STARTS = frozenset(
    {
        "it", "they", "he", "she", "we", "you", "i", "the", "this", "that", "these", "those",
        "there", "because", "since", "as", "its", "their", "his", "her", "for", ")", "(", "|",
        "\"", "]", "}",
    }
)  # fmt: skip
_HEDGES = re.compile(
    r"(?<![a-z])(?:maybe|perhaps|possibly|probably|might|may be|could be|not sure|unsure|unclear"
    r"|not necessarily|sometimes|partly|partially|both|either|neither|depends|cannot|can't"
    r"|can\u2019t|don't know|do not know|doubt|unknown|if|whether|almost|half|nearly|hardly"
    r"|not always"
    r"|unless|none|nobody|guess)(?![a-z])"
)
_ENDS = re.compile(
    r"(?P<lead>.{0,300}?)(?<![a-z])(?:is|are|was|were|be|seems|looks|answer|answer is|answer:"
    r"|claim:)"
    r"(?P<negated>n['\u2019]t|\snot)?\s(?:indeed |definitely |clearly |actually |therefore "
    r"|also |always )?"
    r"(?P<said>yes|no|true|false|correct|incorrect|right|wrong)",
    re.DOTALL,
)
_NEGATED = re.compile(r"not (?P<said>true|false|correct|incorrect|right|wrong)")
_NEGATION = re.compile(
    r"(?<![a-z])(?:not|never|no|none|neither|nor|cannot|without)(?![a-z])|n['\u2019]t"
)
_REASON = re.compile(r"\s(?:because|since|as (?:it|the|they))\s")
# "The triangle is right" is no yes: only what can be true can be right.
_CLAIM = re.compile(
    r"(?<![a-z])(?:it|this|that|he|she|they|statement|claim|answer|assertion|assumption|sentence|conclusion"
    r"|hypothesis|proposition|student|equation|inequality|caption|description|solution)(?:\s\S{1,30}){0,8}\s?$"
)


def truth_of(text: str) -> bool | None:
    """True for yes, False for no, None where a text says neither or both.

    >>> [truth_of(t) for t in ("Yes, it is.", "It is not correct.", "No, it is not bigger.")]
    [True, False, False]
    >>> [truth_of(t) for t in ("true or wrong", "true story", "No. 8", "Probably not", "yes?")]
    [None, None, None, None, None]
    """
    said = plain(text).casefold().replace("*", "").replace("\u2019", "'")
    said = re.sub(r"\b(it|that|here|he|she|what)'s\b", r"\1 is", re.sub(r"\s+", " ", said)).strip(
        " '\"()[]"
    )
    bare = said.rstrip(" .!,;:")
    if bare in YES | NO:
        return bare in YES
    if said.endswith("?"):
        return None
    tokens = _TOKEN.findall(said)
    while tokens and tokens[0] in _LEADS:
        tokens.pop(0)
    if tokens and tokens[0] in (YES | NO) - {"y", "n"}:
        return _first_word(tokens)
    bare = _REASON.split(bare, maxsplit=1)[0].rstrip(" ,")
    return None if _HEDGES.search(said) else _at_the_end(bare)


def _first_word(tokens: list[str]) -> bool | None:
    """What a sentence says that begins with a truth value."""
    first, rest = tokens[0], tokens[1:]
    value = first in YES
    for token in rest:
        if token in (NO if value else YES) - {"y", "n"}:
            return None
        if token not in _JOINTS:
            break
    if not rest:
        return value
    if first == "no" and rest[0] == "." and len(rest) > 1 and rest[1].isdigit():
        return None
    if rest[0] == "?" or (rest[0] in ("and", "or", "/") and len(rest) > 1):
        return None
    if first in ("yes", "no"):
        goes_on = rest[0] in _STOPS or rest[0] in _CLAUSE_STARTS
    else:
        goes_on = rest[0] in _STOPS or rest[0] in ("because", "since", "as", "(", ")", "]")
    follows = " ".join(rest[1:3])
    if not goes_on or _HEDGES.search(follows) or _is_alternative(value, rest):
        return None
    return value


def _is_alternative(value: bool, rest: list[str]) -> bool:
    """Whether the other truth value follows as a word of its own: "yes, well, no"."""
    others = {"no"} if value else {"yes"}
    ends = [*rest[1:], "."]
    return any(a in others and b in _STOPS for a, b in zip(rest, ends, strict=True))


def _at_the_end(text: str) -> bool | None:
    """What "the statement is not true" says."""
    negated = _NEGATED.fullmatch(text)
    if negated:
        return negated["said"] in NO
    found = _ENDS.fullmatch(text)
    if found is None or _NEGATION.search(found["lead"]):
        return None
    if found["said"] in ("right", "wrong") and not _CLAIM.search(found["lead"]):
        return None
    if found["said"] in ("yes", "no") and found["negated"]:
        return None
    return (found["said"] in YES) is not bool(found["negated"])
