"""The messages that docs/how-to/errors.md explains are messages of the code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/errors.md"


def messages(text):
    """Every message in the first column of a table, without what differs."""
    for line in text.splitlines():
        if line.startswith("| `"):
            column = re.split(r"(?<!\\)\|", line)[1]
            yield from (m.strip(" …") for m in re.findall(r"`([^`]+)`", column))


def words_of(source):
    """The texts of a Python file, with a mark where a value stands, joined as they are written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def code():
    files = (ROOT / "virgo_ray").rglob("*.py")
    texts = [words for file in files for words in words_of(file.read_text())]
    return "\n".join([*texts, (ROOT / "scripts/setup.sh").read_text()])


def test_every_message_is_one_of_the_code():
    found, said = list(messages(PAGE.read_text())), code()
    assert len(found) > 20
    assert not [message for message in found if message not in said]


def test_a_message_that_is_not_there_is_found():
    (message,) = messages("| `no such words in the code …` | why | do |")
    assert message == "no such words in the code" and message not in code()
