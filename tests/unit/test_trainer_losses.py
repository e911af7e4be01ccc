"""How the trainer group takes what becomes of its ranks, without any."""

import logging

import pytest
from ray import exceptions

from virgo_ray.actors.trainers import group as module
from virgo_ray.actors.trainers.group import GroupLost, TrainerGroup
from virgo_ray.config import parse_config
from virgo_ray.errors import TrainingError
from virgo_ray.records import Weights


@pytest.fixture
def group(tmp_path):
    source, sampling = {"reader": "tiny"}, {"sampling": {"max_tokens": 100}}
    return TrainerGroup(
        parse_config(
            {
                "name": "losses",
                "run_dir": str(tmp_path),
                "model": {"path": "tiny", "max_length": 384},
                "data": {"train": source, "heldout": source, "seed_thoughts": source},
                "explore": {"num_problems": 1, "num_samples": 1, **sampling},
                "evaluate": sampling,
                "train": {"max_restarts": 2},
            }
        )
    )


def raising(error):
    def get(*_, **__):
        raise error

    return get


@pytest.mark.parametrize(
    "error",
    [
        exceptions.OutOfMemoryError("the node ran low on memory"),
        exceptions.ObjectLostError("0" * 56, None, "here"),
        exceptions.ActorUnavailableError("the worker is gone", None),
        exceptions.NodeDiedError("the node died"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_way_in_which_ray_says_that_a_rank_is_gone_is_a_loss(group, monkeypatch, error):
    monkeypatch.setattr(module.ray, "get", raising(error))
    with pytest.raises(GroupLost):
        group._reply(None, 1.0)


def test_what_a_rank_raised_on_purpose_is_handed_on_and_not_tried_again(group, monkeypatch):
    error = TrainingError("out of memory in micro-batch 2 of 3")
    wrapped = exceptions.RayTaskError("fit", "Traceback ...", error)
    monkeypatch.setattr(module.ray, "get", raising(wrapped))
    calls = []

    def call():
        calls.append(1)
        return group._reply(None, 1.0)

    with pytest.raises(TrainingError, match="out of memory in micro-batch 2"):
        group._with_restarts("fit", call)
    assert len(calls) == 1


def test_restarts_are_counted_from_the_last_checkpoint_on(group):
    """Two restarts in a row are allowed: ten deaths with a checkpoint between any two are borne."""
    deaths = []

    def dies_between_checkpoints():
        deaths.append(1)
        if len(deaths) > 10:
            return "published"
        group._saved_step = len(deaths)
        raise GroupLost("a node was preempted")

    assert group._with_restarts("fit", dies_between_checkpoints) == "published"


def test_deaths_without_a_checkpoint_in_between_end_the_fit(group):
    deaths = []

    def dies_at_once():
        deaths.append(1)
        group._saved_step = min(len(deaths), 2)
        raise GroupLost("a rank died")

    with pytest.raises(TrainingError, match="failed 3 times without a checkpoint in between"):
        group._with_restarts("fit", dies_at_once)
    assert len(deaths) == 4  # the second one brought a checkpoint, two restarts more did not


def test_what_a_fit_has_to_say_is_logged_where_the_user_reads(group, monkeypatch, caplog):
    class Progress:
        @staticmethod
        def remote(seen):
            return [{"notice": "v0001 is damaged"}, {"saved_step": 7}, {"step": 8}][seen:]

    group._workers = [type("Worker", (), {"progress": Progress})]
    monkeypatch.setattr(module.ray, "get", lambda events, timeout: events)
    with caplog.at_level(logging.WARNING):
        assert group._relay_events() and not group._relay_events()
    assert "v0001 is damaged" in caplog.text
    assert (group._saved_step, group._last_step) == (7, 8)


def test_a_version_that_died_with_a_rank_is_known_to_be_trained_again(group, monkeypatch):
    weights, called = Weights(3, "v0003"), []
    group._unsettled = (None, Weights(0, "base"), 3, False)
    monkeypatch.setattr(group, "_build", lambda: group._workers.append("rank"))
    monkeypatch.setattr(group, "_call", lambda method, *_, **__: called.append(method))
    assert not group.was_trained_again(weights) and not group.try_settle()
    group.settle()
    assert called == ["fit", "settle"] and group.was_trained_again(weights)


@pytest.mark.parametrize("is_lost", [False, True])
def test_ranks_that_do_not_give_memory_back_are_ended(group, monkeypatch, is_lost):
    def call(method):
        assert method == "release"
        if is_lost:
            raise GroupLost("release: no progress")

    group._workers = ["rank"]
    monkeypatch.setattr(group, "_call", call)
    monkeypatch.setattr(module.ray, "kill", lambda worker: None)
    group.release()
    assert bool(group._workers) != is_lost
    group.release()
