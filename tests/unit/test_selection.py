from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection_parts import candidate, explore, problems, rng

from virgo_ray.config import FORMATS, Format, SelectConfig, load_config
from virgo_ray.records import Candidate, Example, sequence_length
from virgo_ray.selection import (
    SolveRate,
    choose_problems,
    fingerprint,
    has_thought,
    is_complete,
    num_reflections,
    pass_rate_bin,
    select,
)
from virgo_ray.selection.choosing import group_by_problem, is_believed
from virgo_ray.selection.mixing import mix
from virgo_ray.selection.training_set import add_seeds, find_seeds
from virgo_ray.stats.stopping import FIXED

FAITHFUL = SelectConfig(policy="faithful")
IMPROVED = SelectConfig(policy="improved")


@st.composite
def rollouts_of_a_run(draw):
    """Correct rollouts as a store would describe them: counts agree with what there is."""
    found = []
    for problem in range(draw(st.integers(0, 6))):
        for round in draw(st.sets(st.integers(1, 3), max_size=2)):
            num_judged = draw(st.integers(1, 6))
            indices = draw(st.sets(st.integers(0, num_judged - 1), min_size=1))
            guess_chance = draw(st.sampled_from([0.0, 0.25, 0.5]))
            for index in indices:
                found.append(
                    Candidate(
                        round=round,
                        problem_id=f"p{problem}",
                        sample_index=index,
                        source=f"s{problem % 2}",
                        num_tokens=draw(st.integers(1, 30)),
                        num_correct=len(indices),
                        num_judged=num_judged,
                        guess_chance=guess_chance,
                        num_reflections=draw(st.sampled_from([0, 3, 99])),
                        fingerprint=draw(st.sampled_from("abc")),
                        is_complete=draw(st.booleans()),
                    )
                )
    return found


configs = st.builds(
    SelectConfig,
    policy=st.sampled_from(["faithful", "improved"]),
    max_per_problem=st.integers(1, 3),
    min_correct=st.integers(1, 3),
    length_band=st.sampled_from([(0.0, 1.0), (0.1, 0.9), (0.5, 0.5)]),
    max_traces=st.one_of(st.none(), st.integers(1, 8)),
)


# -- what to ask -----------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(1, 15), st.booleans(), st.sets(st.integers(0, 11)))
def test_chosen_problems_are_different_and_never_solved_by_the_base(num, asked, prefer, solved):
    by_base = frozenset(f"p{i}" for i in solved)
    cfg = explore(asked, prefer_unsolved=prefer)
    chosen = choose_problems(problems(num), {"p0": SolveRate(0.5, True)}, cfg, rng(), by_base)
    ids = [p.id for p in chosen]
    assert len(set(ids)) == len(ids) == min(asked, len({f"p{i}" for i in range(num)} - by_base))
    assert not by_base.intersection(ids)


def test_the_same_stream_chooses_the_same_problems():
    rates = {f"p{i}": SolveRate(i % 5 / 4, i % 5 > 0) for i in range(50)}
    runs = [choose_problems(problems(100), rates, explore(20), rng(7)) for _ in range(2)]
    other = choose_problems(problems(100), rates, explore(20), rng(8))
    assert runs[0] == runs[1] != other


def test_unsolved_and_untried_problems_are_preferred_to_solved_ones():
    rates = {f"p{i}": SolveRate(1.0, True) for i in range(50)}
    rates |= {f"p{i}": SolveRate(0.0, False) for i in range(50, 75)}
    chosen = [
        int(p.id[1:])
        for seed in range(20)
        for p in choose_problems(problems(100), rates, explore(40), rng(seed))
    ]
    solved = sum(i < 50 for i in chosen)
    untried = sum(i >= 75 for i in chosen)
    assert 0 < solved < 0.2 * len(chosen)
    assert 0.3 * len(chosen) < untried < 0.6 * len(chosen)


def test_without_preference_the_choice_is_even():
    rates = {f"p{i}": SolveRate(1.0, True) for i in range(50)}
    cfg = explore(40, prefer_unsolved=False)
    chosen = [
        int(p.id[1:])
        for seed in range(20)
        for p in choose_problems(problems(100), rates, cfg, rng(seed))
    ]
    assert 0.4 * len(chosen) < sum(i < 50 for i in chosen) < 0.6 * len(chosen)


# -- faithful --------------------------------------------------------------------------------------


def test_faithful_keeps_the_shortest_correct_thought_of_each_problem():
    found = [candidate("a", 0, num_tokens=9), candidate("a", 1, num_tokens=7), candidate("b", 3)]
    assert [c.key for c in select(found, FAITHFUL, rng())] == [(1, "a", 1), (1, "b", 3)]


@given(rollouts_of_a_run())
def test_faithful_keeps_one_of_every_problem_that_is_solved_often_enough(found):
    kept = select(found, FAITHFUL, rng())
    eligible = {c.problem_id for c in found if c.num_correct / c.num_judged >= 0.8}
    assert Counter(c.problem_id for c in kept) == Counter(eligible)
    for c in kept:
        same = [o for o in found if o.problem_id == c.problem_id]
        same = [o for o in same if o.num_correct / o.num_judged >= 0.8]
        assert c.num_tokens == min(o.num_tokens for o in same)


# -- improved --------------------------------------------------------------------------------------


@given(rollouts_of_a_run(), configs)
def test_what_is_selected_was_a_candidate_and_is_selected_once(found, cfg):
    kept = select(found, cfg, rng())
    assert set(kept) <= set(found)
    assert [c.key for c in kept] == sorted({c.key for c in kept})
    assert cfg.max_traces is None or len(kept) <= cfg.max_traces


@given(rollouts_of_a_run(), configs, st.randoms(use_true_random=False))
def test_the_order_in_which_rollouts_finished_does_not_matter(found, cfg, shuffler):
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    assert select(found, cfg, rng(3)) == select(shuffled, cfg, rng(3))


@given(rollouts_of_a_run(), configs.filter(lambda c: c.policy == "improved"))
def test_improved_keeps_its_promises(found, cfg):
    kept = select(found, cfg, rng())
    for id, group in group_by_problem(kept).items():
        assert len(group) <= cfg.max_per_problem
        assert len({c.fingerprint for c in group}) == len(group), id
    for c in kept:
        assert c.is_complete and c.num_reflections <= cfg.max_reflections
        assert is_believed(c, cfg, FIXED)


@given(rollouts_of_a_run())
def test_improved_never_loses_a_problem_that_has_a_sound_thought_of_ordinary_length(found):
    cfg = SelectConfig(length_band=(0.0, 1.0))
    sound = {
        c.problem_id
        for c in found
        if c.is_complete and c.num_reflections <= 25 and is_believed(c, cfg, FIXED)
    }
    assert {c.problem_id for c in select(found, cfg, rng())} == sound


@pytest.mark.parametrize("policy", ["faithful", "improved"])
def test_doubted_traces_are_left_out_and_change_no_pass_rate(policy):
    found = [candidate("p", 0, num_tokens=5, is_doubted=True), candidate("p", 1), candidate("q")]
    found[2] = replace(found[2], is_doubted=True)
    kept = select(found, SelectConfig(policy=policy), rng())
    assert [(c.key, c.num_correct) for c in kept] == [((1, "p", 1), 5)]
    cfg = SelectConfig(policy=policy, drop_doubted=False, length_band=(0.0, 1.0))
    assert {c.problem_id for c in select(found, cfg, rng())} == {"p", "q"}


def test_thoughts_of_unusual_length_are_dropped_per_source():
    found = [candidate(f"p{i}", num_tokens=100 + i) for i in range(21)]
    found += [candidate(f"q{i}", source="long", num_tokens=1000 + i) for i in range(21)]
    kept = select(found, IMPROVED, rng())
    lengths = sorted(c.num_tokens for c in kept)
    assert lengths == [*range(102, 119), *range(1002, 1019)]


def test_a_handful_of_thoughts_loses_none_to_the_length_band():
    found = [candidate(f"p{i}", num_tokens=10**i) for i in range(2)]
    assert len(select(found, IMPROVED, rng())) == 2


def test_the_newest_model_is_preferred():
    found = [
        candidate(round=r, sample_index=i, fingerprint=f"{r}{i}") for r in (1, 2) for i in (0, 1)
    ]
    kept = select(found, IMPROVED, rng())
    assert {c.round for c in kept} == {2}
    same_text = [replace(c, fingerprint="x") for c in found]
    assert [c.round for c in select(same_text, IMPROVED, rng())] == [2]


def test_a_limit_is_shared_evenly_between_sources_and_pass_rates():
    easy = [candidate(f"e{i}", num_correct=5) for i in range(50)]
    hard = [candidate(f"h{i}", num_correct=2) for i in range(5)]
    other = [candidate(f"o{i}", source="t") for i in range(50)]
    kept = select(easy + hard + other, SelectConfig(max_traces=35), rng())
    assert Counter(c.problem_id[0] for c in kept) == {"h": 5, "e": 15, "o": 15}


def test_under_a_limit_every_problem_gets_a_first_trace_before_any_gets_a_second():
    found = [candidate(f"p{i}", index) for i in range(10) for index in range(4)]
    kept = select(found, SelectConfig(max_traces=10), rng())
    assert len({c.problem_id for c in kept}) == 10


@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_every_pass_rate_has_a_bin(counts):
    assert pass_rate_bin(counts[0] / counts[1]) == -(-4 * counts[0] // counts[1]) - 1


# -- texts -----------------------------------------------------------------------------------------


def test_fingerprints_ignore_case_and_spaces_but_no_signs():
    assert fingerprint("So 3 + 4\n= 7.") == fingerprint("so  3 + 4 = 7.")
    assert len({fingerprint(t) for t in ("3 + 4", "3 - 4", "3 + 5", "3 4")}) == 4


def test_reflections_are_counted_as_whole_words():
    assert num_reflections("The waiter awaits; however, think of it.") == 0
    assert num_reflections("Wait. Hmm, let me double-check. Check it again! Re-examine.") == 5


def test_an_open_thought_is_not_complete():
    assert is_complete("7") and is_complete("<think>3 + 4</think> 7")
    assert not is_complete("<|begin_of_thought|> 3 + 4 is 7")
    assert not is_complete("</think> 3 + 4 <think> 7")
    own = [Format("<plan>", "</plan>")]
    assert not is_complete("<plan> 3 + 4", own) and is_complete("<think> 3 + 4", own)


def test_tags_that_stand_twice_or_alone_are_not_complete():
    whole = "<|begin_of_thought|>3 + 4<|end_of_thought|><|begin_of_solution|>7<|end_of_solution|>"
    assert is_complete(whole) and is_complete(whole.removeprefix("<|begin_of_thought|>"))
    assert is_complete("<|begin_of_thought|>3 + 4<|end_of_thought|>7")
    for tag in FORMATS[0]:
        assert not is_complete(whole.replace(tag, tag * 2))
    for tag in FORMATS[0][1:]:
        assert not is_complete(whole.replace(tag, ""))


def test_answers_without_a_thought_are_left_out_where_thoughts_are_required():
    assert has_thought("<think>3 + 4</think> 7") and not has_thought("7")
    assert not has_thought("<think>3 + 4") and not has_thought("<think> </think> 7")
    assert not has_thought("<think></think> 7")
    thinking, at_once = candidate("a"), candidate("b", has_thought=False)
    assert len(select([thinking, at_once], SelectConfig(), rng())) == 2
    assert select([thinking, at_once], SelectConfig(require_thought=True), rng()) == [thinking]


# -- what to train on ------------------------------------------------------------------------------


def examples(name, num, length=2):
    return [Example(f"{name}{i}", (1,), (2,) * (length - 1)) for i in range(num)]


def seeds_in(mixed):
    return [e for e in mixed if e.id[0] == "s"]


def tokens_of(some):
    return sum(map(sequence_length, some))


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0, 1))
def test_seed_thoughts_stay_within_their_share_and_no_trace_is_lost(num_seeds, num_traces, share):
    seeds, traces = examples("s", num_seeds), examples("t", num_traces)
    mixed = mix(seeds, traces, share, 0.0, rng())
    kept = seeds_in(mixed)
    assert [e for e in mixed if e.id[0] == "t"] == traces
    assert len({e.id for e in mixed}) == len(mixed)
    assert len(kept) <= share * len(mixed) + 1e-6
    assert len(kept) == num_seeds or len(kept) + 1 > share * (len(mixed) + 1) - 1e-6


@given(
    st.lists(st.integers(2, 9), max_size=30), st.lists(st.integers(2, 9), min_size=1, max_size=30),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_a_round_never_has_fewer_tokens_than_its_floor_and_no_seed_more_than_needed(
    seed_lengths, trace_lengths, share, floor
):
    seeds = [e for i, n in enumerate(seed_lengths) for e in examples(f"s{i}.", 1, n)]
    traces = [e for i, n in enumerate(trace_lengths) for e in examples(f"t{i}.", 1, n)]
    within, mixed = (mix(seeds, traces, share, f, rng()) for f in (0.0, floor))
    least = floor * tokens_of(seeds)
    assert tokens_of(mixed) >= least - 1e-6
    assert set(seeds_in(within)) <= set(seeds_in(mixed))
    put_back = set(seeds_in(mixed)).difference(seeds_in(within))
    longest = max((sequence_length(e) for e in put_back), default=0)
    assert not put_back or tokens_of(mixed) - longest < least


@pytest.mark.parametrize(
    ("num_traces", "num_kept", "num_kept_with_half"),
    [(0, 600, 600), (1, 599, 299), (6, 594, 294), (300, 300, 300), (900, 600, 600)],
)
def test_few_traces_leave_a_round_as_many_tokens_as_the_seed_thoughts_have(
    num_traces, num_kept, num_kept_with_half
):
    """Without the floor, 6 traces would leave 6 of 600 seed thoughts."""
    seeds, traces = examples("s", 600), examples("t", num_traces)
    assert len(seeds_in(mix(seeds, traces, 0.5, 1.0, rng()))) == num_kept
    assert len(seeds_in(mix(seeds, traces, 0.5, 0.5, rng()))) == num_kept_with_half
    assert seeds_in(mix(seeds, traces, 1.0, 1.0, rng())) == seeds


@pytest.mark.parametrize("num_traces", [0, 1, 6, 300])
def test_by_default_every_round_has_all_seed_thoughts(num_traces):
    seeds, traces = examples("s", 50), examples("t", num_traces)
    cfg = load_config("configs/tiny.yaml")
    for t in (0, 1, 5):
        assert add_seeds(cfg, t, seeds, traces) == [*seeds, *traces]


@pytest.mark.parametrize("num_traces", [0, 1, 6, 40, 300])
@pytest.mark.parametrize("floor", [0.0, 0.7, 1.0])
def test_which_seed_thoughts_a_round_had_is_found_again(num_traces, floor):
    seeds, traces = examples("s", 50), examples("t", num_traces)
    overrides = ["train.seed_share=[0.6, 0.2]", f"train.seed_floor={floor}"]
    cfg = load_config("configs/tiny.yaml", overrides)
    for t in (1, 2, 3):
        had = seeds_in(add_seeds(cfg, t, seeds, traces))
        found = find_seeds(cfg, t, len(seeds), num_traces, len(had))
        assert [seeds[i] for i in found] == had
        unsaid = find_seeds(cfg, t, len(seeds), num_traces, None)
        assert unsaid == found or (unsaid is None and floor)


def test_without_traces_all_seed_thoughts_are_used():
    seeds = examples("s", 5)
    assert mix(seeds, [], 0.0, 0.0, rng()) == seeds


def test_the_share_of_seed_thoughts_can_be_everything_or_nothing():
    seeds, traces = examples("s", 5), examples("t", 2)
    assert mix(seeds, traces, 1.0, 0.0, rng()) == seeds + traces
    assert mix(seeds, traces, 0.0, 0.0, rng()) == traces
