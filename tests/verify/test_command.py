"""`python -m virgo_ray.verify FILE.jsonl`, and verifiers of one's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from virgo_ray.config import VerifyConfig
from virgo_ray.verify.__main__ import judge_items, main
from virgo_ray.verify.item import Item

ROWS = [
    {"prediction": "The answer is 12.", "gold": "12"},
    {"prediction": "<think>hm", "gold": "12"},
    {"prediction": r"\boxed{B}", "gold": "5", "type": "multiple choice", "choices": ["3", "5"]},
    {"prediction": "yes", "gold": "no", "type": "yes_no"},
    {"prediction": "", "gold": "12"},
    {"prediction": 12, "gold": 12},
    {"prediction": "a\u2028\\boxed{12}", "gold": "12"},
]


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def test_a_file_is_judged_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "verdicts.jsonl"
    assert main([write(tmp_path / "in.jsonl", ROWS), "--out", str(out)]) == 0
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    expected = ["correct", "truncated", "correct", "wrong", "no_answer", "correct", "correct"]
    assert [v["status"] for v in verdicts] == expected
    assert {"status", "answer", "rule", "type", "ms"} <= verdicts[0].keys()
    assert [v["type"] for v in verdicts][:4] == ["number", "number", "choice", "yes_no"]
    assert verdicts[0]["answer"] == "12" and verdicts[0]["rule"] == "stated"
    printed = capsys.readouterr().out
    assert "correct" in printed and "57.1%" in printed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], {"prediction": "1"}], "row 2 .*expected an object with prediction and gold"),
        ([{**ROWS[0], "type": "poem"}], "row 1 has the type 'poem'; expected one of auto, number"),
    ],
)
def test_a_bad_row_is_named(
    rows: list[dict[str, object]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main([write(tmp_path / "in.jsonl", rows)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_keys_of_the_config_are_options_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prediction": r"<plan>7 + 5 = 13</plan> \boxed{12}", "gold": "12"},
        {"prediction": "<plan>7 + 5 = 12", "gold": "12"},
    ]
    out = tmp_path / "verdicts.jsonl"
    file = write(tmp_path / "in.jsonl", rows)
    arguments = ["second_opinions=[steps]", "--out", str(out), "formats=[[<plan>,</plan>]]"]
    assert main([file, *arguments]) == 0
    first, second = [json.loads(line) for line in out.read_text().splitlines()]
    said = {"steps": {"opinion": "doubts", "reason": "7 + 5 = 13, but it is 12"}}
    assert first["status"] == "correct" and first["opinions"] == said
    assert second["status"] == "truncated" and "opinions" not in second
    assert "steps doubts" in capsys.readouterr().out


def test_the_command_asks_a_judge(endpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    rows = [{"prediction": "42", "gold": "42"}, {"prediction": "41", "gold": "42"}]
    file = write(tmp_path / "in.jsonl", rows)
    judge = ["second_opinions=[judge]", f"judge.url={endpoint}", "judge.model=any"]
    assert main([file, "--out", str(out), *judge]) == 0
    first, second = [json.loads(line) for line in out.read_text().splitlines()]
    assert first["opinions"] == {"judge": {"opinion": "agrees", "reason": "Yes"}}
    assert "opinions" not in second


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("custom=nonsense", "verify.custom='nonsense' is no `package.module:function`"),
        ("custom=no.such.module:grade", "cannot be imported"),
        ("custom=json:no_such_function", "cannot be imported"),
        ("custom=json:__name__", "cannot be called (it is a str)"),
        ("custom=json:dumps", "cannot be called (missing a required argument: 'obj')"),
        ("custom=tests.verify.broken_module:grade", "cannot be imported (RuntimeError: broken"),
        ("custom=http://local host/grade", "is no http(s) address"),
        ("custom=ftp://localhost/grade", "is no http(s) address"),
        ("custom=http://localhost:99999/grade", "is no http(s) address"),
        ("formatz=1", "unknown key; did you mean 'formats'?"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_judged(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write(tmp_path / "in.jsonl", ROWS), override]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.jsonl"]) == 2
    assert "nowhere.jsonl does not exist" in capsys.readouterr().err


class Grader(BaseHTTPRequestHandler):
    """Answers 42 is right, "odd" is no JSON boolean."""

    def do_POST(self) -> None:
        fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/chat/completions"):  # asked as a judge
            reply: dict[str, object] = {"choices": [{"message": {"content": "Yes"}}]}
        else:
            assert set(fields) == {"question", "gold", "answer", "response"}
            reply = {
                "correct": "perhaps" if fields["answer"] == "odd" else fields["answer"] == "42"
            }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Grader)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/grade"
    server.shutdown()


def test_an_http_endpoint_can_be_the_verifier(endpoint: str) -> None:
    items = [Item(gold="anything", text=rf"\boxed{{{a}}}") for a in ("42", "41", "odd")]
    verdicts = judge_items([*items, Item("42", "")], VerifyConfig(custom=endpoint))
    assert [v.status.value for v in verdicts] == ["correct", "wrong", "error", "no_answer"]
    assert "perhaps" in verdicts[2].reason


@pytest.mark.parametrize("custom", ["nonsense", "no.such.module:grade", "json:no_such_function"])
def test_a_verifier_that_cannot_be_found_is_an_error_of_every_item(custom: str) -> None:
    (verdict,) = judge_items([Item("1", "1")], VerifyConfig(custom=custom))
    assert verdict.status.value == "error" and custom in verdict.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b'{"prediction": "\xe9", "gold": "1"}', "expected JSON lines in UTF-8"),
        (b'{"prediction": "1", "gold": null}', "row 1: gold=None; expected a text"),
        (b'{"prediction": ["1"], "gold": "1"}', "row 1: prediction=['1']; expected a text"),
        (b'{"prediction": "1", "gold": "1", "choices": "ab"}', "choices='ab'; expected a list"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert main([str(tmp_path / "a.jsonl")]) == 2
    assert message in capsys.readouterr().err


def test_a_place_for_verdicts_that_cannot_be_written_is_refused_before_judging(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"prediction": "1", "gold": "1"}')
    assert main([str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "none" / "out.jsonl")]) == 2
    assert "cannot be written" in capsys.readouterr().err
