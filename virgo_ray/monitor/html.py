"""`report.html`: a run on one page that needs no network and no server.

What a model wrote is untrusted: everything is escaped by Jinja's autoescape, pictures are embedded
as decoded and encoded anew, and the page holds no script.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from virgo_ray.errors import DataError
from virgo_ray.files import write_atomically, writing
from virgo_ray.model.images import load_image
from virgo_ray.monitor.summary import COMMITTED, round_entries
from virgo_ray.records import Judged, Round

NAME = "report.html"
NUM_POINTS = 400  # of a curve; more are thinned out
IMAGE_SIDE = 256  # pixels, on the page
WIDTH, HEIGHT, MARGIN = 420, 180, 34

# Title, legend, and the keys of a round's entry.
CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "held-out accuracy",
        (
            ("pass@1", "pass_at_1"),
            ("pass@k", "pass_at_k"),
            ("blank image", "blank_image_pass_at_1"),
        ),
    ),
    ("form", (("long format", "long_format_share"), ("truncated", "truncated_share"))),
    (
        "collapse",
        (
            ("no answer", "no_answer_share"),
            ("looping", "repetitive_share"),
            ("distinct samples", "distinct_share"),
        ),
    ),
    ("probes", (("perception", "perception_pass_at_1"), ("text", "text_pass_at_1"))),
)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: `points` are "x,y x,y" in pixels."""

    label: str
    points: str
    last: str


@dataclass(frozen=True)
class Chart:
    title: str
    curves: tuple[Curve, ...]
    top: str
    bottom: str
    first_x: str
    last_x: str


def write_html(
    run_dir: Path,
    name: str,
    rounds: Sequence[Round],
    examples: Iterable[Judged] = (),
    final_checkpoint: str = "",
) -> Path:
    """Write the page of a run that has at least its base evaluated; returns its path.

    `rounds` are complete and in order; `examples` are shown with their pictures.
    """
    entries = round_entries(rounds)
    records = read_records(run_dir / "metrics.jsonl")
    losses = read_losses(records)
    drawn = [round_chart(title, lines, entries) for title, lines in CHARTS]
    charts = [c for c in drawn if c.curves]
    if losses:
        charts.append(chart("training loss", {"loss": losses}, top=max(losses), form="{:.2f}"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("virgo_ray.monitor"), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        name=name,
        run_dir=str(run_dir),
        entries=entries,
        charts=charts,
        phases=phase_times(records),
        examples=[(judged, picture(judged)) for judged in examples],
        final_checkpoint=final_checkpoint,
        size=(WIDTH, HEIGHT, MARGIN),
    )
    with writing(run_dir / NAME, COMMITTED):
        write_atomically(run_dir / NAME, page)
    return run_dir / NAME


@dataclass(frozen=True)
class PhaseTime:
    """A phase over all rounds; `busy` is None where devices were not measured."""

    name: str
    seconds: float
    share: float
    busy: float | None


def read_records(path: Path) -> list[dict[str, Any]]:
    """The metrics stream; a line that is being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def read_losses(records: Iterable[Mapping[str, Any]]) -> list[float]:
    """The training loss of every step, in the order of the metrics stream."""
    return [r["train/loss"] for r in records if "train/loss" in r]


def phase_times(records: Iterable[Mapping[str, Any]]) -> list[PhaseTime]:
    """Where the time of a run went, the longest phase first."""
    ended = [r for r in records if r.get("kind") == "phase"]
    total = sum(r["phase_seconds"] for r in ended)
    found = []
    for name in {r["phase"] for r in ended}:
        own = [r for r in ended if r["phase"] == name]
        seconds = sum(r["phase_seconds"] for r in own)
        measured = [r for r in own if "device_busy_share" in r]
        weight = sum(r["phase_seconds"] for r in measured)
        busy_seconds = sum(r["phase_seconds"] * r["device_busy_share"] for r in measured)
        busy = busy_seconds / weight if weight else None
        found.append(PhaseTime(name, seconds, seconds / total if total else 0.0, busy))
    return sorted(found, key=lambda phase: -phase.seconds)


def round_chart(
    title: str, lines: Sequence[tuple[str, str]], entries: Sequence[Mapping[str, Any]]
) -> Chart:
    series = {label: [e[key] for e in entries if e.get(key) is not None] for label, key in lines}
    labels = [str(e["round"]) for e in entries]
    return chart(title, {k: v for k, v in series.items() if v}, 1.0, "{:.1%}", labels)


def chart(
    title: str,
    series: Mapping[str, Sequence[float]],
    top: float,
    form: str,
    x_labels: Sequence[str] = (),
) -> Chart:
    """Lines from 0 to `top` over evenly spaced points."""
    curves = tuple(
        Curve(label, line(values, top or 1.0), form.format(values[-1]))
        for label, values in series.items()
    )
    last = max((len(v) for v in series.values()), default=0)
    ends = (x_labels[0], x_labels[-1]) if x_labels else ("1", str(last))
    return Chart(title, curves, form.format(top), form.format(0), *ends)


def line(values: Sequence[float], top: float) -> str:
    """Pixel coordinates of a polyline.

    >>> line([0.0, 1.0], 1.0)
    '34.0,146.0 386.0,34.0'
    """
    step = max(1, len(values) // NUM_POINTS)
    kept = list(values)[::step]
    spread = (WIDTH - 2 * MARGIN) / max(1, len(kept) - 1)
    height = HEIGHT - 2 * MARGIN
    return " ".join(
        f"{MARGIN + i * spread:.1f},{HEIGHT - MARGIN - min(1.0, v / top) * height:.1f}"
        for i, v in enumerate(kept)
    )


def picture(judged: Judged) -> str:
    """The first picture of a problem as a data URI, small; empty where it cannot be read."""
    images = judged.rollout.problem.images
    if not images:
        return ""
    try:
        image = load_image(images[0])
    except DataError:
        return ""
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
