"""The shipped configs work where the shipped scripts submit them: on a copy of this directory."""

import shutil
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import _dir_travel

from virgo_ray.config import PartConfig, find_contradictions, load_config
from virgo_ray.data.files import DATA_SUFFIXES, HUB_ID
from virgo_ray.data.rows import require_path
from virgo_ray.errors import DataError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "parts")
SHIPPED_READERS = ("tiny", "easyvqa")  # a package of their own, or part of this one


@pytest.fixture(scope="module")
def shipped():
    """Every config by its name, as a cluster's recipe loads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIRGO_RAY_DATA", "/shared/data")
        return {path.stem: load_config(str(path)) for path in CONFIGS}


def sources(cfg):
    data = [cfg.data.train, cfg.data.heldout, cfg.data.seed_thoughts]
    probes = [s for s in (cfg.evaluate.perception, cfg.evaluate.text) if s is not None]
    return [part for s in [*data, *probes, *cfg.benchmarks.values()] for part in s.parts or (s,)]


def test_data_are_shipped_on_the_hub_or_under_virgo_ray_data(shipped):
    assert len(shipped) > 15
    for name, source in [(n, s) for n, cfg in shipped.items() for s in sources(cfg)]:
        if source.reader in SHIPPED_READERS:
            assert source.path is None, name
            continue
        is_on_hub = bool(HUB_ID.fullmatch(source.path))
        assert is_on_hub != source.path.startswith("/shared/data/"), (name, source.path)
        assert is_on_hub == (Path(source.path).suffix not in DATA_SUFFIXES), (name, source.path)


def test_none_contradicts_itself(shipped):
    assert not {name: found for name, cfg in shipped.items() if (found := find_contradictions(cfg))}


def test_without_virgo_ray_data_they_lie_in_data(monkeypatch):
    monkeypatch.delenv("VIRGO_RAY_DATA", raising=False)
    cfg = load_config(str(ROOT / "configs/iterative.yaml"))
    assert cfg.data.train.path == "data/image_problems.jsonl"


def test_configs_for_gpus_leave_to_the_cluster_what_follows_from_it(shipped):
    on_gpus = [cfg for cfg in shipped.values() if "tiny" not in cfg.model.path]
    assert len(on_gpus) == 13
    for cfg in on_gpus:
        assert cfg.placement.mode == "colocated" and cfg.train.gpus_per_worker is None, cfg.name
        assert (cfg.rollout.gpus_per_worker is None) == ("72B" not in cfg.model.path), cfg.name
        engines = cfg.rollout.num_workers * (cfg.rollout.gpus_per_worker or 1)
        assert engines == cfg.train.num_workers, cfg.name


@pytest.mark.parametrize("name", ["slurm.sbatch", "single_node.sh", "kuberay.yaml"])
def test_every_recipe_says_where_data_and_runs_lie(name):
    text = (ROOT / "cluster" / name).read_text()
    assert "VIRGO_RAY_DATA" in text and "VIRGO_RAY_HOME" in text


def test_a_job_submitted_from_here_uploads_code_and_neither_data_nor_runs(tmp_path):
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    code = [p for d in ("virgo_ray", "configs", "cluster") for p in (ROOT / d).rglob("*")]
    kept = [str(p.relative_to(ROOT)) for p in code if p.is_file() and "__pycache__" not in p.parts]
    left = [
        "data/image_problems.jsonl", "data/img/1.png", "runs/tiny/weights/v0001/model.safetensors",
        "runs/tiny/buffer.lance/data/1.lance", "evaluations/m/report.json", "wandb/run/x.wandb",
        ".venv/bin/python", ".venv-gpu/bin/python", "tests/unit/test_x.py", "docs/data.md",
    ]  # fmt: skip
    for name in [*kept, *left]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    seen = set()
    _dir_travel(tmp_path, [], lambda p: seen.add(str(p.relative_to(tmp_path))), True)
    assert "virgo_ray/data/files.py" in kept and set(kept) <= seen
    assert not seen & set(left)


def test_a_relative_path_in_a_ray_job_is_told_where_it_was_looked_for(monkeypatch):
    source = PartConfig(reader="jsonl", path="data/none.jsonl")
    with pytest.raises(DataError, match=r"relative to where the command runs\); expected"):
        require_path(source, "a file")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(DataError, match=r"copy that this Ray job was given.* set VIRGO_RAY_DATA"):
        require_path(source, "a file")
