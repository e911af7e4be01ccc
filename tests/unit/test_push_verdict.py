"""Whether an engine serves the new weights: the parity probe's statistics, on made-up values."""

import math
import random
import re
from dataclasses import replace

import pytest

from virgo_ray.actors.faults import Fault
from virgo_ray.actors.rollouts.target import Target
from virgo_ray.config import load_config
from virgo_ray.errors import ConfigError, WeightsError
from virgo_ray.records import Weights
from virgo_ray.weights.noise import forget_noise, load_noise, save_noise, setup_of
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.verdict import (
    Evidence,
    Noise,
    Tolerance,
    compare,
    faults,
    largest,
    measure,
    tolerance_of,
    worst_noise,
)

TEXT = ProbeItem((1, 2), (3, 4))
IMAGE = ProbeItem((1, 9, 2), (5,), "/images/cat.png")
SIGMA, CHANGE, ABSOLUTE = 0.03, 0.16, Tolerance(0.5)  # as in bfloat16
NOISE = {"text": Noise(SIGMA, 0.08), "image": Noise(SIGMA, 0.08)}
NUM = 500  # tokens of text, and of pictures


def made_probe(change=CHANGE):
    """Values of two versions that differ by `change` (RMS)."""
    rng = random.Random(0)
    items = (ProbeItem((1,) * 200, (2,) * NUM), ProbeItem((9,) * 200, (2,) * NUM, "/a.png"))
    old = tuple(tuple(rng.gauss(-3, 1) for _ in range(NUM)) for _ in items)
    new = tuple(tuple(x + rng.gauss(0, change) for x in row) for row in old)
    return Probe(items, new, old)


def evidence(probe, share=1.0, sigma=SIGMA, cached_share=None, seed=1):
    """What an engine says that went `share` of the way from the weights before to the new ones."""
    rng = random.Random(seed)

    def say(i, j, went):
        new, old = probe.logprobs[i][j], probe.before[i][j]
        return old + went * (new - old) + rng.gauss(0, sigma)

    rows = [[say(i, j, share) for j in range(NUM)] for i in range(2)]
    went = share if cached_share is None else cached_share
    return Evidence(rows, {}, [say(i, j, went) for i, j in probe.cached_places()])


def said(probe, found, noise=NOISE, tolerance=ABSOLUTE):
    return " ".join(faults(measure(probe, found, noise), tolerance, noise))


def test_right_weights_raise_no_alarm_in_a_hundred_pushes():
    probe = made_probe()
    assert not any(said(probe, evidence(probe, seed=s)) for s in range(100))


def test_engines_that_kept_the_weights_before_are_found_below_every_limit_of_distance():
    probe = made_probe()
    stale = evidence(probe, share=0.0)
    assert max(d.p99 for d in compare(probe, stale.logprobs)) < ABSOLUTE.p99
    words = said(probe, stale, noise={})
    assert re.search(r"text: -?0\.0\d of the way from the weights before", words)
    assert "RMS of the differences" in said(probe, stale)  # by the noise of version 0, too


def test_a_part_of_the_weights_that_is_stale_shows_in_the_way_alone():
    """A layer of ten: the distance is within three times the noise, the way is not whole."""
    probe = made_probe(change=0.3)
    words = said(probe, evidence(probe, share=0.8))
    for kind in ("text", "image"):
        assert re.search(rf"{kind}: 0\.(79|8\d) of the way", words)
    assert "text: RMS" not in words and "image: RMS" not in words


def test_a_prefix_cache_that_was_not_emptied_is_found():
    probe = made_probe()
    words = said(probe, evidence(probe, cached_share=0.3))
    assert "cached: 0.3" in words and "text" not in words and "image" not in words


def test_the_few_tokens_through_the_cache_are_not_judged_by_distance():
    """They are those that changed most: the uncertain ones, whose noise is the largest."""
    probe = made_probe(change=1.0)
    found = evidence(probe)
    rng = random.Random(3)
    loud = [probe.logprobs[i][j] + rng.choice((-0.25, 0.25)) for i, j in probe.cached_places()]
    assert said(probe, replace(found, cached=loud)) == ""
    assert re.match(r"cached: -?0\.0", said(probe, evidence(probe, cached_share=0.0)))
    assert "cached: a log" in said(probe, replace(found, cached=[math.nan, *loud[1:]]))


def test_text_and_pictures_are_judged_apart():
    probe = made_probe()
    found = evidence(probe)
    off = replace(found, logprobs=[found.logprobs[0], [x + 0.3 for x in found.logprobs[1]]])
    words = said(probe, off)
    assert re.search(r"image: RMS of the differences 0\.(29|3)", words) and "text:" not in words
    assert "expected at most 0.09 (3 times the noise of version 0" in words


def test_versions_that_hardly_differ_say_nothing_about_the_way():
    probe = made_probe(change=0.01)
    assert {d.change for d in measure(probe, evidence(probe), NOISE)} == {None}
    assert said(probe, evidence(probe)) == ""


def heavy_tailed(num, change, seed, share=1.0):
    """A probe and what an engine says, both with noise of RMS `SIGMA` that differs by token."""
    rng = random.Random(seed)
    spread = [math.exp(rng.gauss(0, 1)) for _ in range(2 * num)]
    size = math.sqrt(sum(x * x for x in spread) / len(spread))

    def noisy(values):
        pairs = zip(values, spread, strict=True)
        return [x + SIGMA / math.sqrt(2) * s / size * rng.gauss(0, 1) for x, s in pairs]

    old = [rng.gauss(-3, 1) for _ in spread]
    new = [x + rng.gauss(0, change * SIGMA) for x in old]
    served = noisy(o + share * (n - o) for o, n in zip(old, new, strict=True))
    halves = [(tuple(v[:num]), tuple(v[num:])) for v in (noisy(new), noisy(old))]
    items = (ProbeItem((1,) * 200, (2,) * num), ProbeItem((9,) * 200, (2,) * num, "/a.png"))
    probe = Probe(items, *halves)
    cached = [served[i * num + j] for i, j in probe.cached_places()]
    return probe, Evidence((served[:num], served[num:]), {}, cached)


@pytest.mark.parametrize("num", [300, 1000])
def test_small_changes_under_heavy_tailed_noise_raise_no_alarm_and_kept_weights_do(num):
    noise = {kind: Noise(SIGMA, 4 * SIGMA) for kind in NOISE}
    for change in (0, 0.5, 1):
        assert not any(said(*heavy_tailed(num, change, s), noise) for s in range(9000 // num))
    words = said(*heavy_tailed(num, 8, 0, share=0.0), noise)
    assert all(re.search(rf"{kind}: -?0\.0\d of the way", words) for kind in (*NOISE, "cached"))


def test_a_fault_at_version_0_does_not_become_the_norm():
    probe = replace(made_probe(), before=())
    wrong = Evidence([[x + 0.4 for x in row] for row in probe.logprobs], {}, [-3.0] * 16)
    found = measure(probe, wrong, {})
    assert "the absolute limit" in " ".join(faults(found, ABSOLUTE, {}))
    noise = worst_noise([found])
    assert noise["text"].rms == pytest.approx(0.4)
    assert "expected at most 0.167" in " ".join(faults(found, ABSOLUTE, noise))


def test_the_worst_engine_gives_the_noise():
    probe = made_probe()
    engines = [compare(probe, evidence(probe, sigma=s).logprobs) for s in (0.01, 0.05, 0.02)]
    assert worst_noise(engines)["image"].rms == pytest.approx(0.05, rel=0.2)


def test_the_noise_is_kept_for_the_setup_it_was_measured_on_and_forgotten(tmp_path, caplog):
    eager, graphs = (
        setup_of(load_config("configs/tiny.yaml", [f"rollout.enforce_eager={is_eager}"]))
        for is_eager in ("true", "false")
    )
    assert load_noise(tmp_path, eager) == {}
    (tmp_path / "v0000").mkdir()
    save_noise(tmp_path, NOISE, eager)
    assert load_noise(tmp_path, eager) == NOISE
    assert load_noise(tmp_path, graphs) == load_noise(tmp_path, graphs) == {}
    assert caplog.text.count("judged by the absolute limits") == 1
    (tmp_path / "v0000" / "probe_noise.json").write_text("[]")
    assert load_noise(tmp_path, eager) == {}
    forget_noise(tmp_path)
    assert not any((tmp_path / "v0000").iterdir())


@pytest.mark.parametrize(
    "override",
    [
        "rollout.engine_args.quantization=fp8", "train.packing=false", "train.liger=true",
        "model.head_dtype=float32",
    ],
)  # fmt: skip
def test_noise_is_of_the_engines_and_the_trainer_that_it_was_measured_with(override):
    usual = setup_of(load_config("configs/tiny.yaml"))
    assert usual == (
        "model.dtype=float32, rollout.gpus_per_worker=None, rollout.enforce_eager=True"
    )
    assert setup_of(load_config("configs/tiny.yaml", [override])) != usual


def test_the_absolute_limit_comes_with_the_dtype_unless_it_is_said():
    def limit(*overrides):
        return tolerance_of(load_config("configs/tiny.yaml", overrides))

    assert limit() == Tolerance(1e-3) and limit("model.dtype=bfloat16") == Tolerance(0.5)
    assert limit("push.max_logprob_diff=0.02") == Tolerance(0.02, is_set=True)


def test_without_noise_of_version_0_kept_weights_show_in_float32_too():
    """As in a run that an earlier version began."""
    probe, allowed = made_probe(change=0.011), Tolerance(0.01)
    target = Target(Weights(2, "w"), probe)
    with pytest.raises(Fault, match=r"0\.\d\d of the way"):
        target.judge(evidence(probe, share=0.0, sigma=1e-4), allowed)
    target.judge(evidence(probe, sigma=1e-4), allowed)
    assert [Tolerance(p99).unknown_noise for p99 in (0.5, 3e-3)] == [0.05, pytest.approx(1e-3)]


def test_too_few_tokens_to_judge_by_are_refused_at_the_start():
    with pytest.raises(ConfigError, match=r"probe_tokens.*200"):
        load_config("configs/tiny.yaml", ["push.probe_tokens=40"])


def test_a_limit_that_the_user_sets_holds_whatever_the_noise_of_version_0():
    """Else its message would advise what cannot help."""
    probe = made_probe(change=1.0)
    louder = evidence(probe, sigma=4 * SIGMA)
    assert "of version 0, weights/v0000/probe_noise.json" in said(probe, louder)
    assert said(probe, louder, tolerance=Tolerance(0.5, is_set=True)) == ""
    words = said(probe, louder, tolerance=Tolerance(0.2, is_set=True))
    assert "99th percentile" in words and "expected at most 0.2 (push.max_logprob_diff)" in words


def test_differences_of_text_and_pictures_are_reported_apart():
    probe = Probe((TEXT, IMAGE), ((-1.0, -2.0), (-3.0,)))
    found = [compare(probe, [[-1.25, -2.0], [-1.0]])]
    assert (largest(found, "text"), largest(found, "image"), largest(found)) == (0.25, 2.0, 2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_infinitely_wrong(bad):
    probe = Probe((TEXT,), ((-1.0, -2.0),), ((-1.5, -2.5),))
    for row, theirs in ((probe.logprobs[0], bad), ((-1.0, bad), bad)):
        found = compare(replace(probe, logprobs=(row,)), [[-1.0, theirs]])
        assert largest([found], "text") == math.inf and faults(found, ABSOLUTE, {})


def test_a_missing_score_is_refused():
    probe = Probe((TEXT, IMAGE), ((-1.0, -2.0), (-3.0,)))
    with pytest.raises(WeightsError, match=r"scored \[2\] tokens, expected \[2, 1\]"):
        compare(probe, [[-1.0, -2.0]])
    with pytest.raises(WeightsError, match=r"0 tokens through its prefix cache, expected 3"):
        measure(probe, Evidence(probe.logprobs), {})


def test_a_worker_that_read_other_bytes_is_refused_whatever_it_scores():
    probe = made_probe()
    target = Target(Weights(2, "w"), probe, {"model.safetensors": "ab" * 32}, NOISE)
    right = replace(evidence(probe), read=target.checksums)
    assert len(target.judge(right, ABSOLUTE)) == 3
    for read, words in (({"model.safetensors": "cd" * 32}, "cdcd"), ({}, "nothing")):
        with pytest.raises(Fault, match=f"read model.safetensors with sha256 {words}.*abab"):
            target.judge(replace(right, read=read), ABSOLUTE)


def test_the_places_asked_through_the_cache_are_those_that_changed_most():
    items = (ProbeItem((1,) * 140, (2,) * 40), ProbeItem((1,) * 10, (3,) * 20))
    old = ((-1.0,) * 40, (-1.0,) * 20)
    new = (tuple(-1.0 - j / 100 * (j % 2) for j in range(40)), (-9.0,) * 20)
    probe = Probe(items, new, old)
    assert probe.cached_places() == [(0, j) for j in range(25, 40, 2)]
    asked = probe.cached_items()
    assert {item.target_ids for item in asked} == {(2,)}
    assert [len(item.prompt_ids) for item in asked] == [140 + j for j in range(25, 40, 2)]
    assert replace(probe, before=()).cached_places() == [(0, j) for j in range(32, 40)]
