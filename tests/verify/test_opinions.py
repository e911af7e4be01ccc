"""Second opinions: arithmetic recomputed, conclusions compared, a model asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from virgo_ray.verify.item import Item
from virgo_ray.verify.llm_judge import LlmJudge
from virgo_ray.verify.opinions import Consistency, Opinion, StepCheck, evaluate

DATA = Path(__file__).resolve().parents[1] / "data" / "verifier"


@pytest.mark.parametrize(
    ("text", "opinion", "reason"),
    [
        ("7 + 5 = 12. 12 - 4 = 8.", Opinion.AGREES, "2 steps"),
        ("7 + 5 = 13. 13 - 4 = 9.", Opinion.DOUBTS, "7 + 5 = 13, but it is 12"),
        ("7 + 5 = 13. Wait, 7 + 5 = 12. 12 - 4 = 8.", Opinion.AGREES, "3 steps"),
        ("A is 7, 7 - 9 = -2.", Opinion.AGREES, "1 steps"),
        ("(3 + 4) * 2 = 14 and 2^5 = 32", Opinion.AGREES, "2 steps"),
        (r"so 3 \times 1,200 = 3,600", Opinion.AGREES, "1 steps"),
        ("10 / 3 = 3.33", Opinion.AGREES, "1 steps"),
        ("10 / 3 = 3.4", Opinion.DOUBTS, "10 / 3 = 17/5, but it is 10/3"),
        ("x + 5 = 12, f(2) = 7, 2x = 4, 5 + 3 = 2k", Opinion.UNKNOWN, "no arithmetic was found"),
        ("5 + 3 = 4 + 4", Opinion.UNKNOWN, "no arithmetic was found"),
        ("1 / 0 = 7", Opinion.UNKNOWN, "no arithmetic was found"),
        ("9^9^9 = 3", Opinion.UNKNOWN, "no arithmetic was found"),
    ],
)
def test_the_arithmetic_in_a_thought_is_recomputed(
    text: str, opinion: Opinion, reason: str
) -> None:
    second = StepCheck().ask(Item("", text), "")
    assert (second.opinion, second.reason) == (opinion, reason)


def test_solutions_that_people_labelled_right_rarely_raise_a_doubt() -> None:
    rows = [json.loads(x) for x in (DATA / "gsm8k_model_solutions.jsonl").read_text().splitlines()]
    doubts = {True: 0, False: 0}
    for row in rows:
        second = StepCheck().ask(Item(row["gold"], row["prediction"]), "")
        doubts[row["expected"]] += second.opinion is Opinion.DOUBTS
    num_right = sum(row["expected"] for row in rows)
    assert doubts[True] <= 0.1 * num_right


@pytest.mark.parametrize("text", ["1 +", "(1 + 2", "1 2", "2 ** 999", "a + 1", ")", ""])
def test_what_is_no_plain_arithmetic_is_not_computed(text: str) -> None:
    with pytest.raises(ArithmeticError):
        evaluate(text)


@pytest.mark.parametrize(
    ("thought", "opinion"),
    [
        ("So the answer is 8.", Opinion.AGREES),
        ("So the answer is 8.0 cm.", Opinion.AGREES),
        (r"Hence \boxed{7}", Opinion.DOUBTS),
        ("I look at the picture.", Opinion.UNKNOWN),
    ],
)
def test_a_thought_is_compared_with_its_solution(thought: str, opinion: Opinion) -> None:
    text = rf"<think>{thought}</think> \boxed{{8}}"
    assert Consistency().ask(Item("8", text), "8").opinion is opinion


class Endpoint(BaseHTTPRequestHandler):
    """Fails the first request; then says yes where the answer to judge is "a dozen"."""

    requests: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.requests.append(prompt)
        assert self.path == "/v1/chat/completions" and body["temperature"] == 0
        if len(self.requests) == 1:
            self.send_error(503)
            return
        words = {"a dozen": "Yes.", "eleven": "no"}
        said = next((reply for key, reply in words.items() if f"\n{key}\n" in prompt), "Well...")
        reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    Endpoint.requests.clear()
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_a_model_is_asked_once_tried_again_and_kept_within_its_budget(
    url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "judge.jsonl"
    judge = LlmJudge(url, "any", budget=5, num_tries=2, pause_s=0.0, cache=cache)
    item = Item("12", "...", question="How many eggs? {gold}")
    assert judge.ask(item, "a dozen").opinion is Opinion.AGREES  # after one failure
    assert judge.ask(item, "a dozen").opinion is Opinion.AGREES
    assert judge.num_asked == 2
    assert judge.ask(item, "eleven").opinion is Opinion.DOUBTS
    unusable = judge.ask(item, "hm")
    assert unusable.opinion is Opinion.UNKNOWN and "expected yes or no" in unusable.reason
    spent = judge.ask(item, "hm")
    assert spent.opinion is Opinion.UNKNOWN and "budget of 5" in spent.reason
    again = LlmJudge("http://127.0.0.1:9/v1", "any", cache=cache)  # nobody listens there
    assert again.ask(item, "eleven").opinion is Opinion.DOUBTS and again.num_asked == 0


def test_an_endpoint_that_is_down_is_an_unknown_opinion() -> None:
    judge = LlmJudge("http://127.0.0.1:9/v1", "any", num_tries=2, pause_s=0.0)
    second = judge.ask(Item("12", ""), "12")
    assert second.opinion is Opinion.UNKNOWN and "no usable reply in 2 tries" in second.reason
