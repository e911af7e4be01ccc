"""Every file for containers and clusters, by the checker that there is for it.

Slurm's script is run whole, with stubs in place of Slurm's commands and Ray's.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

from virgo_ray import cli
from virgo_ray.config import load_config
from virgo_ray.run import parse_args

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = [
    *sorted((ROOT / "scripts").glob("*.sh")), *sorted(CLUSTER.glob("*.sh")),
    CLUSTER / "slurm.sbatch", ROOT / ".ci/run",
]  # fmt: skip
BESIDE_PYTHON = Path(sys.executable).parent
LINT_S = 60
STUB = """#!/usr/bin/env bash
echo "{name} $*" >>"$CALLS"
{body}
"""
STUBS = {
    "scontrol": 'printf "node1\\nnode2\\n"',
    "srun": """while [[ "$1" == --* ]]; do shift; done
if [ "$1" = hostname ]; then echo "10.0.0.1 fe80::1"; else exec "$@"; fi""",
    "ray": 'if [ "$1" = start ]; then exec sleep "${RAY_SLEEPS:-30}" >/dev/null 2>&1; fi',
    # As the real one, it waits for the nodes.
    "python": """until [ "$(grep -c '^ray start' "$CALLS")" -ge 2 ]; do sleep 0.1; done
exit "${WAITER_CODE:-0}\"""",
    "virgo-ray": 'echo "RAY_ADDRESS=$RAY_ADDRESS" >>"$CALLS"; exit "${RUN_CODE:-0}"',
}


def lint(tool, *arguments):
    done = subprocess.run(
        [str(BESIDE_PYTHON / tool), *arguments], capture_output=True, text=True, timeout=LINT_S
    )
    return done.stdout + done.stderr


def test_shell_scripts_pass_shellcheck(tmp_path):
    assert lint("shellcheck", "--exclude=SC1091", *map(str, SCRIPTS)) == ""
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm $1\n")
    assert "SC2086" in lint("shellcheck", str(tmp_path / "bad.sh"))


def test_the_dockerfile_passes_hadolint_and_installs_what_was_tested(tmp_path):
    assert lint("hadolint", str(CLUSTER / "Dockerfile")) == ""
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /\n")
    assert "DL3007" in lint("hadolint", str(tmp_path / "Dockerfile"))
    text = (CLUSTER / "Dockerfile").read_text()
    assert {"AS cpu", "AS gpu"} <= set(re.findall(r"AS (?:cpu|gpu)", text))
    check_recipe(text, re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", text, re.M))


def test_the_apptainer_recipe_installs_what_was_tested():
    text = (CLUSTER / "apptainer.def").read_text()
    sections = re.findall(r"^%(\w+)$", text, re.M)
    assert text.startswith("#") and re.search(r"^Bootstrap: docker\nFrom: python:", text, re.M)
    assert sections == ["files", "post", "environment", "runscript"]
    files = text.partition("%files\n")[2].partition("\n\n")[0]
    check_recipe(text, [line.split()[0] for line in files.splitlines()])


def check_recipe(text, copied):
    """What is copied exists and suffices for a wheel; what is installed is constrained."""
    names = {name for line in copied for name in line.split()}
    assert names >= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints",
        "configs",
        "virgo_ray",
    }
    assert all((ROOT / name).exists() for name in names)
    for kind in re.findall(r'install .*"/src\[(\w+)\]"', text):
        assert f"constraints/{kind}.txt" in text and (ROOT / f"constraints/{kind}.txt").exists()
    assert "virgo-ray setup" in text


# -- Kubernetes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kube():
    documents = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    return {document["kind"]: document for document in documents}


def pods(kube):
    cluster = kube["RayJob"]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_job_is_submitted_again_and_its_entry_point_is_a_command_of_ours(kube):
    assert list(kube) == ["RayJob", "Service", "StatefulSet"]
    spec = kube["RayJob"]["spec"]
    assert kube["RayJob"]["apiVersion"] == "ray.io/v1" and spec["backoffLimit"] >= 3
    assert spec["shutdownAfterJobFinishes"] and spec["submissionMode"] == "K8sJobMode"
    check_command(spec["entrypoint"])


def check_command(line):
    program, command, *words = line.split()
    assert program == "virgo-ray" and command in cli.COMMANDS
    asked = parse_args(words)
    cfg = load_config(asked.config, asked.overrides)
    assert cfg.placement.autoscaling and cfg.placement.deadline_s > 600  # a node must come first


def test_the_cluster_scales_has_a_token_and_keeps_the_heads_tables(kube):
    cluster = kube["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["enableInTreeAutoscaling"] and cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    service, redis = kube["Service"], kube["StatefulSet"]["spec"]
    address = cluster["gcsFaultToleranceOptions"]["redisAddress"]
    port = service["spec"]["ports"][0]["port"]
    assert address == f"redis://{service['metadata']['name']}:{port}"
    labels = redis["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == redis["selector"]["matchLabels"] == labels
    (mount,) = redis["template"]["spec"]["containers"][0]["volumeMounts"]
    assert mount["name"] == redis["volumeClaimTemplates"][0]["metadata"]["name"]


def test_every_pod_has_shared_memory_shared_storage_and_limits(kube):
    for pod in pods(kube):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert "persistentVolumeClaim" in mounts["/shared"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        room = mounts["/dev/shm"]["emptyDir"]["sizeLimit"]
        assert int(room.removesuffix("Gi")) < int(limits["memory"].removesuffix("Gi"))
        assert {"VIRGO_RAY_HOME", "VIRGO_RAY_DATA"} <= {e["name"] for e in container["env"]}


# -- the cloud launcher ----------------------------------------------------------------------------


def test_the_launchers_file_is_one_that_ray_takes():
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_worker": 2}, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert any(option.startswith("--shm-size") for option in config["docker"]["run_options"])
    for node in config["available_node_types"].values():
        assert node["node_config"]["ImageId"] == "AMI_ID"  # to be filled in; Ray's own is too old
    check_shared_folders(config)
    lines = (CLUSTER / "ray-cluster.yaml").read_text().splitlines()
    (line,) = [x.removeprefix("#").strip() for x in lines if x.startswith("#   virgo-ray")]
    check_command(line)


def check_shared_folders(config):
    """What the container is told to use is there and the image's user may write it."""
    options = config["docker"]["run_options"]
    told = dict(o.removeprefix("--env=").split("=") for o in options if o.startswith("--env="))
    used = {told[name] for name in ("VIRGO_RAY_HOME", "VIRGO_RAY_DATA", "HF_HOME")}
    assert Path(told["RAY_AUTH_TOKEN_PATH"]).parent == Path(told["VIRGO_RAY_HOME"])
    mount, make = config["initialization_commands"][-2:]
    made, _, owned = make.partition(" && ")
    assert "sudo mount" in mount and made.startswith("sudo mkdir -p ")
    assert owned.startswith("sudo chown 1000:1000 ")
    assert used == {word for word in made.split() if word.startswith("/")}
    assert used == {word for word in owned.split() if word.startswith("/")}


def test_images_keep_what_outlives_them_in_one_directory_on_every_platform(kube):
    text = (CLUSTER / "Dockerfile").read_text()
    baked = dict(re.findall(r"(VIRGO_RAY_\w+|HF_HOME)=(/\S+)", text))
    assert set(baked) == {"VIRGO_RAY_HOME", "VIRGO_RAY_DATA", "HF_HOME"}
    assert "useradd --create-home --uid 1000 ray" in text and "USER 1000" in text
    for pod in pods(kube):
        told = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
        assert {name: told[name] for name in baked} == baked
    options = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())["docker"]["run_options"]
    assert {f"--env={name}={value}" for name, value in baked.items()} <= set(options)


# -- Slurm -----------------------------------------------------------------------------------------


APPTAINER = 'while [ "$1" != img.sif ]; do shift; done; shift; exec "$@"'


def start(tmp_path, *arguments, **env):
    """Start the script as sbatch would on two nodes, with stubs; its process."""
    stubs = tmp_path / ".venv/bin"
    stubs.mkdir(parents=True)
    for name, body in STUBS.items():
        (stubs / name).write_text(STUB.format(name=name, body=body))
        (stubs / name).chmod(0o755)
    calls, token = tmp_path / "calls", tmp_path / "token"
    calls.touch()
    token.write_text("t")
    slurm = {
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "70001",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "96",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", str(CLUSTER / "slurm.sbatch"), *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CALLS": str(calls),
             "RAY_AUTH_TOKEN_PATH": str(token), **slurm, **env},
    )  # fmt: skip


def end(process, tmp_path):
    """(exit code, stderr, calls of the stubs) of the script."""
    _, said = process.communicate(timeout=LINT_S)
    return process.returncode, said, (tmp_path / "calls").read_text().splitlines()


def submit(tmp_path, *arguments, **env):
    return end(start(tmp_path, *arguments, **env), tmp_path)


def test_slurms_script_starts_a_head_and_workers_waits_and_runs(tmp_path):
    code, said, calls = submit(tmp_path, "configs/mine.yaml", "seed=1")
    assert code == 0, said
    starts = sorted(call for call in calls if call.startswith("ray start"))
    assert len(starts) == 2 and all("--num-cpus=96" in start for start in starts)
    assert any("--head --node-ip-address=10.0.0.1 --port=30001" in start for start in starts)
    assert any("--address=10.0.0.1:30001" in start for start in starts)
    assert "python -m virgo_ray.actors.waiting 10.0.0.1:30001 2 600" in calls
    assert calls[-2:] == ["virgo-ray run configs/mine.yaml seed=1", "RAY_ADDRESS=10.0.0.1:30001"]
    srun = [call for call in calls if call.startswith("srun") and "ray start" in call]
    assert any("--nodelist=node1" in call for call in srun)
    assert any("--exclude=node1" in call for call in srun)


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"WAITER_CODE": "1"}, 1, "raise VIRGO_RAY_START_DEADLINE_S=600"),
        ({"RUN_CODE": "2"}, 2, ""),
        ({"SLURM_CPUS_PER_TASK": ""}, 1, "submit with --cpus-per-task"),
    ],
)
def test_slurms_script_ends_as_what_failed_does(tmp_path, env, code, said):
    ended, stderr, calls = submit(tmp_path, **env)
    assert ended == code and said in stderr
    assert any(c.startswith("virgo-ray run") for c in calls) == ("RUN_CODE" in env)


def test_slurms_script_says_that_a_node_ended_early(tmp_path, monkeypatch):
    monkeypatch.setitem(STUBS, "python", "exec sleep 30 >/dev/null 2>&1")
    code, stderr, calls = submit(tmp_path, RAY_SLEEPS="0")
    assert code == 1 and "ended before all nodes were there" in stderr
    assert not any(c.startswith("virgo-ray") for c in calls)


def test_slurms_script_runs_everything_in_the_image_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setitem(STUBS, "apptainer", APPTAINER)
    token = str(tmp_path / "secret/token")
    code, stderr, calls = submit(
        tmp_path, "iterative", VIRGO_RAY_IMAGE="img.sif", RAY_AUTH_TOKEN_PATH=token
    )
    assert code == 0, stderr
    inside = [call for call in calls if call.startswith("apptainer exec --nv")]
    assert sum("ray start" in call for call in inside) == 2
    assert any(call.endswith("img.sif virgo-ray run iterative") for call in inside)
    (bind,) = {call.split()[3] + " " + call.split()[4] for call in inside}
    bound = bind.removeprefix("--bind ").split(",")
    assert bound == [str(tmp_path), str(tmp_path), str(tmp_path / "data"), str(tmp_path / "secret")]
    assert all(Path(path).is_dir() for path in bound)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o700
    assert "ray get-auth-token --generate" in calls


# As the real one: told to end, it commits what it has first.
ENDING = """trap 'sleep 0.5; kill %1; echo "the run ended" >>"$CALLS"; exit 0' TERM
sleep 30 >/dev/null 2>&1 &
touch "$CALLS.began"
wait"""


RAY_UNTIL_TERM = """trap 'kill %1; echo "a node ended" >>"$CALLS"; exit 0' TERM
sleep 30 >/dev/null 2>&1 &
wait"""


@pytest.mark.parametrize("name", ["virgo-ray", "python"])
@pytest.mark.parametrize("image", ["", "img.sif"])
def test_slurms_signal_reaches_what_runs_and_the_nodes_stay_until_it_ended(
    tmp_path, monkeypatch, name, image
):
    monkeypatch.setitem(STUBS, name, ENDING)
    monkeypatch.setitem(STUBS, "apptainer", APPTAINER)
    monkeypatch.setitem(STUBS, "ray", RAY_UNTIL_TERM)
    process = start(tmp_path, VIRGO_RAY_IMAGE=image)
    until = time.monotonic() + LINT_S
    while not (tmp_path / "calls.began").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, stderr, calls = end(process, tmp_path)
    assert code == 143, stderr
    assert calls[-3:] == ["the run ended", "a node ended", "a node ended"]
