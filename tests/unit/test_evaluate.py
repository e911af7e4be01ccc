import pytest
from PIL import Image

from virgo_ray.config import EvaluateConfig, SamplingConfig
from virgo_ray.evaluate import Evaluator, blanked, is_long_format
from virgo_ray.records import Judged, Problem, Rollout, Status, Verdict

LONG = "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n\\boxed{4}"


class FakeRollouts:
    """Greedy answers are long and right unless the picture is blank; sample 0 of 2 is right."""

    def sample(self, requests, sampling):
        for r in requests:
            right = r.sample_index == 0 and not r.problem.id.endswith("#blank")
            text = LONG if right else "5"
            yield Rollout(r.problem, r.sample_index, text, (1, 2, 3), "stop", 0)


class FakeVerifiers:
    def judge(self, rollouts):
        for r in rollouts:
            status = Status.CORRECT if r.text == LONG else Status.WRONG
            yield Judged(r, Verdict(status, answer="4" if r.text == LONG else "5"))


@pytest.fixture
def problems(tmp_path):
    Image.new("RGB", (32, 16), "red").save(tmp_path / "a.png")
    return [
        Problem(f"p{i}", "?", "4", (str(tmp_path / "a.png"),), source=f"s{i % 2}") for i in range(4)
    ]


def test_the_figures_are_those_computed_by_hand(problems, tmp_path):
    cfg = EvaluateConfig(k=2, sampling=SamplingConfig(max_tokens=8))
    result = Evaluator(cfg, problems, tmp_path / "blank", 0).run(FakeRollouts(), FakeVerifiers())
    assert result["pass_at_1"] == 1.0
    assert result["pass_at_k"] == 1.0  # one of the two samples is right
    assert result["blank_image_pass_at_1"] == 0.0
    assert result["long_format_share"] == 1.0
    assert result["mean_thought_tokens"] == 3
    assert sorted(result["per_source"]) == ["s0", "s1"]
    assert result["per_source"]["s0"]["num_problems"] == 2


def test_a_blanked_problem_has_a_white_picture_of_the_same_size(problems, tmp_path):
    blank = blanked(problems[0], tmp_path / "blank")
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
