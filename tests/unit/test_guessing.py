"""Kinds of answers that can never be believed are named before anything is sampled."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from data_parts import config

from virgo_ray.config import dump_config, load_config
from virgo_ray.data.__main__ import main
from virgo_ray.data.ingest import read_data
from virgo_ray.errors import ConfigError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import AnswerType, Problem
from virgo_ray.selection import guessing, stopping_rule
from virgo_ray.selection.guessing import name_unbelievable
from virgo_ray.stats.stopping import luck
from virgo_ray.verify.answers.infer import infer_type

TINY = "configs/tiny.yaml"  # 3 rollouts of each problem
FOUR = ("a cat", "a dog", "7", "none")


def problem(answer, options=(), answer_type=AnswerType.AUTO):
    return Problem("p", "?", answer, options=options, answer_type=answer_type)


MIXED = [
    problem("yes"), problem("(B)", FOUR), problem("7", FOUR), problem("C"), problem("12"),
    problem("red circle"), problem("No.", answer_type=AnswerType.YES_NO), problem("No way"),
]  # fmt: skip


def named(*overrides, problems=MIXED, path=TINY):
    return name_unbelievable(problems, load_config(path, overrides))


def test_who_cannot_be_told_from_a_guesser_is_named_with_number_and_way_out():
    (line,) = named()
    assert line == (
        "data.train: 2 of 8 problems are never learned from with select.max_luck=0.05: a blind "
        "guess is right in 0.5, and a guesser passes for one who is always right in 0.125 "
        "(3 rollouts); expected explore.num_samples=5, or select.max_luck=0.126"
    )
    assert named("explore.num_samples=5") == named("select.max_luck=0.126") == []
    assert len(named("explore.num_samples=4")) == 1


def test_every_kind_of_choice_has_its_line():
    choices, yes_no = named("explore.num_samples=2")
    assert "3 of 8 problems" in choices and "right in 0.25" in choices and "=3," in choices
    assert "2 of 8 problems" in yes_no


def test_extra_rollouts_stop_too_early_to_help():
    """Two of two right stop the improved recipe, and no more are asked."""
    choices, yes_no = named(path="configs/tiny_improved.yaml")
    assert "until_correct=3" in choices and "until_correct=5" in yes_no
    more = ("explore.num_samples=4", "explore.extra={max_samples: 8, until_correct: 5, batch: 4}")
    assert named(*more, path="configs/tiny_improved.yaml") == []
    assert len(named(more[0], more[1].replace("5", "4"), path="configs/tiny_improved.yaml")) == 1


def test_the_documented_recipe_for_guessers_believes_whom_it_says():
    guessers = Path("docs/selection.md").read_text().partition("#### Guessers")[2]
    block = guessers.partition("```yaml\n")[2].partition("```")[0]
    cfg = load_config(TINY, [f"explore={json.dumps(yaml.safe_load(block)['explore'])}"])
    rule = stopping_rule(cfg.explore)
    needed = {
        asked: [k for k in range(rule.most_correct(asked) + 1)
                if rule.is_end(asked, k) and luck(k, asked, 0.5, rule) <= cfg.select.max_luck]
        for asked in (4, 8, 12)
    }  # fmt: skip
    assert "# yes or no: 8 of 8 or 10 of 12" in block
    assert {asked: min(ks) for asked, ks in needed.items() if ks} == {8: 8, 12: 10}
    rule = replace(rule, until_correct=5)
    assert rule.most_correct(12) == 8 and luck(8, 12, 0.5, rule) == pytest.approx(0.24, abs=0.005)


def test_who_can_be_believed_after_a_wrong_answer_is_named_and_not_refused():
    """Of four options two of two are luck, three of four are not; of yes and no both are."""
    improved = "configs/tiny_improved.yaml"
    (line,) = named(problems=[problem("(B)", FOUR)], path=improved)
    assert "1 of 1 problems are not learned from if always solved, with select.max_luck" in line
    choices, yes_no = named(path=improved)
    assert "if always solved" in choices and "2 of 8 problems are never learned from" in yes_no
    with pytest.raises(ConfigError, match="never learned from"):
        named(problems=[problem("yes")], path=improved)


def test_the_papers_recipe_believes_everybody():
    assert named("select.policy=faithful") == []


def test_a_run_that_explores_nothing_learns_from_no_guesser():
    assert named("rounds=0") == named("rounds=0", problems=[problem("yes")]) == []


def test_an_answer_without_alternative_needs_other_problems():
    (line,) = named(problems=[problem("A", ("only",)), problem("3")])
    assert line.endswith("expected problems with more than one possible answer")


def test_a_run_and_inspect_name_them_and_refuse_data_that_hold_nothing_else(tmp_path, capsys):
    rows = [
        {"question": f"{a}?", "answer": a, "image": f"{b}.png"} for a, b in ("1a", ("yes", "b"))
    ]
    cfg = config(tmp_path, rows)
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(cfg))
    assert main(["inspect", str(copy)]) == 0
    assert "data.train: 1 of 2 problems are never learned from" in capsys.readouterr().out
    cfg = config(tmp_path, rows[1:])
    with pytest.raises(ConfigError, match="no problem is left to learn from"):
        read_data(cfg, Prompter(cfg.model, cfg.prompt))


def test_inspect_says_where_the_bad_rows_lie_before_it_refuses_the_others(tmp_path, capsys):
    rows = [{"question": f"{a}?", "answer": a, "image": "a.png"} for a in ("yes", "")]
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config(tmp_path, rows)))
    assert main(["inspect", str(copy)]) == 2
    said = capsys.readouterr()
    assert "quarantine.jsonl" in said.out and "data.strict=true: a run refuses" in said.out
    assert "no problem is left to learn from" in said.err


def test_no_type_is_inferred_where_no_kind_of_answer_could_be_wrong(monkeypatch):
    """Three of three of four options are no luck: only yes and no are looked at."""
    inferred = []
    monkeypatch.setattr(guessing, "infer_type", lambda *a: inferred.append(a) or infer_type(*a))
    choices = [problem(option, FOUR) for option in FOUR]
    assert named(problems=choices) == [] and not inferred
    (line,) = named(problems=[*choices, problem("yes")])
    assert "1 of 5 problems" in line and len(inferred) == 1


def test_data_that_hold_nothing_else_are_refused():
    with pytest.raises(ConfigError, match="1 of 1 problems are never learned from"):
        named(problems=[problem("yes")])
