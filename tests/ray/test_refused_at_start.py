"""What the command refuses before it starts Ray, engines, or even a run directory."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from shutil import copytree, ignore_patterns

import grpc
import huggingface_hub
import pytest
import ray

import virgo_ray.run
from virgo_ray.actors import head
from virgo_ray.actors.cluster import join_cluster
from virgo_ray.config import RayConfig
from virgo_ray.errors import ClusterError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import Weights
from virgo_ray.run import load_run_config, main, read_inputs

JUDGE = ["verify.second_opinions=[judge]", "verify.judge.model=any"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["verify.custom=no.such.module:grade"], "cannot be imported"),
        (["verify.custom=json:dumps"], "cannot be called"),
        (["verify.custom=http://local host/grade"], "is no http(s) address"),
        ([*JUDGE, "verify.judge.url=localhost:8000"], "is no http(s) address"),
        ([*JUDGE, "verify.judge.url=http://a/v1", "verify.judge.key_env=NOT_SET"], "'NOT_SET'"),
        ([*JUDGE, "verify.judge.url=http://a/v1", "verify.judge.prompt=no.txt"], "'no.txt'"),
        (["verify.formats=[[<plan>]]"], "verify.formats"),
    ],
)
def test_a_verifier_that_cannot_work_ends_the_command_with_code_2(
    overrides, message, tmp_path, capsys
):
    assert main(["configs/tiny.yaml", f"run_dir={tmp_path}/run", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run").exists()


@pytest.fixture
def no_ray(monkeypatch):
    def started(cfg):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(virgo_ray.run, "connect_cluster", started)


GOOD = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]


def refused(tmp_path, capsys, *overrides, code=2):
    """What the command says of a small config with these overrides."""
    # W&B's own process would be inherited by all runs that later tests start.
    small = (
        "explore.num_problems=4",
        "data.train.num=4",
        "data.heldout.num=2",
        "wandb.mode=disabled",
    )
    words = (*small, "data.seed_thoughts.num=2", f"run_dir={tmp_path}/run", *overrides)
    assert main(["configs/tiny.yaml", *words]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "Gr\xf6\xdfe?", "answer": "3"}\n', "row 1: unreadable: not UTF-8"),
        ('{"question": "q?", "answer": "3"}'.encode("utf-16"), "not UTF-8"),
        (json.dumps(GOOD, indent=1).encode(), "a file that is one JSON list has `reader: json`"),
        (json.dumps(GOOD).encode(), "is not a JSON object"),
        (b"\n\n", "holds no rows that can be used"),
        (b'{"query": "q?", "label": "3"}', "it has query, label, images; `fields: {question: "),
        (b'{"question": "q?", "answer": "red", "answer_type": "number"}', "is not a number"),
        (b'{"question": "q?", "answer": "3", "image": "no.png"}', "image missing"),
        (b'{"question": "q?", "answer": "3", "image": "https://a.b/c.png"}', "image on a server"),
        (b'{"question": "q?", "answer": "D", "options": ["a", "b"]}', "neither a letter nor"),
    ],
)
def test_data_that_cannot_be_used_end_the_command_with_code_2(
    content, message, tmp_path, capsys, no_ray
):
    (tmp_path / "d.jsonl").write_bytes(content)
    source = f"data.train={{reader: jsonl, path: {tmp_path}/d.jsonl, num: null}}"
    assert message in refused(tmp_path, capsys, source)


def test_a_source_that_is_named_wrongly_says_where_it_was_looked_for(tmp_path, capsys, no_ray):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    folder = f"data.train={{reader: jsonl, path: {tmp_path}, num: null}}"
    assert "Is a directory" in refused(tmp_path, capsys, folder)
    nowhere = "data.train={reader: jsonl, path: no.jsonl}"
    assert "/no.jsonl; relative to where the command runs)" in refused(tmp_path, capsys, nowhere)
    typo = f"{{reader: jsonl, path: {tmp_path}/d.jsonl, fields: {{anwser: label}}}}"
    assert "did you mean 'answer'?" in refused(tmp_path, capsys, f"data.train={typo}")
    (tmp_path / "t.tsv").write_bytes("question\tanswer\nGröße?\t3\n".encode("latin-1"))
    table = f"data.train={{reader: vlmevalkit, path: {tmp_path}/t.tsv}}"
    assert "t.tsv is not UTF-8" in refused(tmp_path, capsys, table)


def test_a_run_directory_that_cannot_be_used_is_found_before_data_are_read(
    tmp_path, capsys, no_ray
):
    (tmp_path / "file").write_text("")
    missing = "data.train={reader: jsonl, path: no.jsonl}"
    for run_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused(tmp_path, capsys, f"run_dir={run_dir}", missing, code=1)
        assert "cannot be written" in said
    said = refused(tmp_path, capsys, "run_dir=~no-such-user/run", missing)
    assert "no such home directory" in said
    said = refused(tmp_path, capsys, f"data.cache_dir={tmp_path}/file")
    assert "choose another with data.cache_dir=PATH" in said


def test_a_run_of_another_config_is_refused_before_data_are_read(tmp_path, capsys, no_ray):
    with pytest.raises(AssertionError, match="Ray was started"):
        refused(tmp_path, capsys)
    capsys.readouterr()
    other = ("seed=9", "data.train={reader: jsonl, path: no.jsonl}")
    assert "seed: 0 -> 9" in refused(tmp_path, capsys, *other, code=1)


# -- the order: what is cheap, the data, the weights -----------------------------------------------


def hub_of(tmp_path, monkeypatch):
    """A stand-in for the hub that has the tiny model; every call's patterns are kept."""
    asked = []
    hub = tmp_path / "hub"

    def download(repo_id, allow_patterns):
        asked.append(list(allow_patterns))
        ignored = None if "*.safetensors" in allow_patterns else ignore_patterns("*.safetensors")
        copytree(TINY_DIRECTORY, hub, ignore=ignored, dirs_exist_ok=True)
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_no_weights_are_fetched_before_the_data_are_read(tmp_path, capsys, no_ray, monkeypatch):
    asked = hub_of(tmp_path, monkeypatch)
    (tmp_path / "d.jsonl").write_text('{"question": "q?", "answer": "3", "image": "no.png"}')
    bad = f"data.train={{reader: jsonl, path: {tmp_path}/d.jsonl, num: null}}"
    assert "image missing" in refused(tmp_path, capsys, "model.path=owner/name", bad)
    assert asked and not any("*.safetensors" in patterns for patterns in asked)
    words = ("data.train.num=4", "data.heldout.num=2", "data.seed_thoughts.num=2")
    cfg = load_run_config(
        "configs/tiny.yaml", ["model.path=owner/name", f"run_dir={tmp_path}/run", *words]
    )
    assert read_inputs(cfg).base.path == str(tmp_path / "hub")
    assert ["*.safetensors" in patterns for patterns in asked][-1]


def test_what_is_cheap_to_refuse_is_refused_before_the_data_are_read(tmp_path, capsys, monkeypatch):
    asked = hub_of(tmp_path, monkeypatch)

    def read(*_):
        raise AssertionError("the data were read")

    monkeypatch.setattr(virgo_ray.run, "read_data", read)
    without = copytree(TINY_DIRECTORY, tmp_path / "w", ignore=ignore_patterns("*.safetensors"))
    assert "lacks config.json or" in refused(tmp_path, capsys, f"model.path={without}")
    assert "teacher.path=" in refused(tmp_path, capsys, f"teacher.path={without}")
    cfg = load_run_config("configs/tiny.yaml", [f"run_dir={tmp_path}/run"])
    with closing(Ledger.open(cfg, Weights(0, str(TINY_DIRECTORY)))):
        said = refused(tmp_path, capsys, "model.path=owner/name", code=1)
    assert "is in use by process" in said and not asked


@pytest.fixture
def no_init(monkeypatch):
    def init(**settings):
        raise AssertionError("Ray was asked to connect")

    monkeypatch.setattr("ray.init", init)


def test_an_address_where_nothing_listens_is_named_with_its_variable(
    tmp_path, capsys, no_init, monkeypatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = refused(tmp_path, capsys)
    assert f"no Ray cluster at {address!r}, the address in RAY_ADDRESS: nothing listens" in said
    assert "the address in ray.address" in refused(tmp_path, capsys, f"ray.address={address}")


def test_a_head_that_takes_connections_and_never_answers_is_refused_in_time(
    tmp_path, capsys, no_init, monkeypatch
):
    monkeypatch.setattr(head, "ANSWER_S", 0.5)
    with socket.create_server(("0.0.0.0", 0)) as silent:  # Ray asks at the node's own address
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        assert "did not answer Ray's health check within 0.5 s" in refused(tmp_path, capsys)


def test_a_server_that_is_no_head_is_refused(tmp_path, capsys, no_init):
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        said = refused(tmp_path, capsys, f"ray.address=127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert "did not answer Ray's health check" in said


def test_an_address_that_is_none_is_refused(tmp_path, capsys, no_init):
    said = refused(tmp_path, capsys, "ray.address=nowhere")
    assert "no Ray cluster at 'nowhere', the address in ray.address" in said


@pytest.mark.parametrize("kind", [Exception, KeyError])
def test_a_ray_that_is_not_up_in_time_is_named_and_other_errors_stay_what_they_are(
    monkeypatch, kind
):
    """Ray waits 30 seconds for its own node, and raises an Exception without a name."""

    def init(**_):
        raise kind("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    expected = ClusterError if kind is Exception else KeyError
    with (
        pytest.raises(expected, match="timed out during startup") as error,
        join_cluster(RayConfig(), is_frugal=False),
    ):
        pass
    if kind is Exception:
        assert "on this machine" in str(error.value)
        assert "the same command tries again" in str(error.value)
