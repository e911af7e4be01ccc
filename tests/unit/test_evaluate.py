import random
from dataclasses import replace

import pytest
from PIL import Image

from virgo_ray.config import Format, VerifyConfig, load_config
from virgo_ray.errors import RolloutError
from virgo_ray.evaluate import Evaluator, Questions
from virgo_ray.evaluate.answers import GREEDY, SAMPLED
from virgo_ray.evaluate.figures import TextFigures, is_long_format
from virgo_ray.model.blank import blank_pictures
from virgo_ray.records import Judged, Problem, Rollout, Status, Verdict, Weights
from virgo_ray.verify.verdict import judge

LONG = "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n\\boxed{4}"


def said(request, text, ids):
    """What an engine gives back."""
    return Rollout(
        request.problem, request.sample_index, text, ids, "stop", 0, is_greedy=request.is_greedy
    )


class FakeRollouts:
    """Greedy answers are long and right unless the picture is blank; sample 0 of 2 is right."""

    def sample(self, requests, sampling):
        for r in requests:
            right = r.sample_index == 0 and not r.problem.id.endswith("#blank")
            text = LONG if right else "5"
            yield said(r, text, (1, 2, 3))


class FakeVerifiers:
    def judge(self, rollouts):
        for r in rollouts:
            status = Status.CORRECT if r.text == LONG else Status.WRONG
            yield Judged(r, Verdict(status, answer="4" if r.text == LONG else "5"))


def evaluated(run_dir, problems, rollouts=None, verifiers=None, probes=None, **evaluate):
    """The figures of one evaluation in a run directory of its own."""
    cfg = load_config("configs/tiny.yaml", [f"run_dir={run_dir}"])
    cfg = cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update=evaluate)})
    questions = Questions("a-run", problems, probes or {})
    ports = (rollouts or FakeRollouts(), verifiers or FakeVerifiers())
    return Evaluator(cfg, questions, *ports).evaluate(Weights(0, "base"))


@pytest.fixture
def problems(tmp_path):
    Image.new("RGB", (32, 16), "red").save(tmp_path / "a.png")
    return [
        Problem(f"p{i}", "?", "4", (str(tmp_path / "a.png"),), source=f"s{i % 2}") for i in range(4)
    ]


def test_the_figures_are_those_computed_by_hand(problems, tmp_path):
    result = evaluated(tmp_path / "run", problems, k=2)
    assert result.pass_at_1 == 1.0
    assert result.pass_at_k == 1.0  # one of the two samples is right
    assert result.blank_image_pass_at_1 == 0.0
    assert result.long_format_share == 1.0
    assert result.mean_thought_tokens == 3
    assert sorted(result.per_source) == ["s0", "s1"]
    assert result.per_source["s0"].num_problems == 2


def test_every_accuracy_is_the_average_of_what_was_solved(problems, tmp_path):
    class EveryOther(FakeRollouts):
        """Solves p1 and p3 in the end, p0 and p2 never."""

        def sample(self, requests, sampling):
            for rollout in super().sample(requests, sampling):
                is_odd = rollout.problem.id.partition("#")[0] in ("p1", "p3")
                yield rollout if is_odd else replace(rollout, text="5")

    probes = {"perception": problems[1:], "text": problems[:1]}
    result = evaluated(tmp_path / "run", problems, EveryOther(), probes=probes, k=2)
    assert dict(result.solved) == {
        "pass_at_1": "0101", "pass_at_k": "0101", "maj_at_k": "0101",
        "blank_image_pass_at_1": "0000", "perception_pass_at_1": "101", "text_pass_at_1": "0",
    }  # fmt: skip
    for figure, flags in result.solved.items():
        assert getattr(result, figure) == flags.count("1") / len(flags)


def test_a_blanked_problem_has_a_white_picture_of_the_same_size(problems, tmp_path):
    blank = blank_pictures(problems[0], tmp_path / "blank")
    with Image.open(blank.images[0]) as image:
        assert image.size == (32, 16)
        assert image.getpixel((3, 3)) == (255, 255, 255)
    assert blank.id == "p0#blank" and blank.question == problems[0].question


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG, True),
        ("\\boxed{4}", False),
        ("<|begin_of_thought|> never ends", False),
        ("<|end_of_thought|><|begin_of_thought|>", False),
    ],
)
def test_long_format_needs_both_tags_in_order(text, expected):
    assert is_long_format(text) is expected


def test_long_format_follows_the_tags_of_the_config():
    own = [Format("<plan>", "</plan>")]
    assert is_long_format("<think>hm</think> 4") and not is_long_format("<think>hm</think> 4", own)
    assert is_long_format("<plan>hm</plan> 4", own) and not is_long_format("<plan>hm</plan> 4")


COLOURS = ("red", "green", "blue")


class Knower:
    """Names the right option, wherever it stands."""

    def sample(self, requests, sampling):
        for r in requests:
            letter = "ABC"[r.problem.options.index("green")] if r.problem.options else "4"
            yield said(r, letter, (1,))


class Guesser:
    """Says B, whatever is asked."""

    def sample(self, requests, sampling):
        for r in requests:
            yield said(r, "B", (1,))


class RealVerifiers:
    def judge(self, rollouts):
        for r in rollouts:
            yield Judged(r, judge(r.problem, r, VerifyConfig()))


@pytest.mark.parametrize(("rollouts", "share"), [(Knower(), 1.0), (Guesser(), 0.0)])
def test_choices_asked_again_under_other_orders_tell_a_guesser(rollouts, share, tmp_path):
    problems = [Problem(f"c{i}", "Which?", "B", options=COLOURS, source="zoo") for i in range(3)]
    problems.append(Problem("n", "How many?", "4", source="sums"))
    result = evaluated(
        tmp_path / "asked", problems, rollouts, RealVerifiers(), k=1, permute_options=4
    )
    assert result.consistent_choice_share == share
    assert result.per_source["zoo"].consistent_choice_share == share
    assert result.per_source["sums"].consistent_choice_share is None
    assert result.num_problems == 4
    result = evaluated(
        tmp_path / "unasked", problems, rollouts, RealVerifiers(), k=1, permute_options=0
    )
    assert result.consistent_choice_share is None


# -- what the gates look at ------------------------------------------------------------------------


class Mixed:
    """Greedily: an answer, none, a loop, a cut-off; of the samples the second repeats the first."""

    def sample(self, requests, sampling):
        for r in requests:
            ids = (7,) * 9 if r.sample_index < 2 else tuple(range(9))
            yield said(r, "x", ids)


class ByNumber:
    STATUSES = (Status.CORRECT, Status.NO_ANSWER, Status.REPETITIVE, Status.TRUNCATED)

    def judge(self, rollouts):
        for r in rollouts:
            yield Judged(r, Verdict(self.STATUSES[int(r.problem.id[1])]))


def test_unparsed_looping_and_repeated_answers_are_counted(problems, tmp_path):
    result = evaluated(tmp_path / "run", problems, Mixed(), ByNumber(), k=3, blank_image=False)
    shares = ("no_answer_share", "repetitive_share", "truncated_share", "pass_at_1")
    assert [getattr(result, name) for name in shares] == [0.25] * 4
    assert result.distinct_share == 0.5  # of two further samples one is new
    assert result.num_blank == 0 and result.blank_image_pass_at_1 is None


def test_probes_have_scores_of_their_own_and_change_no_other(problems, tmp_path):
    plain = evaluated(tmp_path / "plain", problems, k=2)
    assert plain.perception_pass_at_1 is None and plain.num_text == 0
    # A probe may hold the same problems as the held-out set, or each other.
    probes = {"perception": problems[:3], "text": [problems[0], Problem("t#blank", "?", "4")]}
    both = evaluated(tmp_path / "both", problems, probes=probes, k=2)
    figures = {
        "perception_pass_at_1": 1.0, "num_perception": 3, "text_pass_at_1": 1.0, "num_text": 2,
        "seconds": both.seconds, "solved": both.solved,
    }  # fmt: skip
    assert plain.solved.items() <= both.solved.items()
    assert both == replace(plain, **figures)


def test_samples_are_held_until_their_problem_is_complete_and_no_longer():
    words, held = TextFigures(num_samples=4), []
    keys = [(f"p{i}", SAMPLED, sample) for i in range(50) for sample in range(4)]
    rng = random.Random(0)
    waiting = []
    for key in [*keys, *[None] * 8]:  # eight in flight, in any order
        waiting += [key] if key else []
        if len(waiting) == 8 or (key is None and waiting):
            done = waiting.pop(rng.randrange(len(waiting)))
            words.add(done, "", (done[2] // 2,) * 9)  # two of four are alike, twice
            held.append(words.num_held)
    words.add(("p0", GREEDY, 0), LONG, (1,) * 9)
    assert len(held) == 200 and max(held) <= 4 * 8 and words.num_held == 0
    assert words.distinct_share(f"p{i}" for i in range(50)) == pytest.approx(1 / 3)
    assert words.distinct_share(["another"]) is None
    assert words.is_long("p0") and not words.is_long("p1")


def test_answers_that_do_not_come_back_are_an_error_and_are_asked_again(problems, tmp_path):
    class Forgetful(FakeRollouts):
        def sample(self, requests, sampling):
            yield from list(super().sample(requests, sampling))[1:]

    with pytest.raises(RolloutError, match=r"15 of 16 answers of weights version 0 came back"):
        evaluated(tmp_path / "run", problems, Forgetful(), k=2)
    again = evaluated(tmp_path / "run", problems, k=2)
    assert again.num_problems == 4 and again.pass_at_1 == 1.0
