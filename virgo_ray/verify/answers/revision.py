r"""What a response takes back, and the courtesies after its answer.

`split_at_retraction` finds the last place where a response says that it was wrong or thinks again;
`without_closing` drops "Hope this helps!" and its like. Both read English, and are linear in the
length of the text.
"""

from __future__ import annotations

import re
from collections import deque

from virgo_ray.verify.answers.sentence import is_question

MAX_CLOSINGS = 6
MAX_CLOSING_CHARS = 1000
_STARTS = r"(?:^|(?<=[\n.,;:!?}$)*\u2014-])|(?<=[\n.,;:!?}$)*\u2014-]\s))\s?[*_(\[]{0,3}"
_RETRACTION = re.compile(
    _STARTS + r"(?P<marker>"
    r"(?:oh|oops|ah|hmm+|no|sorry|but|ok(?:ay)?|well)?[,.!]?\s?(?:wait|hold on|hang on)"
    r"(?=\s?[,.!:\u2026\u2014-]|\s(?:no|a|i|that|this|it|but"
    r"|actually)(?![a-z]))(?:[,.!\u2026 \u2014-]{1,5}(?:no|wait)(?![a-z])(?=\W{0,5}\w)){0,3}"
    r"|(?:or |no,? )?(?:scratch|strike|forget|ignore|disregard) (?:that|this)"
    r"|correct(?:ion|ing myself)(?=\s?[:,.\u2014-])|let me (?:correct|fix|redo|retry|try again)"
    r"|(?:no,? )?actually(?=[\s,:])|(?:no,? |or )?(?:sorry,? )?i mean(?:t)?(?=[\s,:])"
    r"|on second thoughts?|(?:just )?kidding(?=[,.!:\s])"
    r"|my (?:mistake|bad|error)|oops|whoops|apologies|sorry(?=\s?[,.:!]|\sit)|i take (?:that"
    r"|it) back"
    r"|i (?:was|am) wrong|i made (?:a|an) (?:mistake|error|slip)|or rather|no,? rather|nope"
    r"|(?=no[,.!]?\s{0,2}(?:it is|it's|the answer|make (?:it|that)|that is wrong|that's wrong"
    r"|[$\\(*]{0,3}boxed))"
    r"|(?<=[.!]\s)no,\s(?=[^.,;:\n]{1,30}[.!]?\s{0,3}$)"
    r"|(?=no[,.!:]\s{1,2}(?:rather |it's )?[$(*]{0,3}(?:-?[0-9]|[A-J](?![A-Za-z])))"
    r")",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"(?:\b(?:that|this|it|which|above|answer|result|value|one|option|choice)"
    r"|[}$)])[*_]{0,2}\s?(?:'s|\u2019s|\s(?:is|was|must be|seems|looks))\s"
    r"(?:not (?:right|correct|true|it|the answer|what)|wrong|incorrect|false|impossible|invalid"
    r"|a mistake|an error"
    r"|clearly wrong|obviously wrong|mistaken)(?![a-z])"
    r"|\b(?:that|this|it|which|answer|result|value)\s(?:isn|wasn|can|doesn|don)['\u2019]t\s"
    r"(?:right|correct|true|be|work|fit|make|hold|match)"
    r"|(?:\b(?:that|this|it)|[}$)])\s(?:cannot be|can['\u2019]t be|isn['\u2019]t (?:right"
    r"|correct|it|the)|does not (?:work|fit|make|hold|match))",
    re.IGNORECASE,
)
_CONFIRMS = re.compile(
    r"(?<![a-z])(?:correct|right|indeed|confirmed|consistent|checks out|works|fine|good|matches"
    r"|same|yes)(?![a-z])",
    re.IGNORECASE,
)
# Words right before a box that deny it or leave it open.
_DENIED_NEXT = re.compile(
    r"(?:(?<![A-Za-z])(?:not|never|cannot|neither|nor|rather than|instead of|maybe|perhaps|possibly"
    r"|probably not|no longer|by no means|anything but|far from|hardly|used to be|formerly"
    r"|(?:was|were) (?:once|previously|originally|initially|at first)|(?:would|could"
    r"|should) have been|(?:might|may|could)(?=\sbe)|(?:is|are) (?:less|more|greater|smaller|larger"
    r"|fewer) than)"
    r"|n['\u2019]t(?: think| believe)?)(?![A-Za-z])"
    r"(?:\s(?:that|be|equals?|to|it|is|the|correct|right|final|answer|simply|just|really)){0,5}[\s:$*(=]*$",
    re.IGNORECASE,
)
# A clause about what follows it: "it is not the case that", "I doubt that", "I first thought".
_DENIED_CLAUSE = re.compile(
    r"(?:(?:(?<![a-z])(?:not|never|hardly)|n['\u2019]t) (?:be )?(?:the case|true|correct|right"
    r"|possible|likely|clear|certain|sure|think|believe|agree|say|claim|be that)"
    r"|(?<![a-z])(?:nobody|no one|(?:is|was|seems|it['\u2019]s|that['\u2019]s) (?:false|wrong"
    r"|untrue|incorrect|impossible|unlikely|doubtful"
    r"|unclear|a mistake|an error)|(?<!no )(?<!without )(?<!a )(?<!any )(?<!beyond )doubt|deny"
    r"|disagree|no (?:reason|way|evidence|proof|chance)"
    r"|(?:i|we)(?: had)?(?: first| at first| initially| originally)? (?:thought|believed|guessed"
    r"|suspected|expected)(?! about| through| over| hard| of| carefully)|(?:was|were"
    r"|been) (?:thought"
    r"|believed|assumed|said|supposed)))"
    r"(?:[^.,;:!?\n]{0,80}[\s$\\(\[*]|[\s$\\(\[*]*)$",
    re.IGNORECASE,
)
_IN_DOUBT = re.compile(r"(?<![a-z])(?:would|could|might)(?![a-z])", re.IGNORECASE)
_IF = re.compile(r"[\s$)\]}*\\,]{0,6}(?:if|unless|provided|assuming)(?![a-z])", re.IGNORECASE)
_NEXT_BOX = re.compile(
    r"[\s$)\]\\,]{0,6}(?:or|and)?[\s$(\[\\]{0,6}f?box(?:ed)?\s?\{", re.IGNORECASE
)
_ASKED = re.compile(
    r"[\s$)\]}*\\.]{0,6}(?:,?\s?(?:right|correct|isn['\u2019]t it|is it|maybe|perhaps|or not"
    r"|or is it|or what|no|yes|ok|okay|possibly))?[\s$)\]}*\\]{0,6}[?\uff1f]",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"\s*(?:so |but |or |and |hmm,? |wait,? )?(?:could|can|might|is|would|should|was|are|what if"
    r"|how about|maybe|perhaps)\b",
    re.IGNORECASE,
)
# Between two boxes these say that the second one replaces the first.
_REPLACES = re.compile(
    r"(?<![a-z])(?:but(?! also)|however|actually|instead|rather|in fact|yet|wait|correct(?:ed|ion)?"
    r"|revised?|changed?|after (?:checking|another|a second|closer|more))(?![a-z])",
    re.IGNORECASE,
)
_COURTESY = re.compile(
    r"(?:is there anything|(?:if there is |do you need )?anything else|(?:i )?hope (?:this|that"
    r"|it|i)|"
    r"(?:please |just |do )?let me know|(?:please )?(?:feel|be) free|if you (?:have|need|want"
    r"|would|'d|like|are)"
    r"|would you like|do you (?:have|want|need|understand)|(?:i'?m |i am )?(?:happy|glad) to"
    r"|thank(?:s| you)|you'?re welcome|good luck"
    r"|have a (?:great|nice|good|wonderful)|(?:please )?(?:do not|don'?t) hesitate|any (?:other"
    r"|more|further) question"
    r"|(?:please )?ask (?:me )?(?:if|any)|can i help|how else can|shall i|need (?:any )?(?:more"
    r"|further) help|happy \w{3,10}ing"
    r"|keep (?:up|practi[sc]ing|learning)|enjoy (?:your|the)|best (?:regards|wishes)|cheers"
    r"|does (?:this|that) (?:help|make sense)"
    r"|(?:i )?trust this|see you|great (?:question|job)|glad (?:i|to)|feel free)(?![a-z])",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][*_\"')$]))\s+(?=\S)|\n+")


def split_at_retraction(text: str) -> tuple[str, str]:
    """(what came before the last retraction, what follows it); no retraction: ("", the text).

    >>> split_at_retraction("The answer is B. No wait, C")
    ('The answer is B.', ', C')
    >>> split_at_retraction("They wait 7 minutes.")
    ('', 'They wait 7 minutes.')
    """
    found = deque(_RETRACTION.finditer(text), maxlen=1)
    return (text[: found[0].start()], text[found[0].end() :]) if found else ("", text)


def denies(text: str) -> bool:
    """Whether a text says that what stands before it is wrong.

    >>> denies("Hmm, that is wrong."), denies("The number that is not prime is 4.")
    (True, False)
    """
    return _DENIES.search(text) is not None


def leaves_open(lead: str, tail: str) -> bool:
    """Whether the sentence around a box, cut there in two, denies what is in it, or only asks.

    >>> leaves_open("It is not the case that it is ", "."), leaves_open("It is ", ", not 3.")
    (True, False)
    >>> leaves_open("So it is ", "?"), leaves_open("It would be ", " if x were 2.")
    (True, True)
    """
    if _DENIED_NEXT.search(lead) or _DENIED_CLAUSE.search(lead) or _ASKED.match(tail):
        return True
    if is_question(tail) and _NEXT_BOX.match(tail):
        return True
    if _IN_DOUBT.search(lead) and _IF.match(tail):
        return True
    return is_question(tail) and _ASKING.match(lead) is not None


def replaces(between: str) -> bool:
    """Whether the words between two answers take the first one back.

    >>> replaces(", but after checking it is "), replaces(" and ")
    (True, False)
    """
    return _REPLACES.search(between) is not None


def confirms(text: str) -> bool:
    """Whether a text says that what stands before it is right."""
    return _CONFIRMS.search(text) is not None and not denies(text)


def without_closing(text: str) -> str:
    """A response without the courtesies after its answer.

    >>> without_closing("So it is 7. I hope this helps! Let me know if 8 is clear, too.")
    'So it is 7.'
    """
    text = text.rstrip()
    for _ in range(MAX_CLOSINGS):
        near = max(0, len(text) - MAX_CLOSING_CHARS)
        start = max((m.end() for m in _SENTENCE_START.finditer(text, near)), default=0)
        last = text[start:].lstrip(" *_(\"'")
        is_ornament = last and not any(c.isalnum() or ord(c) < 128 for c in last)
        if start == 0 or not (is_ornament or _COURTESY.match(last)):
            break
        text = text[:start].rstrip()
    return text
