"""Second opinions: arithmetic recomputed, conclusions compared, a model asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.config import Format, JudgeConfig
from virgo_ray.endpoint.client import ChatEndpoint
from virgo_ray.errors import ConfigError, VerifierError
from virgo_ray.records import Judged, Opinion, Problem, Rollout, SecondOpinion, Status, Verdict
from virgo_ray.verify.asking import AskingVerifiers
from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions.arithmetic import evaluate
from virgo_ray.verify.opinions.consistency import Consistency, StepCheck
from virgo_ray.verify.opinions.llm_judge import LlmJudge
from virgo_ray.verify.opinions.steps import find_steps

NOBODY = "http://127.0.0.1:9/v1"  # nobody listens there
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
        ("10 / 3 = 3.4", Opinion.DOUBTS, "10 / 3 = 3.4, but it is 10/3"),
        (r"\sqrt{2} \cdot \sqrt{8} = 5", Opinion.DOUBTS, "\\sqrt{2} * \\sqrt{8} = 5, but it is 4"),
        ("x + 5 = 12, f(2) = 7, 2x = 4, 5 + 3 = 2k", Opinion.UNKNOWN, "no arithmetic was found"),
        ("5 + 3 = 4 + 4", Opinion.AGREES, "1 steps"),
        ("1 / 0 = 7", Opinion.UNKNOWN, "no arithmetic was found"),
        ("9^9^9 = 3", Opinion.UNKNOWN, "no arithmetic was found"),
    ],
)
def test_the_arithmetic_in_a_thought_is_recomputed(
    text: str, opinion: Opinion, reason: str
) -> None:
    second = StepCheck().ask(Item("", text), "")
    assert (second.opinion, second.reason) == (opinion, reason)


def test_solutions_that_people_labelled_right_raise_no_doubt() -> None:
    rows = [json.loads(x) for x in (DATA / "gsm8k_model_solutions.jsonl").read_text().splitlines()]
    doubts = {True: 0, False: 0}
    for row in rows:
        second = StepCheck().ask(Item(row["gold"], row["prediction"]), "")
        doubts[row["expected"]] += second.opinion is Opinion.DOUBTS
    assert sum(row["expected"] for row in rows) == 120
    assert doubts == {True: 0, False: 2}


@pytest.mark.parametrize(
    "text",
    [
        r"\(\sqrt{48} = 4\sqrt{3}\)",
        "sqrt(3 + 2 sqrt(2)) = 1 + sqrt(2)",
        r"\sqrt[3]{27} = 3",
        "8^(1/3) = 2",
        "sqrt(2) = 1.414",
        r"\frac{1}{2} + \frac{1}{3} = \frac{5}{6}",
        r"\text{area} = \frac{1}{2} \times 6 \times 4 = 12",
        "20% of 50 = 10",
        r"15\% \times 200 = 30",
        "1/2 of 10 = 5",
        "3/4 = 75%",
        r"3 / 4 * 100 = 75\%",
        "2/3 = 66.7%, 2/3 = 67%, 200/3 = 66.7%",
        r"$180^\circ - 60^{\circ} = 120^\circ$",
        "2/3 = 0.66 and 2/3 = 0.67",
        "4.2*7 = 29.400000000000002",
        "2(3 + 4) = 14",
        "$20 x 10/100 = $<<20*10/100=2.0>>2.0",
        "1) 3 + 4 = 7 (as we saw)",
        "- 3 + 4 = 7",
        "so -3 + 5 = 2",
        "3 + 4 = 7 + 2 = 9",
        "<think>7 + 5 = 12",
    ],
)
def test_right_steps_in_many_spellings_are_read(text: str) -> None:
    steps = list(find_steps(text))
    assert steps and all(step.is_right for step in steps)


@pytest.mark.parametrize(
    "text",
    [
        r"\sqrt{48} = 3\sqrt{4}",
        "sqrt(2) = 1.42",
        "20% of 50 = 11",
        "2/3 = 0.68",
        "2/3 = 65%",
        "200/3 = 67.7%",
        "1/2 + 1/3 = 2/5",
        "7 * 8 = 57 apples",
        "2^{10} = 1000",
        r"\sqrt{9 + 16} = 7",
        "a total of 40*1.1 = 42 minutes",
    ],
)
def test_wrong_steps_are_seen(text: str) -> None:
    assert [step.is_right for step in find_steps(text)] == [False]


@pytest.mark.parametrize(
    "text",
    [
        "x + 5 + 7 = 20", "x - 3 + 5 = 9", "f(2) + 3 = 9", "f (3 + 4) = 9", "a_{2} + 3 = 9",
        "3 + 4 = 8x", "3 + 4 = 8 \\pi", "3 + 4 = 8(x + 1)", "3 + 4 = 8 - x", "3 + 4 != 8",
        "3 + 4 <= 8", "17 / 5 = 3 remainder 2", "10:30 + 2 = 33", "2 3 + 4 = 8", "3.5.2 + 1 = 2",
        r"\log(3 + 4) = 8", "|3 - 5| = 2", "3! + 1 = 9", "area1 + 3 = 9", "3 of 4 = 0.75",
        r"\pi * 4 = 12.5", "17 % 5 = 2", "half of 40 + 3 = 23", "10 + 7 = 5 (mod 12)",
        "sqrt(-4) = 2", "0^(-1) = 3",
        "1/(sqrt(2)*sqrt(2)-2) = 3",
    ],
)  # fmt: skip
def test_what_may_mean_something_else_is_left_alone(text: str) -> None:
    assert list(find_steps(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "7 + 5 = 12. " * 50_000, "(" * 300_000 + "1+1=2", "-" * 300_000 + "1=2", "=" * 300_000,
        "\\sqrt{" * 100_000 + "=3", "((((99^20)^20)^20)^20)=1", "((((0.1^15)^20)^20)^20)=1",
        "sqrt(999999999999989)*sqrt(999999999999947) = 3 " * 100, "9" * 500_000 + "+1=2",
        "1" + " " * 500_000 + "+1=2", " * ".join(f"(1+sqrt({i}))^20" for i in range(2, 9)) + " = 3",
        "1/(sqrt(3+2*sqrt(2))-1-sqrt(2)) = 3", "(" * 15 + "1+sqrt(2)" + ")^20" * 15 + " = 3.5",
        "(" * 15 + "sqrt(2)-1" + ")^20" * 15 + " = 3.5", "= %" * 1000 + "1 + 1 = %",
    ],
    ids=range(15),
)  # fmt: skip
@pytest.mark.timeout(30)
def test_hostile_arithmetic_ends_soon(text: str) -> None:
    assert len(list(find_steps(text))) <= 2000


numbers = st.fractions(-50, 50, max_denominator=9)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """Random arithmetic with its value, computed by Python's own fractions."""
    if depth == 0 or draw(st.booleans()):
        value = draw(numbers)
        sign = "-" if value < 0 else ""
        whole, slash, below = str(abs(value)).partition("/")
        text = rf"\frac{{{whole}}}{{{below}}}" if slash else whole
        return (f"({sign}{text})" if sign else text), value
    (left, a), (right, b) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    operator = draw(st.sampled_from("+-*/" if b else "+-*"))
    values = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}
    return f"({left} {operator} {right})", values[operator]


@given(expressions(), st.integers(1, 5))
def test_random_arithmetic_is_right_and_a_near_miss_wrong(
    case: tuple[str, Fraction], off: int
) -> None:
    text, value = case
    steps = [*find_steps(f"So {text} * 1 = {value}."), *find_steps(f"{text} * 1 = {value + off}.")]
    assert [step.is_right for step in steps] in ([True, False], [])
    assert steps or len(text) > 80  # beyond MAX_TOKENS


@pytest.mark.parametrize(
    "text", ["1 +", "( 1 + 2", "1 2", "2 ** 999", "a + 1", ")", "", "\\frac 1"]
)
def test_what_is_no_plain_arithmetic_is_not_computed(text: str) -> None:
    with pytest.raises(ArithmeticError):
        evaluate(text.split())


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


def test_the_thought_is_found_by_the_tags_of_the_config() -> None:
    text = r"<plan>so the answer is 7.</plan> \boxed{8}"
    assert Consistency().ask(Item("8", text), "8").opinion is Opinion.UNKNOWN
    own = Consistency([Format("<plan>", "</plan>")])
    assert own.ask(Item("8", text), "8").opinion is Opinion.DOUBTS


class Endpoint(BaseHTTPRequestHandler):
    """Fails the first request; then says yes where the answer to judge is "a dozen"."""

    requests: list[str] = []  # noqa: RUF012
    keys: list[str | None] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.requests.append(prompt)
        self.keys.append(self.headers["Authorization"])
        assert self.path == "/v1/chat/completions" and body["temperature"] == 0
        if len(self.requests) == 1:
            self.send_error(503)
            return
        words = {"a dozen": "Yes.", "eleven": "<think>Yes? Hm.</think>\n\nno", "silent": None}
        said = next((words[key] for key in words if f"\n{key}\n" in prompt), "Well...")
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
    Endpoint.keys.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_a_model_is_asked_once_tried_again_and_kept_within_its_budget(
    url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "judge.jsonl"
    judge = LlmJudge(ChatEndpoint(url, budget=7, num_tries=2, pause_s=0.0), "any", cache=cache)
    item = Item("12", "...", question="How many eggs? {gold}")
    assert judge.ask(item, "a dozen").opinion is Opinion.AGREES  # after one failure
    assert judge.ask(item, "a dozen").opinion is Opinion.AGREES
    assert judge.endpoint.num_asked == 2
    assert judge.ask(item, "eleven").opinion is Opinion.DOUBTS
    unusable = judge.ask(item, "hm")
    assert unusable.opinion is Opinion.UNKNOWN and "expected yes or no" in unusable.reason
    assert judge.ask(item, "silent").opinion is Opinion.UNKNOWN  # null in the place of a text
    spent = judge.ask(item, "hm")
    assert spent.opinion is Opinion.UNKNOWN and "budget of 7" in spent.reason
    with cache.open("a") as file:
        file.write('\n{"key": "torn')
    again = LlmJudge(ChatEndpoint(NOBODY), "any", cache=cache)
    assert again.ask(item, "eleven").opinion is Opinion.DOUBTS and again.endpoint.num_asked == 0


def test_an_endpoint_that_is_down_is_an_unknown_opinion() -> None:
    judge = LlmJudge(ChatEndpoint(NOBODY, num_tries=2, pause_s=0.0), "any")
    second = judge.ask(Item("12", ""), "12")
    assert second.opinion is Opinion.UNKNOWN and "no usable reply in 2 tries" in second.reason


def test_a_judge_is_made_of_its_config(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "s3cret")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Is\n{answer}\nlike {gold} for {question}?")
    cfg = JudgeConfig(url=url, model="any", key_env="MY_JUDGE_KEY", prompt=str(prompt))
    judge = LlmJudge.of(cfg, tmp_path / "judge.jsonl")
    judge.endpoint.pause_s = 0.0
    assert judge.ask(Item("{answer}", "", question="{gold}?"), "eleven").opinion is Opinion.DOUBTS
    assert Endpoint.requests[-1] == "Is\neleven\nlike {answer} for {gold}??"
    assert set(Endpoint.keys) == {"Bearer s3cret"}
    assert "s3cret" not in repr(judge) + cfg.model_dump_json()
    assert "s3cret" not in (tmp_path / "judge.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000/v1"}, "verify.judge.url='localhost:8000/v1' is no http"),
        ({"url": "http://"}, "is no http"),
        ({"url": "http://localhost:port/v1"}, "is no http"),
        ({"key_env": "NO_SUCH_VARIABLE"}, "'NO_SUCH_VARIABLE': that environment variable is not"),
        ({"prompt": "nowhere.txt"}, "verify.judge.prompt='nowhere.txt' cannot be read"),
        ({"prompt": __file__ + "/../disputed.md"}, "cannot be read"),
        ({"prompt": str(DATA / "README.md")}, "cannot be read|lacks"),
    ],
)
def test_a_judge_that_cannot_be_used_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlmJudge.of(JudgeConfig(**{"url": "http://localhost:8000/v1", "model": "any", **changes}))


class FakePool:
    """Verdicts as they are asked for: CORRECT where the text says so."""

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        for rollout in rollouts:
            if rollout is None:
                yield None
                continue
            status = Status.WRONG if rollout.text == "wrong" else Status.CORRECT
            opinions = {"steps": SecondOpinion(Opinion.AGREES)}
            yield Judged(rollout, Verdict(status, answer=rollout.text, opinions=opinions))


def rollouts(*texts: str) -> list[Rollout]:
    problem = Problem("p", "How many eggs?", "12")
    return [Rollout(problem, i, text, (), "stop", 0) for i, text in enumerate(texts)]


def test_correct_rollouts_are_asked_about_in_parallel_and_the_same_question_once(url: str) -> None:
    judge = LlmJudge(ChatEndpoint(url, num_tries=2, pause_s=0.0), "any")
    judge.ask(Item("0", ""), "warm up")
    num_before = len(Endpoint.requests)
    texts = ["a dozen"] * 20 + ["wrong"] * 20 + ["eleven"] * 20
    judged = list(AskingVerifiers(FakePool(), judge, 4).judge(rollouts(*texts)))
    assert sorted(j.rollout.sample_index for j in judged) == list(range(60))
    said = {j.rollout.text: {k: s.opinion for k, s in j.verdict.opinions.items()} for j in judged}
    assert said["a dozen"] == {"steps": Opinion.AGREES, "judge": Opinion.AGREES}
    assert said["eleven"] == {"steps": Opinion.AGREES, "judge": Opinion.DOUBTS}
    assert said["wrong"] == {"steps": Opinion.AGREES}
    assert {j.verdict.is_doubted for j in judged if j.rollout.text == "eleven"} == {True}
    assert len(Endpoint.requests) == num_before + 2


def test_no_verdict_is_held_back_where_more_rollouts_follow_verdicts(url: str) -> None:
    judge = LlmJudge(ChatEndpoint(url, num_tries=2, pause_s=0.0), "any")
    came: list[Judged] = []

    def following() -> Iterator[Rollout | None]:
        yield from rollouts("a dozen", "wrong", "eleven")
        for _ in range(9999):
            if len(came) == 3:
                yield rollouts("twelve", "12")[1]
                return
            yield None
        raise AssertionError("verdicts are held back")

    for item in AskingVerifiers(FakePool(), judge, 4).judge(following()):
        came += [item] if item else []
    assert [j.rollout.text for j in came[3:]] == ["12"]


def test_a_judge_that_is_down_stops_nothing() -> None:
    judge = LlmJudge(ChatEndpoint(NOBODY, num_tries=1, budget=30), "any")
    judged = list(AskingVerifiers(FakePool(), judge, 4).judge(rollouts(*map(str, range(50)))))
    assert len(judged) == 50 and judge.endpoint.num_asked == 30
    assert {j.verdict.opinions["judge"].opinion for j in judged} == {Opinion.UNKNOWN}
    assert not any(j.verdict.is_doubted for j in judged)


def test_a_consumer_that_leaves_ends_the_asking(url: str) -> None:
    stream = AskingVerifiers(FakePool(), LlmJudge(ChatEndpoint(url, pause_s=0.0), "any"), 2).judge(
        rollouts(*map(str, range(500)))
    )
    next(stream)
    stream.close()
    assert len(Endpoint.requests) < 100


def test_an_error_of_the_verifiers_comes_through(url: str) -> None:
    class Broken(FakePool):
        def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
            yield from super().judge(rollouts)
            raise VerifierError("too many")

    with pytest.raises(VerifierError, match="too many"):
        list(
            AskingVerifiers(Broken(), LlmJudge(ChatEndpoint(url, pause_s=0.0), "any"), 2).judge(
                rollouts("1")
            )
        )


def test_a_right_answer_with_a_wrong_step_is_found_in_what_a_model_wrote() -> None:
    rows = [json.loads(x) for x in (DATA / "mathv_model_outputs.jsonl").read_text().splitlines()]
    right = [Item(row["gold"], row["prediction"]) for row in rows if row["expected"]]
    doubts = [s.reason for s in (StepCheck().ask(i, "") for i in right) if s.opinion == "doubts"]
    assert doubts == [r"\frac{7}{8} = \frac{9}{8}, but it is 7/8"]
