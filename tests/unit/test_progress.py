"""Long reading and writing is told from a process that hangs."""

import threading

from virgo_ray.train import progress
from virgo_ray.train.progress import beating


def test_bytes_that_move_are_reported_and_a_hang_is_not(monkeypatch):
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 0.001)
    counts = iter([0, 1, 100_000_000, 100_000_001, 200_000_000])
    looked_often = threading.Event()
    events = []

    def moved():
        value = next(counts, None)
        if value is None:
            looked_often.set()
        return 200_000_000 if value is None else value

    with beating("publish", events.append, moved):
        assert looked_often.wait(10)
    assert events == [
        {"phase": "publish"},
        {"phase": "publish", "bytes": 100_000_000},
        {"phase": "publish", "bytes": 200_000_000},
    ]


def test_what_a_process_writes_counts(tmp_path):
    before = progress._bytes_moved()
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)
    assert progress._bytes_moved() - before >= 1_000_000
