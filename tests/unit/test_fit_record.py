"""Whether published weights are those of this fit: same training, whole, wherever they lie."""

import json
import shutil
from dataclasses import replace

import pytest

from virgo_ray.config import TrainConfig, parse_config
from virgo_ray.records import Example, FitReport, Plan, Weights
from virgo_ray.train.fit_record import take_up, write_fit
from virgo_ray.train.job import SPREAD, UNLEARNED, make_job
from virgo_ray.weights.publish import publish

EXAMPLES = tuple(Example(str(i), (1, 2), (3, i)) for i in range(4))
PLAN = Plan(EXAMPLES, ((((0, 1),), ((2, 3),)),), None)


def config(run_dir, **train):
    source, sampling = {"reader": "tiny"}, {"sampling": {"max_tokens": 100}}
    return parse_config(
        {
            "name": "record",
            "run_dir": str(run_dir),
            "model": {"path": "tiny", "max_length": 384},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": train,
        }
    )


def start(directory, content=b"base"):
    directory.mkdir(exist_ok=True)
    (directory / "model.safetensors").write_bytes(content)
    return Weights(0, str(directory))


def job(tmp_path, plan=PLAN, weights=None, **train):
    return make_job(config(tmp_path, **train), plan, weights or start(tmp_path / "base"), 1)


CHANGES = {
    "learning rate": {"lr": 1e-3},
    "clipping": {"max_grad_norm": 0.5},
    "adapters": {"lora": {"rank": 4}},
    "frozen parts": {"freeze_connector": True},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_matters_to_learning_is_of_the_recipe(tmp_path, change):
    ours, theirs = job(tmp_path), job(tmp_path, **change)
    assert ours.recipe != theirs.recipe and ours.fit != theirs.fit
    assert ours.examples == theirs.examples


def test_another_start_another_order_and_other_examples_are_of_the_recipe(tmp_path):
    ours = job(tmp_path)
    assert job(tmp_path, weights=start(tmp_path / "other", b"else")).recipe != ours.recipe
    assert job(tmp_path, Plan(EXAMPLES, PLAN.steps * 2, None)).recipe != ours.recipe
    longer = (replace(EXAMPLES[0], target_ids=(3, 0, 0)), *EXAMPLES[1:])
    assert job(tmp_path, Plan(longer, PLAN.steps, None)).recipe != ours.recipe


def test_the_order_in_which_keys_are_written_makes_no_other_fit(tmp_path):
    zero = {"overlap_comm": False, "reduce_bucket_size": 1000}
    written = {"zero_optimization": zero, "communication_data_type": "fp32"}
    turned = dict(reversed([*written.items()])) | {
        "zero_optimization": dict(reversed([*zero.items()]))
    }
    ours, theirs = (job(tmp_path, deepspeed=keys) for keys in (written, turned))
    assert (ours.fit, ours.work) == (theirs.fit, theirs.work)
    assert ours.work != job(tmp_path).work


def test_how_the_work_is_spread_is_of_the_checkpoints_alone(tmp_path):
    ours = job(tmp_path)
    spread = Plan(EXAMPLES, ((((1, 0), (3,), (2,)),),), None)
    for theirs in (
        job(tmp_path, spread),
        job(tmp_path, zero_stage=3),
        job(tmp_path, packing=False),
        job(tmp_path, micro_batch_tokens=100),
    ):
        assert ours.recipe == theirs.recipe and ours.fit != theirs.fit
    patient = job(tmp_path, checkpoint_every_s=1.0, step_deadline_s=9.0, max_restarts=9)
    assert patient.fit == ours.fit
    assert {*SPREAD, *UNLEARNED} <= set(TrainConfig.model_fields)


def test_a_run_directory_that_was_moved_has_the_same_fits(tmp_path):
    ours = job(tmp_path)
    shutil.copytree(tmp_path / "base", tmp_path / "moved" / "base")
    assert job(tmp_path, weights=Weights(0, str(tmp_path / "moved" / "base"))).fit == ours.fit


def published(tmp_path, ours, monkeypatch, forget=()):
    """Version 1, of files without tensors: what is in them matters elsewhere."""
    from virgo_ray.weights import manifest

    table = {"w": manifest.TensorInfo((1,), "F32", "model.safetensors")}
    monkeypatch.setattr(manifest, "tensor_table", lambda directory: table)
    root = tmp_path / "weights"
    report = FitReport(Weights(1, str(root / "v0001")), 1, 4, 16, 8, 2.0, 1.0, 3.0, 0)

    def write(directory):
        (directory / "model.safetensors").write_bytes(b"trained" * 100)
        write_fit(directory, report, ours)
        noted = json.loads((directory / "fit.json").read_text())
        kept = {key: value for key, value in noted.items() if key not in forget}
        (directory / "fit.json").write_text(json.dumps(kept))

    publish(root, 1, write)
    return root, report


def test_a_whole_version_of_the_same_training_is_taken_up(tmp_path, monkeypatch):
    ours = job(tmp_path)
    assert take_up(tmp_path / "weights", ours) == (None, "")
    root, report = published(tmp_path, ours, monkeypatch)
    assert take_up(root, ours) == (report, "")
    assert take_up(root, job(tmp_path, micro_batch_tokens=64)) == (report, "")


def test_a_version_that_does_not_say_how_it_was_trained_is_trained_again(tmp_path, monkeypatch):
    """As an earlier version of the program published it, killed before the ledger knew of it."""
    ours = job(tmp_path)
    root, _ = published(tmp_path, ours, monkeypatch, forget=["recipe"])
    report, notice = take_up(root, ours)
    assert report is None and "by an earlier version" in notice and "moved aside" in notice


DAMAGE = {
    "tensors are gone": lambda d: (d / "model.safetensors").unlink(),
    "tensors are cut off": lambda d: (d / "model.safetensors").write_bytes(b"tra"),
    "a byte differs": lambda d: (d / "model.safetensors").write_bytes(b"trainer" + b"trained" * 99),
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "half a manifest": lambda d: (d / "manifest.json").write_text('{"version": 1, "tens'),
    "no report": lambda d: (d / "fit.json").unlink(),
    "half a report": lambda d: (d / "fit.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_version_damaged_before_its_commit_is_moved_aside_and_said(tmp_path, monkeypatch, damage):
    ours = job(tmp_path)
    root, _ = published(tmp_path, ours, monkeypatch)
    damage(root / "v0001")
    report, notice = take_up(root, ours)
    assert report is None
    assert "v0001 is damaged" in notice and "moved aside to damaged-v0001-1" in notice
    assert [path.name for path in root.iterdir()] == ["damaged-v0001-1"]


def test_a_version_of_another_training_is_moved_aside_and_said(tmp_path, monkeypatch):
    root, _ = published(tmp_path, job(tmp_path), monkeypatch)
    report, notice = take_up(root, job(tmp_path, lr=1e-3))
    assert report is None
    assert "another `train` section" in notice and "other-v0001-1" in notice
