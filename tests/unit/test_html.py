"""`report.html`: what a model wrote never becomes part of the page."""

import json

from PIL import Image
from round_parts import evaluated, evaluation

from virgo_ray.monitor.html import chart, phase_times, write_html
from virgo_ray.records import AnswerType, Judged, Problem, Rollout, Status, Verdict

BASE = evaluated("base", evaluation(pass_at_1=0.25))


def judged(text, image):
    problem = Problem("p<1>", "How <b>many</b>?", "7", images=(str(image),))
    rollout = Rollout(problem, 0, text, (1, 2), "stop", 1, {}, 0.5, 0)
    return Judged(rollout, Verdict(Status.WRONG, "<i>8</i>", "boxed", AnswerType.NUMBER, "1", 1.0))


def test_the_page_shows_rounds_losses_and_traces_and_escapes_what_the_model_wrote(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    records = [{"kind": "train", "train/loss": x} for x in (2.0, 1.0)] + [{"kind": "push"}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    text = "<script>alert(1)</script> </pre> {{ 7 * 7 }}"
    rounds = [BASE, evaluated(0, evaluation(pass_at_1=0.75))]
    page = write_html(
        tmp_path, "a & b", rounds, [judged(text, tmp_path / "a.png")], "/w/v1"
    ).read_text()
    assert "<script" not in page and "<i>8" not in page and "<b>many" not in page
    assert "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    assert "a &amp; b" in page and "75.0 %" in page and "data:image/png;base64," in page
    assert "Where the time went" not in page
    assert "training loss" in page and "held-out accuracy" in page


def test_a_page_without_pictures_or_steps_is_still_a_page(tmp_path):
    page = write_html(tmp_path, "x", [BASE], [judged("7", tmp_path / "missing.png")]).read_text()
    assert "<img" not in page and "training loss" not in page


def test_the_page_says_where_the_time_went_and_what_was_not_measured(tmp_path):
    trained = [("train", 30.0, 0.9), ("train", 10.0, 0.5)]
    ended = [("sample", 50.0, None), *trained, ("push", 10.0, None)]
    records = [
        {"kind": "phase", "phase": name, "phase_seconds": seconds}
        | ({} if busy is None else {"device_busy_share": busy})
        for name, seconds, busy in ended
    ]
    times = phase_times(records)
    assert [(t.name, t.seconds, t.share, t.busy) for t in times] == [
        ("sample", 50.0, 0.5, None), ("train", 40.0, 0.4, 0.8), ("push", 10.0, 0.1, None),
    ]  # fmt: skip
    torn = '\n{"kind": "phase", "pha'
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + torn)
    page = write_html(tmp_path, "x", [BASE]).read_text()
    assert "<td>train<td>40<td>40 %<td>80 %" in page
    assert "<td>sample<td>50<td>50 %<td>not measured" in page


def test_a_long_curve_is_thinned_out_and_ends_with_its_last_value():
    drawn = chart("loss", {"loss": [1 / (i + 1) for i in range(10_000)]}, 1.0, "{:.3f}")
    assert len(drawn.curves[0].points.split()) <= 400 + 1 and drawn.curves[0].last == "0.000"
    assert (drawn.first_x, drawn.last_x) == ("1", "10000")
