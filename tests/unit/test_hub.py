"""Publishing on the Hugging Face hub, against a stand-in of its API on this machine."""

import io
import json
import shutil

import huggingface_hub.constants
import pyarrow.parquet as pq
import pytest
from hub_stand_in import TOKEN, Hub
from PIL import Image
from test_traces import make_run

from virgo_ray import cli
from virgo_ray.config import load_config
from virgo_ray.errors import DataError
from virgo_ray.hub.content import File, publishable, refuse_telling
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import FitReport, Tally, Weights
from virgo_ray.weights.publish import publish

MODEL, TRACES = "models/team/thinker", "datasets/team/traces"


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield found
    found.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with weights of rounds 0 and 1, beside pictures and files that are its own business."""
    run = tmp_path_factory.mktemp("trained") / "run"
    ledger = Ledger.open(load_config("configs/tiny.yaml", [f"run_dir={run}"]), Weights(0, "base"))
    for t in (0, 1):
        made = publish(run / "weights", t + 1, lambda draft: write_checkpoint(draft, run))
        ledger.commit_tally(t, t, Tally())
        ledger.commit_fit(t, FitReport(made, 1, 1, 1, 1, 2.0, 1.0, 1.0))
    ledger.close()
    return run


def write_checkpoint(draft, run):
    shutil.copytree(TINY_DIRECTORY, draft, dirs_exist_ok=True)
    config = json.loads((draft / "config.json").read_text())
    config["text_config"]["_name_or_path"] = f"{run}/base-model"
    (draft / "config.json").write_text(json.dumps(config))
    (draft / "README.md").write_text("---\nbase_model: tiny\n---\n\n# A model that thinks\n")
    (draft / "probe.json").write_text(json.dumps({"image": f"{run}/data/a.png"}))
    (draft / "probe_pictures").mkdir()
    for name in ("ab12.png", "cd34.json"):  # a picture may have any name
        (draft / "probe_pictures" / name).write_bytes(b"of a patient")
    (draft / "adapters").mkdir()  # as the trainer writes them
    (draft / "adapters/adapters.safetensors").write_bytes(b"floats")
    (draft / "adapters/about.json").write_text('{"version": 0}')
    (draft / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    (draft / "training_args.pt").write_bytes(b"\x80\x04pickle")


@pytest.fixture
def run_dir(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "cat.png")
    return make_run(tmp_path, {1: {"a": "cc", "b": "cw"}})


def publish_weights(run, *options, to="team/thinker"):
    return cli.main(["publish", str(run), "--push-to-hub", to, *options])


def publish_traces(run, *options, format="parquet", to="team/traces"):
    words = ["traces", "export", str(run), "--format", format, "--push-to-hub", to, *options]
    return cli.main(words)


# -- weights ---------------------------------------------------------------------------------------


def test_weights_are_published_private_in_one_commit(hub, trained, capsys):
    assert publish_weights(trained) == 0
    said = capsys.readouterr().out
    assert "round 1 of" in said and f"published at {hub.address}/team/thinker" in said
    repository = hub.repositories[MODEL]
    assert repository["private"] and len(repository["commits"]) == 1
    names = {p.name for p in TINY_DIRECTORY.iterdir()} | {"README.md", ".gitattributes"}
    assert repository["files"].keys() == names
    tensors = (TINY_DIRECTORY / "model.safetensors").read_bytes()
    assert repository["files"]["model.safetensors"] == tensors
    kept = "adapters/about.json, adapters/adapters.safetensors, manifest.json"
    assert f"not published: DONE, {kept}, probe.json, probe_pictures/ab12.png" in said
    assert "pytorch_model.bin, training_args.pt" in said


def test_what_is_published_tells_nothing_of_this_machine(hub, trained, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node-017")
    assert publish_weights(trained) == 0
    sent = b"".join(hub.repositories[MODEL]["files"].values())
    for secret in (str(trained), str(trained.parent), "node-017", TOKEN, "a.png"):
        assert secret.encode() not in sent
    config = json.loads(hub.repositories[MODEL]["files"]["config.json"])
    assert config["text_config"]["_name_or_path"] == "base-model"


def test_a_round_is_chosen_and_without_a_name_nothing_is_sent(hub, trained, capsys):
    assert cli.main(["publish", str(trained), "--round", "0"]) == 0
    said = capsys.readouterr().out
    assert "round 0 of" in said and "model.safetensors" in said and "nothing was sent" in said
    assert hub.requests == []
    assert publish_weights(trained, "--round", "7") == 2
    assert "has no weights of round 7; expected one of rounds [0, 1]" in capsys.readouterr().err
    assert hub.requests == []


def test_damaged_weights_are_not_published(hub, trained, tmp_path, capsys):
    run = tmp_path / "copy"
    shutil.copytree(trained, run)
    with (run / "weights/v0002/model.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert publish_weights(run) == 1
    assert "it was changed after DONE" in capsys.readouterr().err and hub.requests == []


def test_existing_files_are_replaced_only_when_told_and_then_wholly(hub, trained, capsys):
    assert publish_weights(trained) == 0
    hub.repositories[MODEL]["files"]["model-00002-of-00002.safetensors"] = b"of another time"
    before = dict(hub.repositories[MODEL]["files"])
    assert publish_weights(trained) == 1
    assert "files already" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert hub.repositories[MODEL]["files"] == before
    assert publish_weights(trained, "--overwrite") == 0
    assert "model-00002-of-00002.safetensors" not in hub.repositories[MODEL]["files"]
    assert len(hub.repositories[MODEL]["commits"]) == 2


def test_a_public_repository_is_public_on_request_alone_and_only_when_complete(
    hub, trained, capsys
):
    assert publish_weights(trained, "--public") == 0
    created = next(json.loads(b) for _, path, b in hub.requests if path.endswith("repos/create"))
    assert created["visibility"] == "private" and not hub.repositories[MODEL]["private"]
    assert [path for *_, path, _ in hub.requests][-1].endswith("/settings")
    assert publish_weights(trained, "--overwrite") == 1
    assert "everybody can read it, expected a private" in capsys.readouterr().err
    assert len(hub.repositories[MODEL]["commits"]) == 1


# -- traces ----------------------------------------------------------------------------------------


def test_traces_are_published_with_a_card(hub, run_dir):
    assert publish_traces(run_dir) == 0
    repository = hub.repositories[TRACES]
    name = "data/train-00000-of-00001.parquet"
    assert repository["private"] and repository["files"].keys() >= {"README.md", name}
    assert pq.read_table(io.BytesIO(repository["files"][name])).num_rows == 3
    card = repository["files"]["README.md"].decode()
    assert "| zoo/a | 2 |" in card and "Verifier version" in card and "temperature 0.8" in card
    sent = b"".join(repository["files"].values())
    assert str(run_dir.parent).encode() not in sent and b"cat.png" in sent
    assert not (run_dir.parent / "out").exists()


def test_a_local_copy_is_kept_where_it_is_asked_for(hub, run_dir, tmp_path):
    assert publish_traces(run_dir, "--out", str(tmp_path / "out")) == 0
    here = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert here == hub.repositories[TRACES]["files"].keys() - {".gitattributes"}


def test_only_formats_without_local_paths_are_published(hub, run_dir, capsys):
    for format in ("jsonl", "hf", "llamafactory"):
        assert publish_traces(run_dir, format=format) == 2
        assert "expected one of parquet, trl, dpo" in capsys.readouterr().err
    assert hub.requests == []


# -- what goes wrong -------------------------------------------------------------------------------


def test_no_token_and_no_name_are_told_before_any_work(hub, trained, run_dir, monkeypatch, capsys):
    assert publish_weights(trained, to="thinker") == 2
    assert "expected OWNER/NAME" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    for command in (lambda: publish_weights(trained), lambda: publish_traces(run_dir)):
        assert command() == 2
        assert "HF_TOKEN, which is not set" in (said := capsys.readouterr()).err
        assert "written to" not in said.out
    assert hub.requests == []


@pytest.mark.parametrize(
    ("refused", "status", "advice"),
    [
        ("repos/create", 403, "may not write for 'team'"),
        ("repos/create", 401, "does not know the token"),
        ("repos/create", 409, "the name is taken"),
        ("preupload", 403, "may not write for 'team'"),
        ("/lfs/", 400, "again later"),
        ("commit", 500, "again later"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do_and_leaves_nothing(
    hub, trained, capsys, refused, status, advice
):
    hub.refuse[refused] = status
    assert publish_weights(trained, "--public") == 1
    said = capsys.readouterr().err
    assert "HubError: team/thinker was not published" in said and advice in said
    assert TOKEN not in said and "Traceback" not in said
    left = hub.repositories.get(MODEL)
    assert left is None or (left["private"] and left["files"].keys() == {".gitattributes"})


def test_a_hub_that_is_out_of_reach_is_told(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert publish_weights(trained) == 1
    assert "check the network and HF_ENDPOINT" in capsys.readouterr().err


def test_a_wrong_token_is_not_printed(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert publish_weights(trained) == 1
    said = capsys.readouterr()
    assert "does not know the token" in said.err
    assert "hf_of_somebody_else" not in said.err + said.out


# -- what may leave --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: /home/ann/pictures/a.png", "a path of this machine ('/home/ann/pictures/a.png')"),
        ('{"dir": "/mnt/scratch/run"}', "a path of this machine ('/mnt/scratch/run')"),
        ('{"p": "/data1/x"}', "a path of this machine ('/data1/x')"),
        ('{"p": "/nvme_0/runs/a"}', "a path of this machine ('/nvme_0/runs/a')"),
        ('{"p": "~/models/x"}', "a path of this machine ('~/models/x')"),
        ("file:///exports/u/x", "a path of this machine ('file:///exports/u/x')"),
        ("see file://store7/a.png", "a path of this machine ('file://store7/a.png')"),
        ("trained on node-017.", "the name of this machine"),
        ("key: sk-1234567890", "a secret (the value of MY_API_KEY)"),
        ("see https://huggingface.co/tmp/x and a/b, 3/tmp, </think> /no_think", ""),
        ("and/or, https://x.edu/~ann/data1/x, s3://bucket/home/x, /database/x, ~/.cache/hub", ""),
        (r"$\frac{a}{b}$~/cm, Fig.~/a, 3~/4, $x \sim y$/data, {{ a ~ '/b' }} ~~/old~~", ""),
        ("`file://` or file:///path/to/cat.png, f'file:///{path}', Profile://a/b", ""),
    ],
)
def test_cards_and_configs_are_read_before_they_leave(monkeypatch, text, told):
    monkeypatch.setattr("socket.gethostname", lambda: "node-017")
    monkeypatch.setenv("MY_API_KEY", "sk-1234567890")
    if not told:
        refuse_telling(File("README.md", text.encode()))
        return
    with pytest.raises(DataError) as caught:
        refuse_telling(File("README.md", text.encode()))
    assert f"README.md holds {told}" in str(caught.value)
    assert "sk-1234567890" not in str(caught.value)


def test_only_named_kinds_of_files_leave(tmp_path):
    for name in ("a.json", "b.bin", "c.pkl", "sub/d.json", "probe.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    files, staying = publishable(tmp_path, ["*.json"], ["probe.json"])
    assert [f.name for f in files] == ["a.json", "sub/d.json"]
    assert staying == ["b.bin", "c.pkl", "probe.json"]
    with pytest.raises(DataError, match="nothing to publish"):
        publishable(tmp_path, ["*.safetensors"])
