r"""What a sentence asserts, and what it denies, doubts, asks or only mentions.

`read` blanks everything that is not asserted, so that a reader of numbers or letters can look for
them in the rest. It knows no grammar: it splits a sentence into clauses at punctuation and
conjunctions, and looks in each for words of a few closed classes. Where it errs, it errs towards
"not asserted". Linear in the length of the text.

It knows nothing of numbers, letters and answer types, and reads English. A sentence of another
language that holds a word for "not", "or", "perhaps" or "less than" asserts nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ASSERTED, ASIDE, DENIED = 0, 1, 2


@dataclass(frozen=True)
class Reading:
    """A text twice, as long as it was: what it asserts, and what it denies or leaves open."""

    asserted: str
    denied: str


def _words(*names: str) -> str:
    return r"(?<![\\A-Za-z'])(?:" + "|".join(names) + r")(?![A-Za-z'])"


_SENTENCE = re.compile(
    r"(?<!\b[Nn]o)(?<!\b[Ff]ig)(?<!\b[Ee]q)[.!?]+(?=[\s\"')*]|$)|\n|[\u3002\uff01\uff1f]"
)
_BREAK = re.compile(
    r"[;:]|,(?![0-9])|\s-{1,3}\s|[\u2013\u2014]|"
    + _words(
        "(?<!anything )(?<!nothing )(?<!all )but",
        "so",
        "then",
        "hence",
        "therefore",
        "thus",
        "leaving",
        "while",
        "whereas",
    )
    + "|(?="
    + _words("although", "though", "because", "since", "if", "unless")
    + ")",
    re.IGNORECASE,
)
_SUB_BREAK = re.compile(
    "(?="
    + _words(
        "not", "which", "it's", "it is", "rather than", "instead of", "and (?:it|that|this)",
        "in place of",
    )
    + ")",
    re.IGNORECASE,
)  # fmt: skip
_ASIDE = re.compile(r"\s*" + _words("because", "since", "for example", "e\\.g\\."), re.IGNORECASE)
_CONDITION = re.compile(
    _words("if", "unless", "suppose", "supposing", "assume", "assuming", "whether", "let", "say"),
    re.IGNORECASE,
)
# A verb of being with "not", or a verb that holds it: its subject is denied as well.
_VERB_NOT = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{2,10}n['\u2019]t(?![A-Za-z])|" + _words("cannot", "neither"),
    re.IGNORECASE,
)
_AUXILIARY = re.compile(
    _words(
        "is", "are", "was", "were", "be", "been", "can", "could", "does", "do", "did", "will",
        "would", "should", "shall", "has", "have", "had", "may", "might", "must",
    )
    + r"\s*(?:[A-Za-z]{2,12}ly\s*)?$",
    re.IGNORECASE,
)  # fmt: skip
# These reach to the end of their clause, or to a later "is": "the one not red is 7".
_GOVERNOR = re.compile(
    _words(
        "not", "never", "nor", "none", "no longer(?! than)", "by no means", "used to be",
        "(?:was|were|been) (?:thought|believed|assumed|said|supposed) to be",
        "(?:was|were) (?:once|previously|formerly|originally|initially|at first)",
        "nowhere near", "differs? from", "different from",
        "nothing", "nobody", "without", "except", "excluding",
        "unlike", "other than", "anything but", "all but",
        "(?:would|could|should|might) have", "rather than", "instead of", "in place of",
        "hardly", "scarcely", "far from",
        "maybe", "perhaps", "possibly", "probably", "presumably", "supposedly", "conceivably",
        "(?:may|might|could|can)(?: also| well)? be", "might", "either", "likely to be",
        "rul(?:e|es|ed|ing) out", "eliminat(?:e|es|ed)", "exclud(?:e|es|ed)", "discard(?:s|ed)?",
        "reject(?:s|ed)?", "dismiss(?:es|ed)?", "(?:do|does|did) I mean", "guess(?:ing)?",
    )
    + "|"
    + _words("is", "are", "was", "be", "answer")
    + r"\s(?:most |very |more )?likely(?![A-Za-z])|^\W{0,3}(?:most )?likely\s|"
    + r"(?<![\\A-Za-z'])no\s(?=[A-Za-z0-9$])(?!doubt|matter|longer|more than|question (?:that"
    r"|about))",
    re.IGNORECASE,
)  # fmt: skip
_OPINION = re.compile(
    _words(
        "that", "whether", "if", "think", "believe", "sure", "certain", "clear", "know", "known",
        "say", "claim", "mean", "case", "true", "possible", "convinced", "agree",
    ),
    re.IGNORECASE,
)  # fmt: skip
_DOUBT = re.compile(
    _words(
        "(?<!no )(?<!without )(?<!without a )(?<!without any )(?<!beyond )doubts?", "deny",
        "denies", "disagree", "unlikely", "impossible that", "unclear",
        "(?:can|could)(?:not|n't| not) (?:answer|tell|say|determine|solve|see|find|read|decide)",
        "unable to", "not able to", "unsure", "refuse(?:s|d)? to", "impossible to",
        "(?:can|could)(?:not|n't| not) (?:confirm|verify|be determined|be answered)",
 "no idea", "wonder", "unknown",
        "not (?:quite |really |so |very )?(?:sure|certain|clear|convinced|confident|the case)",
        "(?:don't|do not|didn't|did not) (?:know|think|believe|agree|see how)",
    ),
    re.IGNORECASE,
)  # fmt: skip
_WRONG = re.compile(
    "(?:"
    + _words("is", "are", "was", "were", "be", "been", "seems?", "looks?", "both", "all")
    + r"|['\u2019]s)\s(?:both |all |also |clearly |obviously |definitely |certainly |just |a "
    r"|an |the |too )?(?:"
    + "wrong|incorrect|impossible|invalid|mistaken|false|untrue|inconsistent|out of the question"
    + "|ruled out|eliminated|excluded|discarded|rejected|mistake|error|unlikely|doubtful"
    + "|small|large|high|low|big)(?![A-Za-z])(?! (?:number|answers|statements|ones|value))",
    re.IGNORECASE,
)
_VOID = re.compile(
    _words(
        "(?:first|initial|earlier|previous|original|wrong) (?:guess|attempt|idea|thought|try"
        "|estimate)",
        "some (?:would |people |students |may |might |could )?(?:say|think|claim|believe)",
        "one (?:might|may|could|would) (?:say|think|guess|believe)", "nobody", "no one", "no way",
        "fails?[ .!]{0,3}$",
        "common (?:mistake|error|misconception)s?",
        "(?:everyone|everybody|most|most people|many people|people) (?:says?|thinks?|believes?"
        "|claims?)",
        "answer (?:starts?|begins?|ends?|contains?|includes?|differs?|involves?)",
        "(?:my|our) (?:very )?(?:first|initial|earlier|previous|original) (?:answer|result|value)",
        "(?:i|we)(?: had)?(?: first| at first| initially| originally)? (?:thought|believed|guessed"
        "|suspected|expected)(?! about| through| over| hard| of| carefully)",
    ),
    re.IGNORECASE,
)  # fmt: skip
_REFERS_BACK = re.compile(
    r"[\s,;:\u2013\u2014-]*(?:and |but )?(?:which|that|this|it)(?![A-Za-z])", re.IGNORECASE
)
_LATER_IS = re.compile(_words("is", "are", "was", "were", "equals") + "|=", re.IGNORECASE)
_VALUE = (
    r"(?:\\?[$(]{0,2}-?[0-9][0-9.,/]{0,20}|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven"
    r"|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|(?:thir|for|fif|six|seven|eigh|nine)ty"
    r"|hundred|thousand)(?![a-z]))"
)
_COMPARED = re.compile(
    r"(?:"
    + _VALUE
    + r"\s)?"
    + _words(
        "(?:less|more|greater|fewer|larger|smaller|higher|lower|bigger|older|younger|longer"
        "|shorter|taller|heavier|lighter|better|worse|other|strictly more|farther|further) than",
        "at least", "at most", "at minimum", "at maximum", "up to", "under", "above", "below",
        "between", "exceed(?:s|ing)?", "within", "almost", "nearly", "beyond",
        "(?:an? )?(?:upper|lower) (?:bound|limit)(?: of)?", "no (?:less|more|fewer) than",
        "the (?:opposite|negative|reciprocal|inverse|double|square|half) of",
        "twice", "double", "triple", "half of",
    )
    + r"[^.;:]{0,30}?"
    + _VALUE
    + r"(?:\s?(?:and|to|or)\s"
    + _VALUE
    + ")?",
    re.IGNORECASE,
)  # fmt: skip
_BOUNDED = re.compile(
    _VALUE + r"\s?(?:or|and)\s(?:more|less|fewer|above|below|over|under|higher|lower)(?![A-Za-z])"
    r"|(?<![0-9]\s)" + _words("over") + r"\s" + _VALUE,
    re.IGNORECASE,
)
_OUT_OF = re.compile(
    _VALUE + r"(?:\s[A-Za-z]{1,20}){0,3}\sout\sof(?:\s[A-Za-z]{1,20}){0,2}\s" + _VALUE,
    re.IGNORECASE,
)
_MENTION = re.compile(
    _words(
        "questions?", "problems?", "steps?", "figures?", "fig\\.?", "eqs?\\.?", "equations?",
        "pages?", "chapters?", "sections?", "examples?", "exercises?", "lines?", "tables?",
        "theorems?", "lemmas?", "notes?", "hints?", "parts?", "cases?", "attempts?", "formulas?",
        "nos?\\.", "numbered", "images?", "pictures?", "diagrams?", "rows?", "columns?", "items?",
        "rounds?", "levels?", "versions?", "grades?", "class", "room", "appendix", "bullet",
    )
    + r"\s?#?\(?[0-9]{1,4}(?![0-9.]?[0-9])(?:\s(?:and|to|or)\s[0-9]{1,4}(?![0-9.]?[0-9]))?",
    re.IGNORECASE,
)  # fmt: skip
# A doubt that a later "but" of its sentence settles: "I was not sure at first, but it is 7".
_PAST = re.compile(
    _words("was", "were", "wasn't", "weren't", "had", "did", "didn't", "couldn't", "at first",
           "initially", "originally"), re.IGNORECASE,
)  # fmt: skip
_SETTLES = re.compile(_words("but", "however", "yet"), re.IGNORECASE)
# What is counted stays asserted where only its relative clause is negated: "7 cups that are not
# red". Nothing is counted in "7 is a number that is not the answer".
_COUNTED = re.compile(
    _words("there (?:is|are|was|were)", "has", "have", "had", "sees?", "counts?", "owns?")
    + r"\s(?:only |exactly |still |a total of )?\*{0,2}" + _VALUE
    + r"\*{0,2}(?:\s(?!answers?|solutions?|results?|values?|numbers?|options?"
    r"|choices?)[A-Za-z]{2,20}){1,4}?"
    r"(?P<relative>\s(?:that|which|who)\s(?:(?:is|are|was|were|do|does|did|have|has|had|can|could"
    r"|will)\s?)?)$",
    re.IGNORECASE,
)  # fmt: skip
_NOT_THE_ANSWER = re.compile(
    r"\s(?:that|which|who)\s(?:is|are|was|were|can|could)(?:n['\u2019]t|not"
    r"|\snot)\s(?:be\s)?(?:an? |the )?"
    r"(?:right |correct |valid |final )?(?:answers?|solutions?|results?|right|correct|valid|true"
    r"|possible|allowed|it)(?![a-z])",
    re.IGNORECASE,
)
_FOREIGN_MENTION = re.compile(
    "\u7b2c\\s?[0-9]{1,4}\\s?[\u9898\u984c\u554f\u95ee\u6b65\u9875\u9801\u884c\u5217\u7ae0\u8282\u7bc0\u5f20\u5e45]"
    "|(?:\u56fe\u7247?|\u5716\u7247?|\u8868|\u95ee\u9898|\u554f\u984c|\u9898\u76ee?|\u984c\u76ee?|\u6b65\u9aa4|\u6b65\u9a5f"
    "|\u0437\u0430\u0434\u0430\u0447[\u0430\u0438\u0443\u0435]|\u0440\u0438\u0441\\.|\u0448\u0430\u0433|Aufgabe|Frage|pregunta|question)"
    "\\s?[0-9]{1,4}(?![0-9.])|[0-9]{1,4}\ubc88 ?\ubb38\uc81c",
    re.IGNORECASE,
)
_FOREIGN_DOUBT = re.compile(
    "\u4e0d\u662f|\u4e0d\u70ba|\u4e0d\u4e3a|\u4e0d\u7b49|\u4e0d\u80fd|\u4e0d\u53ef|\u4e0d\u5bf9"
    "|\u4e0d\u5c0d|\u5e76\u975e|\u4e26\u975e|\u6ca1\u6709|\u9519|\u932f|\u53ef\u80fd|\u4e5f\u8bb8"
    "|\u4e5f\u8a31|\u5927\u6982|\u6216|\u8fd8\u662f|\u9084\u662f|\u5c0f\u4e8e|\u5927\u4e8e"
    "|\u5c0f\u65bc|\u5927\u65bc|\u81f3\u5c11|\u81f3\u591a|\u8d85\u8fc7|\u8d85\u904e|\u4e0d\u5230"
    "|\u65e0\u6cd5|\u7121\u6cd5|\u6ca1\u6cd5|\u6c92\u6709|\u96be\u4ee5|\u96e3\u4ee5|\u4e0d\u77e5|\u4e0d\u6e05\u695a|\u4e0d\u786e\u5b9a"
    "|\u4e0d\u78ba\u5b9a|\u4e0d\u4f1a|\u4e0d\u6703|\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u5c0d\u4e0d\u8d77|\u307e\u305b\u3093|\u5206\u304b\u3089\u306a"
    "|\u4e0d\u9009|\u4e0d\u9078|\u6392\u9664|\u9664\u4e86|\u4e0d\u5e94|\u4e0d\u61c9|\u308f\u304b\u3089\u306a|\u4e0d\u660e|\uc5c6|\ubaa8\ub974|\uc8c4\uc1a1"
    "|\u5417|\u55ce|\u306a\u3044|\u3042\u308a\u307e\u305b\u3093|\u304b\u3082\u3057\u308c"
    "|\u307e\u305f\u306f|\u4ee5\u4e0a|\u4ee5\u4e0b|\u672a\u6e80|\uc544\ub2c8|\uc544\ub2d9"
    "|\ub610\ub294|\ud639\uc740|\uc774\uc0c1|\uc774\ud558|\ubbf8\ub9cc|\ubabb"
    r"|(?<!\w)(?:\u043d\u0435|\u043d\u0435\u0442|\u0438\u043b\u0438|\u043b\u0438\u0431\u043e"
    "|\u0432\u043e\u0437\u043c\u043e\u0436\u043d\u043e|\u043c\u0435\u043d\u044c\u0448\u0435"
    "|\u0431\u043e\u043b\u044c\u0448\u0435|\u043c\u0435\u043d\u0435\u0435|\u0431\u043e\u043b\u0435"
    "\u0435|\u043d\u0435\u0432\u0435\u0440\u043d\u043e|\u043c\u043e\u0436\u0435\u0442"
    "|no es|no son|no (?:s[e\u00e9]|puedo|se puede)|ne (?:peux|peut|sais) pas|non (?:so|posso"
    "|si)|quiz[a\u00e1]s?|menos de|m[a\u00e1]s de|n['\u2019]est pas|peut-[e\u00ea]tre"
    "|moins de|plus de|nicht|kein|keine|oder|vielleicht|weniger als|mehr als|mindestens"
    "|h[o\u00f6]chstens|n[\u00e3a]o|talvez|non \u00e8|forse|tal vez|puede ser|pourrait|ou bien"
    "|k\u00f6nnte|falsch|incorrecto|incorrecta)(?!\\w)",
    re.IGNORECASE,
)


# A response that refuses asserts nothing, whatever numbers it mentions.
_REFUSAL = re.compile(
    _words(
        "(?:can|could)(?:not|n't| not) (?:answer|solve|determine)", "give up",
        "(?:don't|do not) know(?: the answer)?(?=[.,;!]|$)",
        "impossible to (?:say|tell|know|answer)",
        "(?:am|are|is) unable to (?:answer|solve|determine|say|tell)",
    ),
    re.IGNORECASE,
)  # fmt: skip


def read(text: str, reads_bounds: bool = False) -> Reading:
    """What a text of one or more sentences asserts.

    `reads_bounds` says that "at least 7" is an answer, as it is for an inequality.

    >>> read("It is not 7 but 8.").asserted.split(), read("It is not 7 but 8.").denied.split()
    (['but', '8.'], ['It', 'is', 'not', '7'])
    >>> read("Might it be 7?").asserted.strip(), read("Since 2 + 5 = 7, it is 7").asserted.strip()
    ('', ', it is 7')
    """
    mask = bytearray(len(text))
    start = 0
    for end in [*(m.end() for m in _SENTENCE.finditer(text)), len(text)]:
        _mark_sentence(text, start, end, mask, reads_bounds)
        start = end
    refusal = _REFUSAL.search(text)
    if refusal and not _SETTLES.search(text, refusal.end()):
        _mark(mask, 0, len(text), DENIED)
    return Reading(_keep(text, mask, ASSERTED), _keep(text, mask, DENIED))


def asserts_all(text: str) -> bool:
    """Whether nothing in a text is denied, doubted, asked or left open.

    >>> asserts_all("The shape is red."), asserts_all("The shape isn't red.")
    (True, False)
    """
    return not read(text).denied.strip()


def is_question(text: str) -> bool:
    """Whether a text ends as a question does."""
    return text.rstrip(" \t\n*_\"')$}").endswith(("?", "\uff1f"))


def _keep(text: str, mask: bytearray, kind: int) -> str:
    kept = (c if of is kind else " " for c, of in zip(text, mask, strict=True))
    return "".join(kept)


def _mark(mask: bytearray, start: int, end: int, kind: int) -> None:
    mask[start:end] = bytes([kind]) * (end - start)


def _mark_sentence(text: str, start: int, end: int, mask: bytearray, reads_bounds: bool) -> None:
    sentence = text[start:end]
    if is_question(sentence) or _FOREIGN_DOUBT.search(sentence):
        _mark(mask, start, end, DENIED)
        return
    breaks = [m.start() for m in _BREAK.finditer(sentence)]
    starts = [0, *breaks]
    is_doubted = False
    for first, last in zip(starts, [*breaks, len(sentence)], strict=True):
        is_doubted = _mark_segment(text, start + first, start + last, mask) or is_doubted
    _mark_conditional(text, start, breaks, mask)
    if is_doubted:
        doubt = _DOUBT.search(sentence)
        at = doubt.start() if doubt else 0
        _mark(mask, start + at, start + _end_of_doubt(sentence, at), DENIED)
    mentions = (_MENTION, _FOREIGN_MENTION)
    patterns = mentions if reads_bounds else (_COMPARED, _BOUNDED, _OUT_OF, *mentions)
    for pattern in patterns:
        for match in pattern.finditer(sentence):
            _mark(mask, start + match.start(), start + match.end(), DENIED)


def _end_of_doubt(sentence: str, start: int) -> int:
    """The end of the sentence; for a doubt in the past, the "but" that settles it."""
    settled = _SETTLES.search(sentence, start)
    if settled is None or not _PAST.search(sentence[: settled.start()]):
        return len(sentence)
    return len(sentence) if _DOUBT.search(sentence, settled.end()) else settled.start()


def _mark_conditional(text: str, start: int, breaks: list[int], mask: bytearray) -> None:
    """Deny "it is 7" in "it is 7 if x is even" and in "it is 7, which is wrong"."""
    for first, last, end in zip([0, *breaks], breaks, [*breaks[1:], len(mask)], strict=False):
        segment = text[start + last : min(start + end, start + last + 200)]
        is_condition = re.match(r"(?:if|unless)\b", segment, re.IGNORECASE)
        is_denial = _REFERS_BACK.match(segment) and _WRONG.search(segment)
        if is_denial or (is_condition and text[start + first : start + last].strip(" ,;:")):
            _mark(mask, start + first, start + last, DENIED)


def _mark_segment(text: str, start: int, end: int, mask: bytearray) -> bool:
    """Mark one clause between punctuation; True where it doubts all that follows it, too."""
    segment = text[start:end]
    if _WRONG.search(segment) or _VOID.search(segment):
        _mark(mask, start, end, DENIED)
        return False
    if _DOUBT.search(segment):
        return True
    condition = _CONDITION.search(segment)
    if _ASIDE.match(segment):
        _mark(mask, start, end, ASIDE)
    elif condition and not segment[: condition.start()].strip(" ,;:"):
        _mark(mask, start, end, DENIED)
        return False
    breaks = [m.start() for m in _SUB_BREAK.finditer(segment) if m.start() > 0]
    subject = start
    for first, last in zip([0, *breaks], [*breaks, len(segment)], strict=True):
        _mark_clause(text, subject, start + first, start + last, mask)
        subject = start + first
    rejected = _NOT_THE_ANSWER.search(segment)
    if rejected:
        _mark(mask, start, start + rejected.end(), DENIED)
    return False


def _mark_clause(text: str, subject: int, start: int, end: int, mask: bytearray) -> None:
    clause = text[start:end]
    verb, governor = _VERB_NOT.search(clause), _GOVERNOR.search(clause)
    found = min((m for m in (verb, governor) if m), key=lambda m: m.start(), default=None)
    if found is None:
        return
    at, reach = start + found.start(), len(clause)
    if not _OPINION.search(clause, found.end()):
        later = _LATER_IS.search(clause, found.end())
        reach = later.end() if later else reach
    _mark(mask, at, start + reach, DENIED)
    subject = start if text[start:at].strip() else subject  # of a clause that begins with "not"
    if found is verb or _AUXILIARY.search(text[subject:at]):
        counted = _COUNTED.search(text[max(subject, at - 200) : at])
        _mark(mask, at - len(counted["relative"]) if counted else subject, at, DENIED)
