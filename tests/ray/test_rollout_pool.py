"""The rollout pool on a real local Ray cluster, with real engines on the bundled tiny model."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import ray
from PIL import Image, ImageDraw

from virgo_ray.actors.placement import make_placement
from virgo_ray.actors.ray_metrics import RayMetricsSink
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.rollouts.slot import State
from virgo_ray.config import Config, SamplingConfig, load_config
from virgo_ray.errors import PushError, RolloutError, WeightsError
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.monitor.prometheus import samples
from virgo_ray.records import Problem, Request, Weights
from virgo_ray.weights.probe import Probe, ProbeItem, probe_path

ROOT = Path(__file__).resolve().parents[2]
SHORT = SamplingConfig(max_tokens=8)
LONG = SamplingConfig(max_tokens=250, temperature=1.5)
BASE = Weights(0, resolve_model("tiny"))


@pytest.fixture(scope="module", autouse=True)
def _short_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virgo_ray.actors.restarts.PAUSE_S", 0.2)
        yield


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Config:
    run_dir = tmp_path_factory.mktemp("pool")
    overrides = (
        f"run_dir={run_dir}", "rollout.max_in_flight=4", "rollout.enforce_eager=true",
        "rollout.kv_cache_gib=0.1", "rollout.max_restarts=1", "rollout.stall_deadline_s=200",
    )  # fmt: skip
    return load_config(str(ROOT / "configs/tiny.yaml"), overrides)


@pytest.fixture(scope="module")
def picture(cfg: Config) -> str:
    path = Path(cfg.run_dir) / "picture.png"
    image = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(image).rectangle((20, 20, 40, 40), fill="red")
    image.save(path)
    return str(path)


@pytest.fixture(scope="module")
def pool(cfg: Config, picture: str) -> Iterator[RolloutPool]:
    """One pool for all tests: engines start slowly. It serves the base model, proven by itself."""
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 1024**2,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    placement = make_placement(cfg)
    with closing(RolloutPool(cfg, placement)) as pool:
        pool.come_up()
        write_probe(cfg, pool, picture)
        yield pool
    placement.release()
    ray.shutdown()


def write_probe(cfg: Config, pool: RolloutPool, picture: str) -> None:
    """What a trainer would do; here the first engine plays the trainer."""
    prompter = Prompter(cfg.model, cfg.prompt)
    items = tuple(
        ProbeItem(prompter.prompt_ids(problem), (40, 41, 42), next(iter(problem.images), None))
        for problem in (ask(0).problem, ask(0, picture).problem)
    )
    evidence = ray.get(pool.slots[0].actor.load.remote(BASE, items, ()), timeout=120)
    Probe(items, tuple(tuple(row) for row in evidence.logprobs)).save(probe_file(cfg))


def probe_file(cfg: Config) -> Path:
    return probe_path(Path(cfg.run_dir) / "weights", 0)


def ask(index: int, picture: str | None = None) -> Request:
    images = (picture,) if picture else ()
    return Request(Problem(f"p{index}", "How many squares?", "1", images), 0, seed=index)


def test_sampling_before_the_first_push_is_refused(pool: RolloutPool) -> None:
    with pytest.raises(RolloutError, match="before the first push"):
        next(pool.sample([ask(0)], SHORT))


def test_ray_exports_our_metrics_and_those_of_vllm_as_the_dashboard_asks(pool: RolloutPool) -> None:
    """Read as Prometheus reads them; the names of the dashboard come from the same sources as those
    that tests/unit/test_grafana.py holds it against."""
    pool.push(BASE)
    assert len(list(pool.sample([ask(i) for i in range(4)], SHORT))) == 4
    sink = RayMetricsSink("tiny", samples)
    for done in (2, 3):
        sink.write({"kind": "sampling", "phase": "sample", "round": 1, "rollouts_total": done})
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        "ray_virgo_ray_sampling_rollouts_total counter",
        "ray_virgo_ray_round gauge",
        "ray_vllm_num_requests_running gauge",
        "ray_vllm_kv_cache_usage_perc gauge",
        "ray_vllm_generation_tokens_total counter",
        "ray_vllm_prompt_tokens_total counter",
        "ray_vllm_time_to_first_token_seconds histogram",
    }
    deadline = time.monotonic() + 120
    while True:
        text = urllib.request.urlopen(address, timeout=20).read().decode()
        seen = set(re.findall(r"^# TYPE (\w+ \w+)$", text, re.MULTILINE))
        if wanted <= seen:
            break
        assert time.monotonic() < deadline, f"not exported: {sorted(wanted - seen)}"
        time.sleep(0.5)
    (line,) = re.findall(r"^ray_virgo_ray_sampling_rollouts_total\{.*", text, re.MULTILINE)
    assert 'run="tiny"' in line and 'phase="sample"' in line and line.endswith(" 3.0")
    assert "ray_vllm_time_to_first_token_seconds_bucket{" in text


def test_a_push_proves_every_worker_and_does_nothing_the_second_time(
    pool: RolloutPool, picture: str
) -> None:
    report = pool.push(BASE)
    assert report.version == 0
    assert max(report.max_diff_text, report.max_diff_image) < 1e-3
    assert [slot.state for slot in pool.slots] == [State.SERVING, State.SERVING]
    assert pool.push(BASE).seconds < report.seconds + 1
    rollouts = list(pool.sample([ask(i, picture) for i in range(12)], SHORT))
    assert sorted(r.key for r in rollouts) == sorted(ask(i).key for i in range(12))
    assert {r.weights_version for r in rollouts} == {0}
    assert {r.worker for r in rollouts} == {0, 1}
    assert pool.metrics()["rollout_pictures_processed"] >= 2  # by each of them


def test_a_slow_consumer_slows_the_drawing_of_requests_down(pool: RolloutPool, cfg: Config) -> None:
    pool.push(BASE)
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for i in range(60):
            drawn += 1
            yield ask(i)

    limit = cfg.rollout.max_in_flight * cfg.rollout.num_workers
    for num_taken, _ in enumerate(pool.sample(requests(), SHORT), start=1):
        assert drawn <= num_taken + limit
    assert num_taken == drawn == 60


def test_leaving_the_iterator_early_aborts_what_is_in_flight(pool: RolloutPool) -> None:
    pool.push(BASE)
    aborted = pool.metrics()["rollout_requests_aborted"]
    rollouts = pool.sample((ask(i) for i in range(50)), LONG)
    next(rollouts)
    rollouts.close()
    assert pool.metrics()["rollout_requests_aborted"] > aborted
    assert len(list(pool.sample([ask(1), ask(2)], SHORT))) == 2


def test_a_worker_killed_while_it_samples_loses_and_doubles_nothing(
    pool: RolloutPool, picture: str
) -> None:
    pool.push(BASE)
    undisturbed = {r.key: r.token_ids for r in pool.sample(many(picture), SHORT)}
    seen = {}
    for num, rollout in enumerate(pool.sample(many(picture), SHORT)):
        assert rollout.key not in seen
        seen[rollout.key] = rollout.token_ids
        if num == 5:
            kill(pool, worker=0)
    assert seen == undisturbed
    assert pool.metrics()["rollout_worker_restarts"] == 1
    assert pool.metrics()["rollout_requests_repeated"] > 0
    # A push waits for the replacement, which has proven itself before it serves again.
    pool.push(BASE)
    assert [slot.state for slot in pool.slots] == [State.SERVING, State.SERVING]


def test_an_engine_process_that_dies_takes_its_worker_with_it_and_is_replaced(
    pool: RolloutPool,
) -> None:
    pool.push(BASE)
    process_id = pool.slots[1].process_id
    assert process_id is not None
    engine = next(c for c in psutil.Process(process_id).children() if "Engine" in c.name())
    engine.kill()
    assert len(list(pool.sample([ask(i) for i in range(30)], SHORT))) == 30
    pool.push(BASE)
    assert pool.slots[1].process_id != process_id


def test_unfinished_weights_are_refused(pool: RolloutPool, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a finished weights directory"):
        pool.push(Weights(7, str(tmp_path)))


def test_a_worker_that_dies_too_often_is_retired_and_the_others_go_on(
    pool: RolloutPool, cfg: Config
) -> None:
    pool.push(BASE)
    doomed = pool.slots[0]
    doomed.num_failures = cfg.rollout.max_restarts  # as if it had not served since the last one
    kill(pool, worker=0)
    assert len(list(pool.sample([ask(i) for i in range(12)], SHORT))) == 12
    assert doomed.state is State.RETIRED
    assert pool.push(BASE).version == 0
    assert pool.metrics()["rollout_workers_retired"] == 1


def test_too_few_workers_stop_the_call_with_their_last_words(
    pool: RolloutPool, cfg: Config
) -> None:
    pool.slots[1].num_failures = cfg.rollout.max_restarts
    kill(pool, worker=1)
    with pytest.raises(RolloutError, match=r"0 rollout workers are left.*min_workers=1") as caught:
        list(pool.sample([ask(i) for i in range(12)], SHORT))
    assert "rollout-worker-1.log" in str(caught.value)


@pytest.fixture(scope="module")
def single(pool: RolloutPool, cfg: Config) -> Iterator[RolloutPool]:
    """A pool of one worker that soon notices an engine that hangs."""
    rollout = {"num_workers": 1, "heartbeat_deadline_s": 15.0, "max_restarts": 3}
    push = cfg.push.model_copy(update={"deadline_s": 120.0})
    changes = {"rollout": cfg.rollout.model_copy(update=rollout), "push": push}
    with closing(RolloutPool(cfg.model_copy(update=changes))) as single:
        single.come_up()
        single.push(BASE)
        yield single


def test_an_engine_that_hangs_is_found_by_its_heartbeat_and_replaced(
    single: RolloutPool, picture: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = single.slots[0].processes()
    engine = next(p for p in before if "Engine" in p.name())
    seen = []
    for num, rollout in enumerate(single.sample(many(picture), SHORT)):
        seen.append(rollout.key)
        if num == 5:
            engine.suspend()
    assert sorted(seen) == sorted(request.key for request in many(picture))
    assert single.metrics()["rollout_worker_restarts"] == 1
    assert "gave no sign of life for 15 s" in caplog.text and "rollout-worker-0.log" in caplog.text
    assert psutil.wait_procs(before, timeout=20)[1] == []
    assert set(single.ask_memory()) == {"rss_rollout_worker_0_mib"}


def test_a_push_that_does_not_match_the_probe_says_by_how_much(
    single: RolloutPool, cfg: Config
) -> None:
    """From its second engine, too: then it is not the engine."""
    good = Probe.load(probe_file(cfg))
    off = tuple(tuple(x + d for x in row) for row, d in zip(good.logprobs, (0.0, 0.5), strict=True))
    Probe(good.items, off).save(probe_file(cfg))
    try:
        with pytest.raises(
            PushError, match=r"image: RMS of the differences 0\.5 nats over 3 tokens"
        ):
            single.push(BASE)
    finally:
        good.save(probe_file(cfg))
    assert single.metrics()["rollout_worker_restarts"] == 2


def test_an_engine_killed_while_it_starts_is_replaced_and_close_leaves_nothing_behind(
    pool: RolloutPool, cfg: Config
) -> None:
    before = shared_memory()
    small = cfg.model_copy(update={"rollout": cfg.rollout.model_copy(update={"num_workers": 1})})
    with closing(RolloutPool(small)) as other, ThreadPoolExecutor(1) as threads:
        starting = threads.submit(other.come_up)
        engine_of(other, deadline_s=240).kill()
        starting.result(timeout=300)
        assert other.metrics()["rollout_worker_restarts"] == 1
        process_id = other.slots[0].process_id
        assert process_id is not None
        family = [psutil.Process(process_id), *psutil.Process(process_id).children(recursive=True)]
    assert psutil.wait_procs(family, timeout=20)[1] == []
    deadline = time.monotonic() + 30  # others on this machine may be opening and closing theirs
    while left := shared_memory() - before:
        assert time.monotonic() < deadline, f"left in /dev/shm: {left}"
        time.sleep(0.5)


def shared_memory() -> set[str]:
    """Names in shared memory, without Ray's own store and without semaphores: whoever is ended by
    a signal leaves those behind, 32 bytes each."""
    return {n for n in os.listdir("/dev/shm") if "plasma" not in n and not n.startswith("sem.mp-")}


def engine_of(pool: RolloutPool, deadline_s: float) -> psutil.Process:
    """The process of vLLM's engine, as soon as it is there."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        for process in pool.slots[0].processes():
            if "Engine" in process.name():
                return process
        time.sleep(0.05)
    raise AssertionError(f"no engine within {deadline_s} s")


def many(picture: str) -> Iterator[Request]:
    return (ask(i, picture if i % 2 else None) for i in range(24))


def kill(pool: RolloutPool, worker: int) -> None:
    process_id = pool.slots[worker].process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(process_id) and time.monotonic() < deadline:
        time.sleep(0.01)
