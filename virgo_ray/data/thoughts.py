"""Textual long thoughts in their published forms, made into one format.

| form | where thought and solution stand |
|---|---|
| tagged | one text: `<|begin_of_thought|>` and its like (STILL-2, Sky-T1), or `<think>` (R1) |
| two fields | `thought` and `solution`; s1: `thinking_trajectories` and `attempt` |
| one text | LIMO: reasoning that ends in a boxed answer, which is the solution |

Knows nothing of tokens, files or models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from virgo_ray.config import FORMATS, Format
from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.rows import RowError

ThoughtFormat = Literal["tags", "think"]
OF_NAME: dict[str, Format] = {"tags": FORMATS[0], "think": FORMATS[1]}

# Where each form keeps its whole response, in order of preference.
RESPONSES = ("combined_text", "response", "output", "completion", "generation", "generations")
S1_PAIRS = (
    ("thinking_trajectories", "attempt"),
    ("deepseek_thinking_trajectory", "deepseek_attempt"),
    ("gemini_thinking_trajectory", "gemini_attempt"),
    ("thinking", "response"),
    ("reasoning_content", "content"),
    ("reasoning", "response"),
)
_FINAL = re.compile(r"\n\s*(?:\*\*|#+\s*)?Final Answer(?:\*\*)?:?\s*\n?", re.IGNORECASE)


def thought_text(fields: Mapping[str, Any], wanted: ThoughtFormat) -> str:
    """The thought of a record in the wanted format; a text already in it is not touched.

    A `thought` that stands alone and untagged is the user's own format and stays as it is.

    Raises:
        RowError: no thought, a thought cut off before its end tag, or no answer after it.
    """
    thought, solution = _text(fields.get("thought")), _text(fields.get("solution"))
    if thought and not _format_of(thought):
        return render_thought(thought, solution, wanted) if solution else thought
    for thinking, attempt in S1_PAIRS:
        parts = _text(fields.get(thinking)), _text(fields.get(attempt))
        if all(parts):
            return render_thought(*parts, wanted)
    whole = thought or next((t for name in RESPONSES if (t := _text(fields.get(name)))), solution)
    if not whole:
        raise RowError(
            "empty thought",
            f"expected text in 'thought', 'combined_text', 'response' or another of the forms in "
            f"docs/data.md; the row has {', '.join(fields)[:200]}",
        )
    return convert_thought(whole, wanted)


def convert_thought(text: str, wanted: ThoughtFormat) -> str:
    """Convert a whole response into the wanted format.

    >>> convert_thought("<think>1 + 1 is 2.</think> It is 2.", "tags").split()[0]
    '<|begin_of_thought|>'
    """
    found = _format_of(text)
    if found is None:
        return render_thought(*_split_untagged(text), wanted)
    before, begin, rest = text.partition(found.begin_thought)
    if not begin:  # R1's chat template has written it already
        before, rest = "", text
    thought, end, solution = rest.partition(found.end_thought)
    if not end:
        raise RowError("thought cut off", f"{found.begin_thought} without {found.end_thought}")
    for tag in (found.begin_solution, found.end_solution):
        solution = solution.replace(tag, "")
    if not thought.strip() or not solution.strip():
        raise RowError("empty thought", "nothing inside its tags, or no answer after them")
    if found is OF_NAME[wanted] and begin and not before.strip():
        return text
    return render_thought(thought, solution, wanted)


def render_thought(thought: str, solution: str, wanted: ThoughtFormat) -> str:
    """Write both parts with their tags, as the paper (arXiv 2501.01904) or DeepSeek-R1 do."""
    tags = OF_NAME[wanted]
    thought, solution = thought.strip(), solution.strip()
    if wanted == "think":
        return f"{tags.begin_thought}\n{thought}\n{tags.end_thought}\n\n{solution}"
    return (
        f"{tags.begin_thought}\n\n{thought}\n\n{tags.end_thought}\n\n"
        f"{tags.begin_solution}\n\n{solution}\n\n{tags.end_solution}"
    )


def _format_of(text: str) -> Format | None:
    return next((f for f in FORMATS if f.begin_thought in text or f.end_thought in text), None)


def _split_untagged(text: str) -> tuple[str, str]:
    """Thought and solution of a text without tags: at its last "Final Answer", or before the last
    paragraph with a box."""
    headings = list(_FINAL.finditer(text))
    if headings and text[headings[-1].end() :].strip():
        return text[: headings[-1].start()], text[headings[-1].end() :]
    paragraphs = text.strip().split("\n\n")
    boxed = [i for i, paragraph in enumerate(paragraphs) if "\\boxed" in paragraph]
    if not boxed or boxed[-1] == 0:
        raise RowError(
            "no answer", "the text has neither tags nor a last paragraph with \\boxed{...}"
        )
    return "\n\n".join(paragraphs[: boxed[-1]]), "\n\n".join(paragraphs[boxed[-1] :])


def _text(value: Any) -> str:
    """A text, or the first of several."""
    first = next(iter(wrap_in_list(value)), "")
    return first.strip() if isinstance(first, str) else ""
