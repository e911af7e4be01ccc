import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from selection_parts import candidate, rng

from virgo_ray.config import SelectConfig
from virgo_ray.selection import (
    overlap,
    pass_rate_bin,
    select,
    signature,
    weigh_losses,
)
from virgo_ray.selection.choosing import group_by_problem, is_believed
from virgo_ray.stats.stopping import FIXED, StoppingRule, estimate_pass_rate

WHOLE = (0.0, 1.0)


def improved(**fields):
    return SelectConfig(policy="improved", **{"length_band": WHOLE, **fields})


def faithful(**fields):
    return SelectConfig(policy="faithful", **fields)


TEXTS = ["one two three four five", "one two three four six", "a b c d e f", "", "x"]


@st.composite
def candidates(draw):
    """Unique by key; the signature is that of a text, so equal texts are fully alike."""
    keys = draw(st.sets(st.tuples(st.integers(1, 2), st.sampled_from("pqr"), st.integers(0, 4))))
    found = []
    for round, id, index in sorted(keys):
        text = draw(st.sampled_from(TEXTS))
        num_judged = draw(st.integers(5, 9))
        found.append(
            candidate(
                id,
                index,
                round=round,
                source="s" if id == "p" else "t",
                num_tokens=draw(st.integers(1, 9)),
                num_judged=num_judged,
                num_correct=draw(st.integers(1, num_judged)),
                guess_chance=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
                fingerprint=text,
                signature=signature(text),
                repetition=draw(st.sampled_from([0.0, 0.4, 0.9])),
                is_blank_solved=id == "q",
            )
        )
    return found


configs = st.builds(
    SelectConfig,
    policy=st.sampled_from(["faithful", "improved"]),
    split=st.sampled_from(["medium", "hard", "random"]),
    keep=st.sampled_from(["newest", "random", "shortest", "second_shortest", "second_longest"]),
    max_per_problem=st.integers(1, 3),
    max_overlap=st.sampled_from([0.0, 0.4, 0.6, 1.0]),
    max_luck=st.sampled_from([0.01, 0.3, 1.0]),
    max_repetition=st.sampled_from([0.0, 0.5, 1.0]),
    blank_solved_weight=st.sampled_from([0.0, 0.5, 1.0]),
    balance=st.sampled_from(["even", "inverse", "none"]),
    max_traces=st.one_of(st.none(), st.integers(1, 6)),
)


@given(candidates(), configs, st.randoms(use_true_random=False))
def test_every_way_of_choosing_keeps_the_promises_of_all(found, cfg, shuffler):
    kept = select(found, cfg, rng(3))
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    assert kept == select(shuffled, cfg, rng(3))
    assert set(kept) <= set(found)
    assert [c.key for c in kept] == sorted({c.key for c in kept})
    assert cfg.max_traces is None or len(kept) <= cfg.max_traces
    for group in group_by_problem(kept).values():
        assert len(group) <= (1 if cfg.policy == "faithful" else cfg.max_per_problem)
        for i, c in enumerate(group):
            for other in group[:i]:
                assert c.fingerprint != other.fingerprint
                alike = overlap(c.signature, other.signature)
                assert cfg.max_overlap == 1.0 or alike <= cfg.max_overlap
    if cfg.policy == "improved":
        assert all(c.repetition <= cfg.max_repetition for c in kept)
        assert cfg.blank_solved_weight > 0.0 or not any(c.is_blank_solved for c in kept)


# -- the paper's splits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "kept"), [("medium", [4, 5]), ("hard", [2, 3]), ("random", [1, 2, 3, 4, 5])]
)
def test_the_splits_of_the_paper(split, kept):
    found = [candidate(f"p{n}", num_correct=n) for n in range(1, 6)]
    assert [c.num_correct for c in select(found, faithful(split=split), rng())] == kept


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_a_problem_is_in_one_of_medium_and_hard_at_most(counts):
    c = candidate(num_correct=counts[0], num_judged=counts[1])
    splits = [s for s in ("medium", "hard") if select([c], faithful(split=s), rng())]
    rate = counts[0] / counts[1]
    expected = ["medium"] if rate >= 0.8 else ["hard"] if rate >= 0.4 else []
    assert splits == expected


@given(candidates(), st.sampled_from(["medium", "hard", "random"]))
def test_faithful_keeps_the_shortest_of_each_problem_of_its_split(found, split):
    kept = select(found, faithful(split=split), rng())
    for c in kept:
        same = [o for o in found if o.problem_id == c.problem_id]
        rates = {"medium": (0.8, 2.0), "hard": (0.4, 0.8), "random": (0.0, 2.0)}[split]
        same = [o for o in same if rates[0] <= o.num_correct / o.num_judged < rates[1]]
        assert c in same and c.num_tokens == min(o.num_tokens for o in same)


# -- which of a problem's thoughts -----------------------------------------------------------------

LENGTHS = [30, 10, 50, 20, 40]


@pytest.mark.parametrize(
    ("keep", "num", "lengths"),
    [
        ("shortest", 1, [10]),
        ("shortest", 2, [10, 20]),
        ("second_shortest", 1, [20]),
        ("second_shortest", 5, LENGTHS),
        ("second_longest", 1, [40]),
        ("second_longest", 2, [30, 40]),
        ("second_longest", 5, LENGTHS),
    ],
)
def test_the_kept_thoughts_have_the_wanted_length(keep, num, lengths):
    found = [candidate(sample_index=i, num_tokens=n) for i, n in enumerate(LENGTHS)]
    kept = select(found, improved(keep=keep, max_per_problem=num), rng())
    assert sorted(c.num_tokens for c in kept) == sorted(lengths)


def test_equal_thoughts_count_once_when_the_second_is_wanted():
    found = [
        candidate(sample_index=i, num_tokens=n, fingerprint=f)
        for i, (n, f) in enumerate([(10, "a"), (11, "a"), (20, "b"), (30, "c")])
    ]
    cfg = improved(keep="second_shortest", max_per_problem=1)
    assert [c.num_tokens for c in select(found, cfg, rng())] == [20]


@pytest.mark.parametrize("keep", ["shortest", "second_shortest", "second_longest", "random"])
def test_the_only_thought_about_a_problem_is_kept_whatever_is_wanted(keep):
    assert select([candidate()], improved(keep=keep), rng()) == [candidate()]


def test_random_takes_any_round_and_any_length():
    found = [candidate(sample_index=i, round=1 + i % 2, num_tokens=i + 1) for i in range(4)]
    cfg = improved(keep="random", max_per_problem=1)
    kept = Counter(select(found, cfg, rng(seed))[0].key for seed in range(200))
    assert set(kept) == {c.key for c in found} and min(kept.values()) > 25


# -- distinct, repetitive, guessed -----------------------------------------------------------------


def test_thoughts_that_share_most_of_their_words_are_not_distinct():
    texts = {0: "a b c d e f g h", 1: "a b c d e f g x", 2: "h g f e d c b a"}
    found = [
        candidate(sample_index=i, num_tokens=i + 1, signature=signature(text))
        for i, text in texts.items()
    ]
    cfg = {"keep": "shortest", "max_per_problem": 3}
    chosen = [
        [c.sample_index for c in select(found, improved(max_overlap=limit, **cfg), rng())]
        for limit in (1.0, 0.8, 0.5)
    ]
    assert chosen == [[0, 1, 2], [0, 1, 2], [0, 2]]  # 5 of 7 three-grams are in both: 0.71


def test_repetitive_thoughts_are_left_out():
    found = [candidate(f"p{i}", repetition=i / 10) for i in range(10)]
    assert len(select(found, improved(), rng())) == 10
    assert len(select(found, improved(max_repetition=0.25), rng())) == 3


def num_needed(guess_chance, num_judged, **fields):
    """The fewest correct samples that are believed; one more than there are where none are."""
    cfg = improved(**fields)
    for num in range(1, num_judged + 1):
        c = candidate(guess_chance=guess_chance, num_judged=num_judged, num_correct=num)
        if is_believed(c, cfg, FIXED):
            return num
    return num_judged + 1


@pytest.mark.parametrize(
    ("guess_chance", "num_judged", "fields", "needed"),
    [
        (0.25, 5, {"max_luck": 1.0}, 1), (0.25, 5, {"max_luck": 0.2}, 3), (0.25, 5, {}, 4),
        (0.5, 5, {}, 5), (0.5, 4, {}, 5), (0.5, 8, {}, 7), (0.25, 8, {}, 5),
        (0.25, 13, {"max_luck": 0.2}, 6), (0.0, 13, {"max_luck": 0.01}, 1), (0.001, 5, {}, 1),
        (0.02, 5, {}, 2), (1.0, 5, {"max_luck": 0.5}, 6),
        (0.25, 5, {"max_luck": 1.0, "min_correct": 2}, 2), (0.25, 5, {"min_correct": 2}, 4),
        (0.001, 5, {"min_correct": 2}, 1),
    ],
)  # fmt: skip
def test_more_must_agree_the_likelier_a_guesser_gets_as_many(
    guess_chance, num_judged, fields, needed
):
    assert num_needed(guess_chance, num_judged, **fields) == needed


def test_the_documented_table_of_how_many_must_be_right_holds():
    text = Path("docs/selection.md").read_text()
    table = text.partition("| rollouts | yes or no |")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    assert len(rows) == 6
    for num_judged, *needed in rows:
        num = int(num_judged)
        found = [num_needed(1 / options, num) for options in (2, 3, 4, 5)]
        assert needed == ["never" if k > num else str(k) for k in found]


@given(st.floats(0, 1), st.integers(1, 20), st.floats(0.001, 1))
def test_a_guesser_is_believed_at_most_as_often_as_said(chance, tries, max_luck):
    needed = num_needed(chance, tries, max_luck=max_luck)
    believed = sum(
        math.comb(tries, i) * chance**i * (1 - chance) ** (tries - i)
        for i in range(needed, tries + 1)
    )
    assert believed <= max_luck + 1e-6


def test_who_was_asked_until_enough_were_right_needs_more_of_them():
    """Three of four choices in a row at last: less than it seems, for there were two chances."""
    rule = StoppingRule(3, max_extra=3, batch=3, until_correct=3)
    found = [candidate("at_once", num_correct=3, num_judged=3, guess_chance=0.25),
             candidate("later", num_correct=3, num_judged=6, guess_chance=0.25)]  # fmt: skip
    chosen = [[c.problem_id for c in select(found, improved(), rng(), r)] for r in (FIXED, rule)]
    assert chosen == [["at_once"], ["at_once"]]
    cfg = improved(max_luck=0.017)
    chosen = [[c.problem_id for c in select(found, cfg, rng(), r)] for r in (FIXED, rule)]
    assert chosen == [["at_once"], []]


def test_splits_bins_and_weights_take_the_pass_rate_that_the_rule_gives():
    rule = StoppingRule(2, max_extra=4, batch=2, until_correct=2)
    late = candidate("late", num_correct=2, num_judged=4)  # a half, were it a fixed number
    assert estimate_pass_rate(2, 4, rule) == 0.4 and estimate_pass_rate(3, 4, rule) == 0.5
    assert select([late], faithful(split="medium", min_pass_rate=0.5), rng()) == [late]
    assert select([late], faithful(split="medium", min_pass_rate=0.5), rng(), rule) == []
    found = [late, late, candidate("other", num_correct=3, num_judged=4)]
    assert weigh_losses(found, 1.0, rule) == [1.0] * 3
    assert weigh_losses(found, 1.0) == pytest.approx([0.75, 0.75, 1.5])


# -- solved without pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_problems_that_need_no_picture_are_kept_with_their_weight(weight):
    found = [candidate(f"p{i}", j, is_blank_solved=i < 400) for i in range(500) for j in range(2)]
    kept = group_by_problem(select(found, improved(blank_solved_weight=weight), rng()))
    assert {len(group) for group in kept.values()} == {2}  # whole problems, never half of one
    num_blank = sum(int(id[1:]) < 400 for id in kept)
    assert len(kept) - num_blank == 100
    assert abs(num_blank - 400 * weight) <= 40
    assert weight not in (0.0, 1.0) or num_blank == 400 * weight


# -- balance ---------------------------------------------------------------------------------------


def head_and_tail():
    head = [candidate(f"h{i}", num_correct=5) for i in range(90)]
    tail = [candidate(f"t{i}", num_correct=1) for i in range(10)]
    return head + tail


def share_of_tail(balance, num):
    kept = [
        c
        for seed in range(60)
        for c in select(head_and_tail(), improved(balance=balance, max_traces=num), rng(seed))
    ]
    assert len(kept) == 60 * num
    return sum(c.problem_id[0] == "t" for c in kept) / len(kept)


def test_a_limit_favours_rare_bins_as_the_config_says():
    assert share_of_tail("even", 10) == 0.5
    assert 0.35 < share_of_tail("inverse", 10) < 0.5  # without replacement: the tail runs dry
    assert 0.05 < share_of_tail("none", 10) < 0.15
    assert share_of_tail("inverse", 100) == share_of_tail("none", 100) == 0.1


@given(candidates(), st.floats(0, 1))
def test_loss_weights_have_a_mean_of_one_and_favour_rare_cells(found, power):
    weights = weigh_losses(found, power)
    assert len(weights) == len(found)
    if found:
        assert math.isclose(sum(weights), len(found), rel_tol=1e-9) and min(weights) > 0
    cells = [(c.source, pass_rate_bin(c.num_correct / c.num_judged)) for c in found]
    sizes = Counter(cells)
    by_size = sorted((sizes[cell], -w) for cell, w in zip(cells, weights, strict=True))
    assert all(a[1] <= b[1] + 1e-9 for a, b in pairwise(by_size))


def test_with_full_power_all_cells_count_the_same_together():
    found = [candidate(f"p{i}") for i in range(3)] + [candidate("q", source="t")]
    assert weigh_losses(found, 1.0) == pytest.approx([2 / 3] * 3 + [2.0])
    assert weigh_losses(found, 0.0) == [1.0] * 4


def test_no_lonely_trace_counts_more_than_four_mean_ones():
    found = [candidate(f"p{i}") for i in range(999)] + [candidate("q", source="t")]
    weights = weigh_losses(found, 1.0)
    assert weights[-1] / weights[0] == pytest.approx(4.0 / (500 / 999))


# -- config ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"length_band": (0.9, 0.1)}, {"length_band": (0.0, 1.5)}, {"split": "easy"}, {"keep": "any"},
     {"max_luck": 0.0}, {"loss_balance": 2.0}],
)  # fmt: skip
def test_impossible_values_are_refused(fields):
    with pytest.raises(ValidationError):
        SelectConfig(**fields)


def test_a_candidate_is_small():
    text = " ".join(str(i) for i in range(5000))
    assert len(replace(candidate(), signature=signature(text)).signature) == 256
