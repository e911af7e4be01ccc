"""MkDocs' hook for pages that are made of something else: the start page of README.md, the page on
clusters, the keys of the schema, the help of every command, and notebooks.

They are made when the site is built and lie in no folder, so they cannot fall behind. Links that
lead out of docs/ to a page that the site has are led there; other files become their bare names.
Knows nothing of the theme.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from virgo_ray import cli
from virgo_ray.config.keys import Key, by_section
from virgo_ray.traces.__main__ import COMMANDS as TRACES

ROOT = Path(__file__).parents[2]
# Pages of the repository that lie elsewhere than in docs/, and their place in the site.
PLACES = {"README.md": "index.md", "cluster/README.md": "how-to/cluster.md"}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")
COLUMNS = "100"  # of the help texts


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {place: (ROOT / origin).read_text("utf-8") for origin, place in PLACES.items()}
    made["reference/keys.md"] = keys_page()
    made["reference/commands.md"] = commands_page()
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links from one place of the repository to another through the site."""
    place = page.file.src_uri
    origin = next((o for o, p in PLACES.items() if p == place), f"docs/{place}")
    return lead_links(markdown, origin, place, {file.src_uri for file in files})


def lead_links(markdown: str, origin: str, place: str, known: set[str]) -> str:
    """The text of the repository's file `origin`, to stand at `place` in the site.

    >>> lead_links("[a](docs/data.md#x) [b](docs)", "README.md", "index.md", {"data.md"})
    '[a](data.md#x) b'
    """

    def led(link: re.Match[str]) -> str:
        label, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        file = PLACES.get(file, file.removeprefix("docs/").replace(".ipynb", ".md"))
        if file not in known:
            if not (ROOT / file).exists() and not (ROOT / "docs" / file).exists():
                return link[0]  # MkDocs says that it is broken
            return label.lstrip("!")[1:-1]
        return f"{label}({posixpath.relpath(file, posixpath.dirname(place))}{anchor})"

    return LINK.sub(led, markdown)


# --- keys ---


def keys_page() -> str:
    """Every key of a config by section, as the schema has them."""
    head = (
        "# Keys of a config\n\nMade from the schema (`virgo_ray/config/`), as `virgo-ray run --help"
        " SECTION` prints it. How keys depend on each other: [config.md](../config.md). Which of "
        "them may change in a run that has begun: "
        "[reliability.md](../reliability.md#which-keys-may-change).\n"
    )
    return head + "".join(
        f"\n## {section}\n\n| key | default | meaning |\n|---|---|---|\n" + "".join(map(row, keys))
        for section, keys in by_section().items()
    )


def row(key: Key) -> str:
    default, meaning = (text.replace("|", "\\|") for text in (key.default, key.meaning))
    return f"| `{key.name}` | `{default}` | {as_text(meaning)} |\n"


def as_text(meaning: str) -> str:
    """A meaning in which no sign is taken for markup."""
    return re.sub(r"([<>*_\[\]{}])", r"\\\1", meaning)


# --- commands ---


def commands_page() -> str:
    """What every command prints for --help."""
    head = "# Commands\n\nWhat each command prints for `--help`; made from its parser.\n"
    return head + "".join(
        f"\n## virgo-ray {' '.join(words)}\n\n{textwrap.indent(help_of(words), ' ' * 4)}"
        for words in command_words()
    )


def command_words() -> Iterator[list[str]]:
    for command in cli.COMMANDS:
        yield [command]
        if command == "traces":
            yield from ([command, name] for name in TRACES)


def help_of(words: list[str]) -> str:
    """Its help, less the keys of a config, which have a page of their own."""
    before, said = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return said.getvalue().partition("\nconfig keys (default)")[0].rstrip() + "\n"


# --- notebooks ---


def notebook_page(path: Path) -> str:
    """The cells of a notebook; what its code prints is not kept."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + "\n"
