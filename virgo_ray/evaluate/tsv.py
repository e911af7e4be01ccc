"""Predictions as VLMEvalKit's TSV, for its own scorers.

Columns: `index, image, question, hint, A, B ..., answer, category, split, prediction, thinking,
id`. `image` is base64 (several: a list as text), `answer` of a choice is its letter. `prediction`
is what follows the thought and `thinking` the thought, as VLMEvalKit splits them; a response whose
thought never ended is all prediction. A benchmark read from such a table keeps its index.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from virgo_ray.config import FORMATS, Format
from virgo_ray.evaluate.benchmarks import Benchmark
from virgo_ray.files import draft_of, remove_drafts, writing
from virgo_ray.records import Problem
from virgo_ray.verify.answers.choice import chosen, without_labels
from virgo_ray.verify.answers.extract import solution_part, thought_part


def write_predictions(
    path: Path,
    benchmark: Benchmark,
    texts: Mapping[str, str],
    formats: Sequence[Format] = FORMATS,
) -> None:
    """Write all of the file or nothing; `texts` by problem id.

    Only one process may write it at a time.
    """
    num_letters = max((len(p.options) for p in benchmark.problems), default=0)
    letters = list(ascii_uppercase[:num_letters])
    columns = [
        "index", "image", "question", "hint", *letters, "answer", "category", "split",
        "prediction", "thinking", "id",
    ]  # fmt: skip
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path)
    with (
        writing(path),
        draft_of(path) as draft,
        open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        for number, problem in enumerate(benchmark.problems, 1):
            writer.writerow(_cells(problem, number, benchmark, texts[problem.id], formats))


def _cells(
    problem: Problem, number: int, benchmark: Benchmark, text: str, formats: Sequence[Format]
) -> dict[str, str]:
    options = without_labels(problem.options)
    answer = chosen(problem.answer, problem.options) if options else None
    part = solution_part(text, formats=formats)
    return {
        "index": _index(problem, number, benchmark),
        "image": _image(problem.images),
        "question": problem.question,
        "hint": problem.context,
        **dict(zip(ascii_uppercase, options, strict=False)),
        "answer": answer or problem.answer,
        "category": benchmark.category(problem),
        "split": benchmark.source.split,
        "prediction": text if part.is_truncated else part.text.strip(),
        "thinking": thought_part(text, formats).strip(),
        "id": problem.id.removeprefix(f"{benchmark.name}/"),
    }


def _index(problem: Problem, number: int, benchmark: Benchmark) -> str:
    """The index in the table that the problem was read from, else a number from 1."""
    source = benchmark.source
    if source.reader != "vlmevalkit":
        return str(number)
    table = Path(source.path or "").stem
    return problem.id.removeprefix(f"{benchmark.name}/").removeprefix(f"{table}-")


def _image(paths: Sequence[str]) -> str:
    cells = [base64.b64encode(Path(path).read_bytes()).decode() for path in paths]
    return cells[0] if len(cells) == 1 else str(cells) if cells else ""
