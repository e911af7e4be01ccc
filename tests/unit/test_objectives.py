"""Losses of reinforcement against what they are defined to be: enumerated expectations, formulas
and finite differences, all in float64 and without a model."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from virgo_ray.config import DpoConfig, GrpoConfig, ObjectiveConfig
from virgo_ray.records import Example
from virgo_ray.selection.advantages import estimator_of
from virgo_ray.train.objectives.choosing import BoundedPolicy, Preference, find_objective
from virgo_ray.train.objectives.importance import weigh_tokens
from virgo_ray.train.objectives.policy import bound_policy, weigh_likelihood
from virgo_ray.train.objectives.preference import find_margins, prefer
from virgo_ray.train.objectives.ratios import find_ratios
from virgo_ray.train.objectives.scored import Scored

F64 = torch.float64
PLAIN = {"old_logprobs": "sampler"}  # no importance weights


def make_scored(new, weights, lengths=None, *, old=None, start=None, roles=None, groups=None):
    """Flat float64 tensors; `old` and `start` are the same as `new` if they are left out."""
    new = torch.as_tensor(new, dtype=F64)
    lengths = tuple(lengths or (1,) * len(new))
    per_token = torch.tensor(lengths)
    groups = [True] * len(lengths) if groups is None else groups
    return Scored(
        new=new,
        weights=torch.as_tensor(weights, dtype=F64).repeat_interleave(per_token),
        has_group=torch.tensor(groups).repeat_interleave(per_token),
        sampled=new.detach() if old is None else torch.as_tensor(old, dtype=F64),
        start=new.detach() if start is None else torch.as_tensor(start, dtype=F64),
        lengths=lengths,
        roles=roles or ("",) * len(lengths),
    )


def gradient(loss_of, new: Tensor) -> Tensor:
    new = new.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss_of(new).sum(), new)
    return found


# -- a bandit: two tokens of three kinds, all outcomes enumerated ----------------------------------

OUTCOMES = list(itertools.product(range(3), repeat=2))
REWARDS = dict(zip(OUTCOMES, (1, 0, 0, 0.5, 0, 1, 0, 0, 0.25), strict=True))
GROUP = 3


def table(seed: int) -> Tensor:
    """(4, 3) logits: of the first token, and of the second after each first one."""
    return torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))


def token_logprobs(logits: Tensor, outcome: tuple[int, int]) -> Tensor:
    rows = logits.log_softmax(-1)
    return torch.stack([rows[0, outcome[0]], rows[1 + outcome[0], outcome[1]]])


def true_gradient(logits: Tensor) -> Tensor:
    """Of the expected reward."""
    logits = logits.clone().requires_grad_()
    value = sum(REWARDS[o] * token_logprobs(logits, o).sum().exp() for o in OUTCOMES)
    return torch.autograd.grad(value, logits)[0]


def expected_gradient(logits: Tensor, sampled_by: Tensor, weigh, terms) -> Tensor:
    """The mean, over all groups that `sampled_by` can draw, of the summed loss's gradient."""
    logits = logits.clone().requires_grad_()
    new = {o: token_logprobs(logits, o) for o in OUTCOMES}
    old = {o: token_logprobs(sampled_by, o) for o in OUTCOMES}
    groups = list(itertools.product(OUTCOMES, repeat=GROUP))
    drawn = [o for group in groups for o in group]
    scored = make_scored(
        torch.cat([new[o] for o in drawn]),
        [w for group in groups for w in weigh([REWARDS[o] for o in group])],
        (2,) * len(drawn),
        old=torch.cat([old[o] for o in drawn]),
    )
    chances = torch.stack([old[o].sum() for o in drawn]).view(-1, GROUP).sum(-1).exp()
    total = (terms(scored).view(len(groups), -1).sum(-1) * chances).sum()
    return torch.autograd.grad(total, logits)[0]


def advantages(**raw):
    return estimator_of(ObjectiveConfig(**raw))


@pytest.mark.parametrize(
    ("weigh", "terms", "scale"),
    [
        (advantages(name="rloo"), weigh_likelihood, GROUP),
        (advantages(name="grpo"), weigh_likelihood, GROUP - 1),
        (advantages(name="grpo"), lambda s: bound_policy(s, GrpoConfig(**PLAIN)), GROUP - 1),
        (
            advantages(name="grpo"),
            lambda s: bound_policy(s, GrpoConfig(**PLAIN, clip="cispo")),
            GROUP - 1,
        ),
        (
            advantages(name="grpo"),
            lambda s: bound_policy(s, GrpoConfig(**PLAIN, ratio="sequence")),
            (GROUP - 1) / 2,
        ),
        (
            advantages(name="grpo"),
            lambda s: bound_policy(s, GrpoConfig(**PLAIN, aggregation="sequence")),
            (GROUP - 1) / 2,
        ),
    ],
    ids=["rloo", "reinforce", "grpo", "cispo", "gspo", "sequence_mean"],
)
def test_the_mean_gradient_over_all_groups_is_that_of_the_expected_reward(weigh, terms, scale):
    """Up to a constant: RLOO's is the number of samples, a mean that holds the sample itself takes
    one away, and a mean over two tokens halves it."""
    logits = table(0)
    found = expected_gradient(logits, logits, weigh, terms)
    torch.testing.assert_close(found, -scale * true_gradient(logits))


def test_reward_weighted_likelihood_goes_up_the_expected_reward_where_weights_hardly_differ():
    temperature = 1e4
    centred = advantages(name="reward_weighted")

    def weigh(rewards):
        return [math.exp(a / temperature) for a in centred(rewards)]

    logits = table(0)
    found = temperature * expected_gradient(logits, logits, weigh, weigh_likelihood)
    torch.testing.assert_close(found, -(GROUP - 1) * true_gradient(logits), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("clip", ["ppo", "cispo"])
def test_ratios_correct_for_the_weights_that_sampled_where_no_bound_is_met(clip):
    """Samples of one token each: there a token's ratio is the whole importance weight."""
    epsilons = {"eps_low": 0.99, "eps_high": 1e6}
    cfg = GrpoConfig(**PLAIN, clip=clip, **epsilons)
    rewards, weigh = torch.tensor([1.0, 0.0, 0.25], dtype=F64), advantages(name="grpo")
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=F64, requires_grad=True)
    other = torch.tensor([-0.4, 0.5, 0.2], dtype=F64).log_softmax(-1)
    new = logits.log_softmax(-1)
    total = torch.zeros((), dtype=F64)
    for group in itertools.product(range(3), repeat=GROUP):
        places = list(group)
        scored = make_scored(new[places], weigh(rewards[places].tolist()), old=other[places])
        total = total + other[places].sum().exp() * bound_policy(scored, cfg).sum()
    (found,) = torch.autograd.grad(total, logits)
    value = (new.exp() * rewards).sum()
    (expected,) = torch.autograd.grad((logits.softmax(-1) * rewards).sum(), logits)
    assert value > 0
    torch.testing.assert_close(found, -(GROUP - 1) * expected)


# -- GRPO ----------------------------------------------------------------------------------------

NEW = torch.tensor([-0.5, -1.2, -0.3, -2.0, -0.9], dtype=F64)
LENGTHS = (2, 3)


@pytest.mark.parametrize("options", [{}, {"clip": "cispo"}, {"kl": 0.3}, {"old": "trainer"}])
def test_at_a_ratio_of_1_the_gradient_is_the_likelihoods_weighted_by_advantage(options):
    source = {"old_logprobs": "trainer"} if options.pop("old", None) else PLAIN
    cfg = GrpoConfig(**source, **options)
    found = gradient(lambda new: bound_policy(make_scored(new, [0.7, -0.4], LENGTHS), cfg), NEW)
    expected = gradient(lambda new: weigh_likelihood(make_scored(new, [0.7, -0.4], LENGTHS)), NEW)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("kl", [0.0, 0.2])
def test_gradients_of_ratios_are_those_of_finite_differences(ratio, aggregation, kl):
    cfg = GrpoConfig(
        importance="tis", ratio=ratio, aggregation=aggregation, kl=kl, eps_low=0.3, eps_high=0.3
    )
    generator = torch.Generator().manual_seed(1)
    start = NEW + 0.4 * torch.randn(5, dtype=F64, generator=generator)
    sampled = start + 0.2 * torch.randn(5, dtype=F64, generator=generator)

    def loss(new: Tensor) -> Tensor:
        scored = make_scored(new, [0.7, -0.4], LENGTHS, old=sampled, start=start)
        return bound_policy(scored, cfg).sum()

    assert torch.autograd.gradcheck(loss, NEW.clone().requires_grad_())
    assert gradient(loss, NEW).abs().sum() > 0


@pytest.mark.parametrize(
    ("advantage", "ratio", "is_moved"),
    [
        (1.0, 1.29, False), (1.0, 1.27, True), (1.0, 0.5, True),
        (-1.0, 0.79, False), (-1.0, 0.81, True), (-1.0, 1.9, True),
    ],
)  # fmt: skip
def test_ppo_takes_the_gradient_where_a_ratio_would_go_farther_and_nowhere_else(
    advantage, ratio, is_moved
):
    new = torch.tensor([-1.0], dtype=F64)
    old = new - math.log(ratio)

    def moved(**options):
        cfg = GrpoConfig(**PLAIN, **options)
        return gradient(lambda x: bound_policy(make_scored(x, [advantage], old=old), cfg), new)

    assert bool(moved()[0] != 0) is is_moved
    assert moved(clip="cispo")[0] != 0
    sums = BoundedPolicy(GrpoConfig(**PLAIN)).measure(make_scored(new, [advantage], old=old))
    assert bool(sums["clipped"]) is not is_moved


@pytest.mark.parametrize(("ratio", "weight"), [(0.01, 0.01), (1.0, 1.0), (4.9, 4.9), (9.0, 5.0)])
def test_cispo_weighs_the_log_probability_by_the_clipped_ratio(ratio, weight):
    new = torch.tensor([-1.0], dtype=F64)
    cfg = GrpoConfig(**PLAIN, clip="cispo")
    old = new - math.log(ratio)
    for advantage in (0.5, -0.5):
        found = gradient(
            lambda x, a=advantage: bound_policy(make_scored(x, [a], old=old), cfg), new
        )
        torch.testing.assert_close(found, torch.tensor([-advantage * weight], dtype=F64))


def test_a_sequence_ratio_is_the_geometric_mean_and_clips_by_it_alone():
    cfg = GrpoConfig(**PLAIN, ratio="sequence")
    new = torch.tensor([-1.0, -1.0, -1.0, -1.0], dtype=F64)
    far_but_even = new - torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=F64)
    near_but_odd = new - 5e-4
    torch.testing.assert_close(
        find_ratios(new, far_but_even, (4,), "sequence"), torch.ones(4, dtype=F64)
    )

    def moved(old):
        return gradient(lambda x: bound_policy(make_scored(x, [1.0], (4,), old=old), cfg), new)

    assert (moved(far_but_even) != 0).all() and not moved(near_but_odd).any()
    two = find_ratios(
        torch.cat([new, new]), torch.cat([far_but_even, near_but_odd]), (4, 4), "sequence"
    )
    torch.testing.assert_close(two[4:], torch.full((4,), math.exp(5e-4), dtype=F64))


def test_ratios_that_no_number_can_hold_stay_finite():
    new = torch.tensor([-900.0, -0.1], dtype=F64)
    old = torch.tensor([-0.1, -900.0], dtype=F64)
    terms = bound_policy(make_scored(new, [-1.0, -1.0], old=old), GrpoConfig(**PLAIN))
    assert torch.isfinite(terms).all()


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_terms_of_parts_add_up_to_those_of_the_whole(aggregation):
    cfg = GrpoConfig(aggregation=aggregation, kl=0.1, importance="none")
    start = NEW + torch.tensor([0.1, -0.2, 0.3, 0.0, -0.1], dtype=F64)
    whole = bound_policy(make_scored(NEW, [0.7, -0.4], LENGTHS, start=start), cfg).sum()
    parts = [
        bound_policy(make_scored(NEW[p], [a], [len(NEW[p])], start=start[p]), cfg).sum()
        for p, a in ((slice(0, 2), 0.7), (slice(2, 5), -0.4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_tokens_or_rollouts_count_the_same():
    old = NEW - 0.1
    ratios = math.exp(0.1)
    by_token, by_rollout = (
        bound_policy(
            make_scored(NEW, [1.0, -2.0], LENGTHS, old=old), GrpoConfig(**PLAIN, aggregation=a)
        ).sum()
        for a in ("token", "sequence")
    )
    assert by_token.item() == pytest.approx(ratios * (-1.0 * 2 + 2.0 * 3))
    assert by_rollout.item() == pytest.approx(ratios * (-1.0 + 2.0))


def test_seed_thoughts_beside_groups_are_imitated():
    cfg = GrpoConfig(kl=0.5)
    far = NEW - 3.0
    scored = make_scored(NEW, [1.0, 1.0], LENGTHS, old=far, start=far, groups=[False, True])
    found = bound_policy(scored, cfg)
    torch.testing.assert_close(found[:2], -NEW[:2])
    assert not torch.allclose(found[2:], -NEW[2:])
    sums = BoundedPolicy(cfg).measure(scored)
    assert sums["tokens"] == 3 and sums["gap"] == 0


def test_the_pull_to_the_start_weights_is_k2():
    start = NEW + torch.tensor([0.1, -0.2, 0.3, 0.0, -0.1], dtype=F64)

    def loss(new, kl):
        return bound_policy(make_scored(new, [0.0, 0.0], LENGTHS, start=start), GrpoConfig(
            kl=kl, importance="none"))  # fmt: skip

    torch.testing.assert_close(loss(NEW, 0.5), 0.25 * (NEW - start).square())
    torch.testing.assert_close(gradient(lambda x: loss(x, 0.5), NEW), 0.5 * (NEW - start))


# -- importance weights ----------------------------------------------------------------------------


def test_log_probabilities_half_a_nat_too_high_weigh_e_to_the_minus_half():
    shifted = NEW + 0.5
    for kind in ("tis", "icepop"):
        found = weigh_tokens(NEW, shifted, LENGTHS, GrpoConfig(importance=kind))
        torch.testing.assert_close(found, torch.full((5,), math.exp(-0.5), dtype=F64))
    none = weigh_tokens(NEW, shifted, LENGTHS, GrpoConfig(importance="none"))
    assert (none == 1).all()


RATIOS = torch.tensor([0.4, 1.5, 6.0, 1.0, 5e-5], dtype=F64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"importance": "tis"}, [0.4, 1.5, 0, 0, 0]),
        ({"importance": "tis", "veto": 0}, [0.4, 1.5, 2.0, 1.0, 5e-5]),
        ({"importance": "icepop", "veto": 0}, [0.0, 1.5, 0.0, 1.0, 0.0]),
        ({"importance": "icepop", "importance_bounds": (0.1, 2.0)}, [0.4, 1.5, 0, 0, 0]),
        ({}, [0, 1.5, 0, 0, 0]),  # icepop; the second rollout has a token below the veto
    ],
)
def test_tokens_weigh_by_the_bounds_and_a_vetoed_rollout_nothing(options, expected):
    found = weigh_tokens(NEW, NEW - RATIOS.log(), LENGTHS, GrpoConfig(**options))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64))


def test_importance_weights_have_no_gradient():
    sampled = NEW - 0.1
    found = gradient(
        lambda new: bound_policy(
            make_scored(new, [1.0, 1.0], LENGTHS, old=sampled, start=NEW),
            GrpoConfig(importance="tis"),
        ),
        NEW,
    )
    torch.testing.assert_close(found, torch.full((5,), -math.exp(0.1), dtype=F64))


def test_what_a_step_was_is_said_before_any_cut():
    cfg = GrpoConfig()
    sampled = NEW - RATIOS.log()
    scored = make_scored(NEW, [1.0, -1.0], LENGTHS, old=sampled)
    objective = BoundedPolicy(cfg)
    sums = {name: float(value) for name, value in objective.measure(scored).items()}
    assert tuple(sums) == objective.names
    means = objective.summarise(sums)
    assert means["ratio_mean"] == 1.0 and means["clip_share"] == 0.0
    assert means["dropped_share"] == pytest.approx(4 / 5)
    assert means["sampler_gap"] == pytest.approx(RATIOS.log().abs().mean().item())
    effective = RATIOS.sum() ** 2 / (5 * RATIOS.square().sum())
    assert means["effective_share"] == pytest.approx(effective.item())
    assert means["entropy"] == pytest.approx(-NEW.mean().item())
    assert means["positive_share"] == 0.4 and means["start_kl"] == 0.0


# -- DPO -------------------------------------------------------------------------------------------

ROLES = ("chosen", "rejected", "chosen", "rejected")
PAIRS = (2, 3, 1, 2)
CHOSEN = torch.tensor([1, 1, 0, 0, 0, 1, 0, 0], dtype=torch.bool)


def pairs(new, start, roles=ROLES, lengths=PAIRS):
    return make_scored(new, [1.0] * len(lengths), lengths, start=start, roles=roles)


def logprobs(seed: int) -> Tensor:
    return -torch.rand(8, dtype=F64, generator=torch.Generator().manual_seed(seed)) - 0.1


@pytest.mark.parametrize("form", ["sigmoid", "length_normalised"])
def test_at_the_start_weights_the_loss_of_a_pair_is_ln_2(form):
    start = logprobs(0)
    found = prefer(pairs(start, start), DpoConfig(form=form))
    torch.testing.assert_close(found, torch.full((2,), math.log(2), dtype=F64))


def test_at_the_start_weights_the_gradient_is_half_beta_times_that_of_the_margin():
    start, cfg = logprobs(0), DpoConfig(beta=0.3)
    found = gradient(lambda new: prefer(pairs(new, start), cfg), start)
    margin = gradient(lambda new: find_margins(pairs(new, start), cfg), start)
    torch.testing.assert_close(found, -0.15 * margin)
    torch.testing.assert_close(margin, torch.where(CHOSEN, 1.0, -1.0).to(F64))


@pytest.mark.parametrize("form", ["sigmoid", "length_normalised", "ipo"])
def test_a_pair_the_other_way_round_has_the_opposite_margin(form):
    cfg = DpoConfig(form=form)
    new, start = logprobs(1), logprobs(0)
    turned = ("rejected", "chosen", "rejected", "chosen")
    found = find_margins(pairs(new, start), cfg)
    assert found.abs().min() > 0
    torch.testing.assert_close(find_margins(pairs(new, start, turned), cfg), -found)


def test_ipo_is_least_where_the_margin_is_one_over_twice_beta():
    cfg = DpoConfig(form="ipo", beta=0.25)
    start = logprobs(0)
    new = start + torch.where(CHOSEN, 1.0, -1.0).to(F64)  # means of 1 and -1: a margin of 2
    torch.testing.assert_close(find_margins(pairs(new, start), cfg), torch.full((2,), 2.0).to(F64))
    found = gradient(lambda x: prefer(pairs(x, start), cfg), new)
    torch.testing.assert_close(found, torch.zeros(8, dtype=F64))
    assert (prefer(pairs(start, start), cfg) == 4.0).all()


@pytest.mark.parametrize(
    ("form", "is_kept"), [("length_normalised", True), ("ipo", True), ("sigmoid", False)]
)
def test_twice_the_same_tokens_change_no_mean_per_token(form, is_kept):
    new, start = logprobs(1)[:5], logprobs(0)[:5]
    cfg, roles = DpoConfig(form=form), ROLES[:2]

    def doubled(values):
        first, second = values.split([2, 3])
        return torch.cat([first, first, second, second])

    once = prefer(pairs(new, start, roles, (2, 3)), cfg)
    twice = prefer(pairs(doubled(new), doubled(start), roles, (4, 6)), cfg)
    assert torch.allclose(once, twice) is is_kept


@pytest.mark.parametrize("form", ["sigmoid", "length_normalised", "ipo"])
def test_gradients_of_preferences_are_those_of_finite_differences(form):
    cfg = DpoConfig(form=form, sft_weight=0.7)
    start, new = logprobs(0), logprobs(1)
    assert torch.autograd.gradcheck(
        lambda x: prefer(pairs(x, start), cfg).sum(), new.clone().requires_grad_()
    )


def test_the_chosen_ones_likelihood_per_token_is_added():
    new, start = logprobs(1), logprobs(0)
    plain, added = (prefer(pairs(new, start), DpoConfig(sft_weight=w)) for w in (0.0, 2.0))
    expected = torch.stack([-2.0 * new[:2].mean(), -2.0 * new[5]])
    torch.testing.assert_close(added - plain, expected)


def test_seed_thoughts_beside_pairs_are_imitated_by_their_mean_token():
    new, start = logprobs(1), logprobs(0)
    scored = pairs(new, start, ("", "chosen", "rejected", ""), PAIRS)
    found = prefer(replace(scored, weights=scored.weights * torch.tensor(
        [1.0] * 6 + [0.0] * 2, dtype=F64)), DpoConfig())  # fmt: skip
    assert len(found) == 3 and found[1].item() == pytest.approx(-new[:2].mean().item())
    assert found[2] == 0.0  # a filler
    alone = prefer(pairs(new[:2], start[:2], ("",), (2,)), DpoConfig())
    assert alone.tolist() == pytest.approx([-new[:2].mean().item()])


def test_what_pairs_were_is_said():
    new, start = logprobs(1), logprobs(0)
    objective = Preference(DpoConfig())
    sums = {n: float(v) for n, v in objective.measure(pairs(new, start)).items()}
    assert tuple(sums) == objective.names
    means = objective.summarise(sums)
    margins = find_margins(pairs(new, start), DpoConfig())
    assert means["margin_mean"] == pytest.approx(margins.mean().item())
    assert means["preferred_share"] == (margins > 0).double().mean().item()


# -- what a loss is divided by ---------------------------------------------------------------------


def example(num_targets, **fields):
    return Example("e", (1, 2), range(num_targets), **fields)


SEED = example(5)
FILLER = example(7, weight=0.0)
GROUPED = [example(3, group="1/a", weight=0.5), example(4, group="1/a", weight=0.0)]
PAIR = [example(3, group="1/a/0", role="chosen"), example(4, group="1/a/0", role="rejected")]


@pytest.mark.parametrize(
    ("raw", "examples", "count"),
    [
        ({"name": "rloo"}, [SEED, FILLER, *GROUPED], 12),
        ({"name": "grpo"}, [SEED, FILLER, *GROUPED], 12),
        ({"name": "grpo", "grpo": {"aggregation": "sequence"}}, [SEED, FILLER, *GROUPED], 3),
        ({"name": "dpo"}, [SEED, FILLER, *PAIR], 2),
    ],
)
def test_a_filler_counts_nowhere_and_a_pair_once(raw, examples, count):
    objective = find_objective(ObjectiveConfig(**raw), examples)
    assert objective is not None and objective.count(examples) == count


def test_a_fit_without_groups_is_imitation_whatever_the_objective():
    assert find_objective(ObjectiveConfig(name="grpo"), [SEED]) is None
    assert find_objective(ObjectiveConfig(), GROUPED) is None


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, set()),
        ({"importance": "none"}, {"effective_share", "sampler_gap", "dropped_share"}),
        ({"old_logprobs": "sampler"}, {"start_kl", "sampler_gap", "dropped_share"}),
        ({"old_logprobs": "sampler", "kl": 0.1}, set()),
    ],
)
def test_what_needs_log_probabilities_that_nobody_noted_is_not_said(options, missing):
    objective = BoundedPolicy(GrpoConfig(**options))
    sums = objective.measure(make_scored(NEW, [1.0, -1.0], LENGTHS, old=NEW, start=NEW))
    said = objective.summarise({name: float(sums[name]) for name in objective.names})
    every = {"effective_share", "sampler_gap", "dropped_share", "start_kl"}
    assert every - said.keys() == missing


def test_the_mean_over_rollouts_goes_with_ratios_of_rollouts():
    assert GrpoConfig().counting == "token"
    assert GrpoConfig(ratio="sequence").counting == "sequence"
    assert GrpoConfig(ratio="sequence", aggregation="token").counting == "token"
