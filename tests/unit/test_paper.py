"""The paper's rows as configs, and the table of their miniature."""

import json
import sys
from pathlib import Path

import pytest

from virgo_ray.config import dump_config, load_config

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "configs/paper"
ROWS = ("base", "d_t", "d_qvq", "d_sd", "d_t_d_sd")
sys.path.insert(0, str(ROOT / "scripts"))
import paper_tiny  # noqa: E402 - a script, not a package
import results_table  # noqa: E402


def load(row, size):
    name = f"tiny_{row}" if size == "tiny" else f"{row}_{size}"
    return load_config(str(PAPER / f"{name}.yaml"))


def test_every_row_of_every_size_is_there_and_nothing_else():
    expected = {f"{row}_{size}" for row in ROWS for size in ("7b", "72b")}
    assert {p.stem for p in PAPER.glob("*.yaml")} == expected | {f"tiny_{row}" for row in ROWS}


def test_no_part_is_left_over():
    text = "".join(p.read_text() for p in PAPER.glob("*.yaml"))
    assert [p.name for p in (PAPER / "parts").glob("*.yaml") if p.name not in text] == []


@pytest.mark.parametrize("size", ["7b", "72b", "tiny"])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_loads_and_its_resolved_config_stands_alone(row, size, tmp_path):
    cfg = load(row, size)
    (tmp_path / "config.yaml").write_text(dump_config(cfg))
    assert load_config(str(tmp_path / "config.yaml")) == cfg
    assert row in cfg.name and cfg.name in cfg.run_dir


@pytest.mark.parametrize("size", ["7b", "72b", "tiny"])
def test_the_rows_differ_in_what_is_learnt_only(size):
    rows = {row: load(row, size) for row in ROWS}
    kinds = {
        row: (cfg.rounds, cfg.seed_round, cfg.teacher is not None) for row, cfg in rows.items()
    }
    assert kinds == {
        "base": (0, False, False),
        "d_t": (0, True, False),
        "d_qvq": (1, False, True),
        "d_sd": (1, True, False),
        "d_t_d_sd": (1, True, False),
    }
    trains = {row: rows[row].train for row in ("d_qvq", "d_sd", "d_t_d_sd")}
    shares = {row: (train.seed_share, train.seed_floor) for row, train in trains.items()}
    assert shares == {"d_qvq": (0.0, 0.0), "d_sd": (0.0, 0.0), "d_t_d_sd": (1.0, 1.0)}
    same = [
        (cfg.model, cfg.evaluate, cfg.data.heldout, cfg.select, cfg.prompt,
         cfg.train.model_copy(update={"seed_share": 0.5, "seed_floor": 0.5}))
        for cfg in rows.values()
    ]  # fmt: skip
    assert all(other == same[0] for other in same)


@pytest.mark.parametrize("size", ["7b", "72b"])
def test_the_recipe_is_as_published(size):
    cfg = load("d_t_d_sd", size)
    train = cfg.train
    assert cfg.model.path == f"Qwen/Qwen2-VL-{size.upper()}-Instruct"
    assert (cfg.model.max_length, cfg.model.dtype) == (32_768, "bfloat16")
    assert (train.lr, train.warmup_ratio, train.batch_size) == (7e-6, 0.1, 128)
    assert (train.num_epochs, train.stop_epoch, train.zero_stage) == (10, 5, 3)
    assert (train.restart_from, train.freeze_vision, train.freeze_connector) == (
        "base",
        True,
        False,
    )
    sampling = cfg.evaluate.sampling
    assert (sampling.temperature, sampling.repetition_penalty) == (0.0, 1.05)
    assert sampling.max_tokens == 8192
    assert (cfg.explore.num_samples, cfg.explore.screen) == (5, True)
    assert (cfg.select.policy, cfg.select.min_pass_rate) == ("faithful", 0.8)
    asked = [part.num for part in cfg.data.train.parts]
    kept = (279, 563, 551, 555, 568, 589, 509, 548)
    assert asked == [None, *(3 * n for n in kept[1:])]  # of Geos there are only some 500
    assert 3 * sum(kept) == cfg.explore.num_problems == 3 * cfg.select.max_traces
    assert cfg.prompt.system == "You are a helpful assistant."


def entry(label, share, **more):
    return {
        "round": label, "pass_at_1": share, "pass_at_k": 0.9, "blank_image_pass_at_1": None,
        "mean_thought_tokens": 110.4, "long_format_share": 1.0, "truncated_share": 0.0,
        "accepted": 3, "asked": 4, "trained_tokens": 1234567, **more,
    }  # fmt: skip


def write_report(root, name, seed, entries):
    path = root / f"{name}-seed{seed}"
    path.mkdir(parents=True)
    (path / "report.json").write_text(json.dumps({"rounds": entries}))


def test_the_table_has_mean_and_spread_over_the_seeds_that_ended(tmp_path):
    for seed, share in ((0, 0.7), (1, 0.8)):
        rounds = [entry("base", 0.125), entry(0, share), entry(1, share + 0.1)]
        write_report(tmp_path, "d_t_d_sd", seed, rounds)
    write_report(tmp_path, "d_qvq", 0, [entry("base", 0.1), entry(0, 0.1), entry(1, 0.5)])
    text = paper_tiny.table({s: paper_tiny.rows_of(tmp_path, s) for s in (0, 1, 2)})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n")]
    rows = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert list(rows) == ["base", "D_T", "D_QVQ (teacher)", "D_T and D_SD"]
    assert rows["D_T"]["pass@1"] == "75.0 ± 7.1" and rows["D_T"]["seeds"] == "2"
    assert rows["D_T"]["pass@1 of each seed"] == "70.0, 80.0"
    assert rows["D_T"]["accepted"] == "-" and rows["D_T and D_SD"]["accepted"] == "75.0 ± 0.0"
    assert rows["D_QVQ (teacher)"]["pass@1"] == "50.0" and rows["base"]["blank image"] == "-"
    assert rows["base"]["trained tokens"] == "1,234,567 ± 0"


def test_the_table_of_a_runs_rounds_has_means_over_its_seeds(tmp_path, monkeypatch, capsys):
    for seed, share in ((0, 0.7), (1, 0.8)):
        rounds = [entry("base", 0.125, maj_at_k=0.25), entry(0, share, maj_at_k=0.5)]
        write_report(tmp_path, "tiny", seed, rounds)
    runs = " ".join(str(tmp_path / f"tiny-seed{seed}") for seed in (0, 1, 2))
    monkeypatch.setattr(sys, "argv", ["results_table.py", f"a title={runs}"])
    assert results_table.main() == 0
    said = capsys.readouterr()
    assert "tiny-seed2/report.json is missing" in said.err
    title, _, heads, _, base, last = said.out.strip().split("\n")
    assert title == "### a title" and heads.count("|") == base.count("|")
    assert base.startswith(
        "| base | 12.5 | 90.0 | 25.0 | - | 100.0 | 0.0 | 110 | - | - | - | 1234567 |"
    )
    assert last.startswith("| 0 | 75.0 |") and last.endswith(" | 70.0, 80.0 |")


def test_a_run_that_ended_is_not_run_again(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(
        paper_tiny, "run", lambda config, overrides: called.append((config, overrides))
    )
    write_report(tmp_path, "d_sd", 1, [])
    (tmp_path / "v0003").mkdir()
    argv = ["paper_tiny.py", "--seeds", "1", "--root", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*argv, "--teacher", str(tmp_path / "v0003"), "train.lr=1e-3"])
    assert paper_tiny.main() == 0
    assert [Path(config).stem for config, _ in called] == ["tiny_d_t_d_sd", "tiny_d_qvq"]
    assert called[0][1] == ["seed=1", f"run_dir={tmp_path}/d_t_d_sd-seed1", "train.lr=1e-3"]
    assert f"teacher.path={tmp_path}/v0003" in called[1][1]
    assert (tmp_path / "table.md").exists()
