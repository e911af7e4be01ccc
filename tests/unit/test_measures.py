"""Figures of hand-written answers, the judge's decisions, and VLMEvalKit's table and back."""

import csv
from math import comb

import pytest
from PIL import Image

from virgo_ray.config import SourceConfig
from virgo_ray.data.problems import read_problems
from virgo_ray.evaluate.answers import GREEDY, JUDGE, NOBODY, RULES, SAMPLED, Answer, decide_answer
from virgo_ray.evaluate.benchmarks import Benchmark
from virgo_ray.evaluate.fallback import VerifiersWithFallback
from virgo_ray.evaluate.measures import by_group, choose_ks, compare, measure_answers, outcomes
from virgo_ray.evaluate.tables import table
from virgo_ray.evaluate.tsv import write_predictions
from virgo_ray.model.images import load_image
from virgo_ray.records import (
    AnswerType,
    Judged,
    Opinion,
    Problem,
    Rollout,
    SecondOpinion,
    Status,
    Verdict,
)


def answer(id, how, sample, right, said="x", tokens=10, status=None):
    status = status or (Status.CORRECT if right else Status.WRONG)
    decided = NOBODY if status.is_failure_to_judge else RULES
    return Answer(id, how, sample, "h", status, said, tokens, 0.25, right, decided)


def test_pass_at_k_and_maj_at_n_are_those_computed_by_hand():
    right = {"a": [1, 0, 0, 0], "b": [1, 1, 1, 0], "c": [0, 0, 0, 0]}
    said = {"a": ["4", "5", "5", "6"], "b": ["7", "7", "7", "1"], "c": ["1", "2", "3", "4"]}
    answers = [
        answer(id, SAMPLED, i, bool(flag), said[id][i])
        for id, flags in right.items()
        for i, flag in enumerate(flags)
    ]
    found = measure_answers(answers)
    by_hand = {k: sum(1 - comb(4 - c, k) / comb(4, k) for c in (1, 3, 0)) / 3 for k in (1, 2, 4)}
    assert found.samples.pass_at == {str(k): pytest.approx(v) for k, v in by_hand.items()}
    assert by_hand == {1: pytest.approx(1 / 3), 2: pytest.approx(0.5), 4: pytest.approx(2 / 3)}
    assert found.samples.maj_at_n == pytest.approx(1 / 3)  # a: 5 wins; b is right
    assert found.pass_at_1.value == pytest.approx(1 / 3) and found.samples.num_samples == 4
    assert outcomes(answers) == {"a": 0.25, "b": 0.75, "c": 0.0}
    assert choose_ks(5) == [1, 2, 4, 5]


def test_a_tied_vote_goes_to_the_lowest_sample_whatever_the_order_of_arrival():
    tied = [answer("a", SAMPLED, 0, True, "7"), answer("a", SAMPLED, 1, False, "8")]
    assert (
        measure_answers(tied).samples.maj_at_n == measure_answers(tied[::-1]).samples.maj_at_n == 1
    )


def test_pass_at_1_is_greedy_where_there_are_greedy_answers():
    answers = [
        answer("a", GREEDY, 0, True, tokens=100),
        answer("b", GREEDY, 0, False, tokens=20, status=Status.TRUNCATED),
        answer("c", GREEDY, 0, False, tokens=30, status=Status.TIMEOUT),
        answer("a", SAMPLED, 0, False, tokens=7),
    ]
    found = measure_answers(answers)
    assert found.pass_at_1.value == pytest.approx(1 / 3)
    assert found.mean_thought_tokens == 50 and found.p95_thought_tokens == 100
    assert found.truncated_share == found.not_judged_share == pytest.approx(1 / 3)
    assert found.decided_by == {RULES: 3, NOBODY: 1}
    assert found.guess_chance == 0.25 and found.statuses["timeout"] == 1


def test_groups_have_figures_of_their_own_and_nameless_problems_none():
    answers = [answer(id, GREEDY, 0, id != "b") for id in "abc"]
    found = by_group(answers, {"a": "algebra", "b": "algebra", "c": ""})
    assert list(found) == ["algebra"] and found["algebra"].pass_at_1.value == 0.5


def test_only_problems_that_both_answered_are_compared():
    found = compare({"a": 1.0, "b": 1.0, "d": 1.0}, {"a": 0.0, "b": 1.0, "c": 1.0}, "base")
    assert found.num_problems == 2 and found.value == 0.5
    assert (found.num_better, found.num_worse, found.p_value) == (1, 0, 1.0)
    assert compare({"a": 1.0}, {"z": 1.0}, "base") is None


# -- the judge -------------------------------------------------------------------------------------


class FakeJudge:
    longest_s = 5.0

    def __init__(self, opinions):
        self.opinions, self.asked = opinions, []

    def ask(self, item, answer):
        self.asked.append((item.question, answer))
        return SecondOpinion(self.opinions[answer])


class Given:
    """Verifiers that say what stands in the table."""

    def __init__(self, verdicts):
        self.verdicts = verdicts

    def judge(self, rollouts):
        for rollout in rollouts:
            yield Judged(rollout, self.verdicts[rollout.problem.id])


def test_the_judge_decides_only_what_the_rules_left_open():
    verdicts = {
        "right": Verdict(Status.CORRECT, "4"),
        "said otherwise": Verdict(Status.WRONG, "four"),
        "wrong": Verdict(Status.WRONG, "5"),
        "not found": Verdict(Status.NO_ANSWER),
        "slow": Verdict(Status.TIMEOUT, "2+2"),
        "cut": Verdict(Status.TRUNCATED),
        "letter": Verdict(Status.WRONG, "(B)", answer_type=AnswerType.CHOICE),
    }
    judge = FakeJudge(
        {
            "four": Opinion.AGREES, "5": Opinion.DOUBTS, "It is 4, surely": Opinion.AGREES,
            "2+2": Opinion.UNKNOWN,
        }
    )  # fmt: skip
    rollouts = [
        Rollout(Problem(id, "?", "4", options=("1", "4")), 0, "It is 4, surely", (1,), "stop", 0)
        for id in verdicts
    ]
    found = VerifiersWithFallback(Given(verdicts), judge, 2).judge(rollouts)
    decided = {j.rollout.problem.id: decide_answer(j, "h") for j in found}
    assert {id: (a.is_correct, a.decided_by) for id, a in decided.items()} == {
        "right": (True, RULES),
        "said otherwise": (True, JUDGE),
        "wrong": (False, JUDGE),
        "not found": (True, JUDGE),
        "slow": (False, NOBODY),
        "cut": (False, RULES),
        "letter": (False, RULES),
    }
    assert {question for question, _ in judge.asked} == {"?\n(A) 1\n(B) 4"}
    credited = measure_answers(list(decided.values()))
    assert credited.pass_at_1.value == pytest.approx(3 / 7)
    assert credited.rules_pass_at_1 == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("source", "category"),
    [
        ("zoo/animals", "animals"),
        ("zoo", ""),
        ("unknown", ""),
        ("file", ""),
        ("geometry", "geometry"),
    ],
)
def test_a_category_is_what_a_source_says_beside_the_data_set(source, category):
    benchmark = Benchmark("zoo", SourceConfig(reader="jsonl", path="a/file.jsonl"), (), ())
    assert benchmark.category(Problem("p", "?", "1", source=source)) == category


# -- tables ----------------------------------------------------------------------------------------


def test_predictions_come_back_through_our_own_reader(tmp_path):
    for colour in ("red", "blue"):
        Image.new("RGB", (20, 10), colour).save(tmp_path / f"{colour}.png")
    red, blue = (str(tmp_path / f"{colour}.png") for colour in ("red", "blue"))
    problems = (
        Problem("zoo/1", 'Which\nof "two"?', "two", (red,), "zoo/animals", AnswerType.CHOICE,
                ("one", "two"), "Look\there."),
        Problem("zoo/2", "How many?", "2", (red, blue), "zoo/plants"),
        Problem("zoo/3", "What is left?", "C", (), "zoo", AnswerType.CHOICE, ("1", "2", "3")),
    )  # fmt: skip
    source = SourceConfig(reader="jsonl", path="zoo.jsonl", split="test")
    texts = {
        "zoo/1": "<think>hm | <b>\t</think> \\boxed{B}",
        "zoo/2": "2",
        "zoo/3": "<think>never ends",
    }
    path = tmp_path / "model_zoo.tsv"
    write_predictions(path, Benchmark("zoo", source, problems, ()), texts)
    again = SourceConfig(reader="vlmevalkit", path=str(path), split="test")
    (reading,) = read_problems(again, 0, tmp_path / "cache")
    assert not reading.faults and len(reading.records) == 3
    for before, after in zip(problems, reading.records, strict=True):
        assert (after.question, after.context) == (before.question, before.context)
        assert after.options == before.options
        colours = [load_image(p).getpixel((0, 0)) for p in before.images]
        assert [load_image(p).getpixel((0, 0)) for p in after.images] == colours
    assert [p.answer for p in reading.records] == ["B", "2", "C"]
    assert [p.source for p in reading.records] == [
        "model_zoo/animals", "model_zoo/plants", "model_zoo",
    ]  # fmt: skip
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["prediction"] for row in rows] == ["\\boxed{B}", "2", "<think>never ends"]
    assert [row["thinking"] for row in rows] == ["hm | <b>", "", ""]
    assert [row["index"] for row in rows] == ["1", "2", "3"]
    # a table that was read keeps its index
    read = Benchmark("kit", again.model_copy(update={"split": "test"}), tuple(
        Problem(f"kit/model_zoo-{7 * i}", "?", "1") for i in (1, 2)
    ), ())  # fmt: skip
    write_predictions(tmp_path / "b.tsv", read, {"kit/model_zoo-7": "1", "kit/model_zoo-14": "2"})
    with open(tmp_path / "b.tsv", newline="", encoding="utf-8") as file:
        assert [row["index"] for row in csv.DictReader(file, delimiter="\t")] == ["7", "14"]


def test_no_text_breaks_a_markdown_table():
    assert list(table(["a", "b"], [["x|y\nz", "<b>1"]])) == [
        "| a | b |",
        "|---|---:|",
        "| x\\|y z | &lt;b>1 |",
    ]
