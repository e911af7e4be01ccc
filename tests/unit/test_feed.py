"""Micro-batches made ahead of their step: the same tensors, in order, within a bound."""

import random
import threading
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.distributed import HashStore

from virgo_ray.config import ModelConfig
from virgo_ray.errors import DataError
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import Example
from virgo_ray.train import feed as feed_module
from virgo_ray.train import pictures, process
from virgo_ray.train.batch import Batcher
from virgo_ray.train.feed import THREAD_NAME, Feed

CPU = torch.device("cpu")
NUM_MICRO_BATCHES = 12
SIDES = (64, 80, 96)  # pixels


def new_batcher():
    return Batcher(str(TINY_DIRECTORY), ModelConfig(path=str(TINY_DIRECTORY), max_length=512), CPU)


@pytest.fixture(scope="module")
def batcher():
    return new_batcher()


@pytest.fixture(scope="module")
def micro_batches(batcher, tmp_path_factory):
    """Of two examples each: one with a picture of its own, one of text; the last is text alone."""
    directory = tmp_path_factory.mktemp("pictures")
    rng = random.Random(0)
    made = []
    for number in range(NUM_MICRO_BATCHES - 1):
        path = directory / f"{number}.png"
        side = rng.choice(SIDES)
        Image.effect_noise((side, side), 100).convert("RGB").save(path)
        made.append([with_picture(batcher, str(path)), text(5 + number)])
    return [*made, [text(9)]]


def with_picture(batcher, path):
    image_id = batcher._image_id
    ids = [1, image_id, 2]
    seen = batcher.prepare([Example("look", ids, [3, 4], (path,))]).inputs["input_ids"]
    return Example(path, ids, [3, 4], (path,), num_tokens=seen.shape[1])


def text(length):
    return Example(f"text-{length}", list(range(1, length)), [7, 8], num_tokens=length + 1)


def assert_equal(batch, expected):
    assert batch.inputs.keys() == expected.inputs.keys()
    for name, tensor in expected.inputs.items():
        assert torch.equal(batch.inputs[name], tensor), name
    for name in ("places", "targets", "weights"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name


def threads_left():
    return [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_is_made_ahead_is_to_the_bit_what_is_made_in_place(micro_batches, num_threads):
    alone = new_batcher()
    state = torch.get_rng_state()
    with Feed(new_batcher(), micro_batches, num_threads) as feed:
        for examples in micro_batches:
            assert_equal(feed.take(), alone.collate(examples))
        with pytest.raises(IndexError):
            feed.take()
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unreadable_picture_is_an_error_of_its_own_micro_batch(batcher, micro_batches):
    bad = replace(micro_batches[2][0], images=("nowhere.png",))
    with pytest.raises(DataError) as alone:
        batcher.collate([bad])
    with Feed(batcher, [*micro_batches[:2], [bad], *micro_batches[3:]], 3) as feed:
        feed.take()
        feed.take()
        with pytest.raises(DataError) as ahead:
            feed.take()
        assert_equal(feed.take(), batcher.collate(micro_batches[3]))
    assert str(ahead.value) == str(alone.value)


def test_no_thread_is_left_after_an_error(batcher, micro_batches):
    with pytest.raises(KeyboardInterrupt), Feed(batcher, micro_batches, 3) as feed:
        feed.take()
        assert len(threads_left()) == 3
        raise KeyboardInterrupt
    assert threads_left() == []


@pytest.mark.parametrize("num_that_run", [0, 2])
def test_a_thread_that_cannot_settle_is_the_error_of_the_fit(
    batcher, micro_batches, monkeypatch, num_that_run
):
    running = iter(range(num_that_run))

    def set_num_threads(number):
        if next(running, None) is None:
            raise RuntimeError("no context on this device")

    monkeypatch.setattr(feed_module.torch, "set_num_threads", set_num_threads)
    with pytest.raises(RuntimeError, match="no context on this device"):
        Feed(batcher, micro_batches, 3).__enter__()
    assert threads_left() == []


def test_a_thread_that_cannot_be_started_is_the_error_of_the_fit(
    batcher, micro_batches, monkeypatch
):
    start, started = threading.Thread.start, []

    def start_two(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Feed(batcher, micro_batches, 3).__enter__()
    assert len(started) == 2 and threads_left() == []


def test_threads_that_do_not_run_in_time_are_named(batcher, micro_batches, monkeypatch):
    monkeypatch.setattr(feed_module, "START_DEADLINE_S", 0.1)
    feed = Feed(batcher, micro_batches, 3)
    feed._started = threading.Barrier(4)  # as if one never came
    with pytest.raises(RuntimeError, match=r"3 of 3 threads .* did not run within 0.1 s"):
        feed.__enter__()
    assert threads_left() == []


def test_what_is_ahead_stays_within_its_bytes(batcher, micro_batches):
    sizes = [batcher.num_pixel_bytes(examples) for examples in micro_batches]
    pixels = [batcher.prepare(examples).inputs["pixel_values"] for examples in micro_batches]
    assert sizes == [tensor.nbytes for tensor in pixels]
    bound = 2 * max(sizes)
    seen = []
    with Feed(batcher, micro_batches, 8, bound) as feed:
        for _ in micro_batches:
            seen.append(feed.num_bytes_ahead())
            feed.take()
    assert max(sizes) < max(seen) <= bound


def test_a_micro_batch_larger_than_the_bound_is_made_alone(batcher, micro_batches):
    with Feed(batcher, micro_batches, 8, 1) as feed:
        for examples in micro_batches:
            assert feed.num_bytes_ahead() == batcher.num_pixel_bytes(examples)
            assert_equal(feed.take(), batcher.collate(examples))


def test_threads_that_make_micro_batches_leave_torchs_own_alone(batcher, micro_batches):
    before = torch.get_num_threads()
    later = []
    try:
        torch.set_num_threads(3)
        with Feed(batcher, micro_batches, 2):
            assert torch.get_num_threads() == 3
            thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
            thread.start()
            thread.join(timeout=10)
    finally:
        torch.set_num_threads(before)
    assert later == [3]


def test_threads_that_want_the_same_picture_process_it_once(micro_batches, monkeypatch):
    opened = []

    def slowly(path):
        opened.append(path)
        time.sleep(0.2)
        return Image.open(path).convert("RGB")

    monkeypatch.setattr(pictures, "load_image", slowly)
    with Feed(new_batcher(), [micro_batches[0]] * 4, 4) as feed:
        for _ in range(4):
            feed.take()
    assert opened == list(micro_batches[0][0].images)


def test_memory_that_is_given_back_is_the_gpus_and_what_is_pinned_for_it(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("device"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: emptied.append("host"))
    process.free_memory()
    assert emptied == ["device", "host"]


def test_ranks_share_the_cores_of_their_own_host(monkeypatch):
    store = HashStore()
    store.set("host/2", "another kernel")
    found = []
    ranks = [
        threading.Thread(
            target=lambda r=rank: found.append(process.num_ranks_here(r, 3, store, 30))
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=30)
    assert found == [2, 2]
    with pytest.raises(RuntimeError):
        process.num_ranks_here(0, 4, store, deadline_s=0.1)
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda pid: set(range(12)))
    before = torch.get_num_threads()
    try:
        process.settle(3)
        assert (torch.get_num_threads(), process.num_spare_threads()) == (4, 3)
        process.settle(64)
        assert (torch.get_num_threads(), process.num_spare_threads()) == (1, 1)
    finally:
        torch.set_num_threads(before)
