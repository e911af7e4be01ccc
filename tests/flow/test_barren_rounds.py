"""A run that gets nothing new accepted stops, and goes on once it may."""

from dataclasses import replace
from pathlib import Path

import pytest
from flow_fakes import FakeRollouts, Process, small_config, stored

from virgo_ray.errors import NoProgressError
from virgo_ray.ledger.file import read_state
from virgo_ray.store.dataset import locate_store
from virgo_ray.store.reader import TraceReader

USUAL = ("rounds=6", "gates=null", "explore.num_problems=5", "explore.max_barren_rounds=2")


def config(tmp_path, *overrides):
    return small_config(tmp_path, *USUAL, *overrides)


def news(cfg):
    """What the ledger counted as new, round by round, which must be what the store says."""
    rounds = read_state(Path(cfg.run_dir) / "ledger.json")["rounds"]
    counted = {int(t): r["explored"]["new"] for t, r in rounds.items() if t != "0"}
    reader = TraceReader.open(locate_store(cfg.run_dir, cfg.store))
    assert counted == {t: reader.num_new(t) for t in counted}
    return [counted[t] for t in sorted(counted)]


@pytest.mark.parametrize("said", ["wrong", "the same"])
def test_rounds_without_anything_new_stop_the_run_and_a_larger_limit_goes_on(
    tmp_path, monkeypatch, said
):
    """From the weights of round 1 on the model is always wrong, or repeats itself."""
    sample = FakeRollouts.rollout

    def rollout(self, request, sampling):
        made = sample(self, request, sampling)
        text = "wrong 0" if said == "wrong" else f"{request.problem.answer} 0"
        return replace(made, text=text) if self.version >= 2 else made

    monkeypatch.setattr(FakeRollouts, "rollout", rollout)
    cfg = config(tmp_path)
    with pytest.raises(NoProgressError, match=r"2 rounds in a row .*max_barren_rounds=2"):
        Process(cfg).run()
    first = news(cfg)
    assert first[-2:] == [0, 0] and first[0] > 0 and all(first[:-2])
    before = stored(cfg)
    with pytest.raises(NoProgressError):  # the same command ends the same way, and asks nothing
        Process(cfg).run()
    assert stored(cfg) == before
    more = config(tmp_path, "explore.max_barren_rounds=3")
    with pytest.raises(NoProgressError, match="3 rounds in a row"):
        Process(more).run()
    assert news(cfg) == [*first, 0]
    assert before.items() <= stored(cfg).items()
    assert Process(config(tmp_path, "explore.max_barren_rounds=9")).run().labels[-1] == 6
