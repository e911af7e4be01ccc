"""What the parity probe found becomes metrics: the worst engine's, by kind of token."""

from collections import namedtuple

from virgo_ray.monitor.catalog import undeclared
from virgo_ray.monitor.watch import WatchedRollouts
from virgo_ray.records import PushReport, Weights
from virgo_ray.weights.probe_metrics import probe_metrics
from virgo_ray.weights.verdict import KINDS, Change, Deviation


def change(share):
    return Change(num=100, rms=0.5, share=share, error=0.001)


def test_the_worst_of_several_engines_is_told_by_kind():
    one = [Deviation("text", 9, 0.1, 0.3, 0.4, change(1.01)), Deviation("image", 9, 0.3, 0.2, 0.5)]
    other = [Deviation("text", 9, 0.2, 0.1, 0.9, change(0.9)), Deviation("image", 9, 0.1, 0.4, 0.6)]
    assert probe_metrics([one, other]) == {
        "probe/text_rms": 0.2, "probe/text_p99": 0.3, "probe/text_share": 0.9,
        "probe/image_rms": 0.3, "probe/image_p99": 0.4,
    }  # fmt: skip


def test_what_was_not_asked_has_no_number_and_the_cache_has_its_share_alone():
    found = [Deviation("text"), Deviation("image"), Deviation("cached", 8, 0.1, 0.3, 0.4)]
    assert probe_metrics([found]) == {} and probe_metrics([]) == {}
    found[2] = Deviation("cached", 8, 0.1, 0.3, 0.4, change(1.02))
    assert probe_metrics([found]) == {"probe/cached_share": 1.02}


def test_a_push_logs_all_of_them_under_declared_names():
    numbers = probe_metrics([[Deviation(kind, 9, 0.1, 0.3, 0.4, change(1.0)) for kind in KINDS]])
    Fakes = namedtuple("Fakes", "push")
    logged = {}

    class Monitor:
        def phase(self, name):
            pass

        def event(self, kind, **values):
            logged.update(values)
            assert not list(undeclared(kind, values))

    report = PushReport(1, 0.0, 0.0, 0.0, probe=numbers)
    WatchedRollouts(Fakes(lambda weights: report), Monitor()).push(Weights(1, "v0001"))
    assert len(numbers) == 7 and numbers.items() <= logged.items()
