"""What a plan says, against what is measured, stored and placed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

from virgo_ray.config import load_config
from virgo_ray.config.gpus import derive_gpus
from virgo_ray.data.ingest import survey
from virgo_ray.errors import ConfigError
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.prompts import Prompter
from virgo_ray.plan.__main__ import main
from virgo_ray.plan.cards import CARDS, MEASURED, find_card, nearest
from virgo_ray.plan.disk import checkpoint_bytes, version_bytes
from virgo_ray.plan.engines import engine_memory
from virgo_ray.plan.host import float32_head
from virgo_ray.plan.ranks import MicroBatch, Rank
from virgo_ray.plan.seats import Nodes, find_nodes, find_seats
from virgo_ray.plan.ways import find_ways
from virgo_ray.plan.whole import Machine, plan_run
from virgo_ray.plan.work import assume_material
from virgo_ray.train.model import trainable_table
from virgo_ray.train.shape import read_shape
from virgo_ray.train.speed import flops_per_token, looked_up, peak_flops
from virgo_ray.train.work import count_work
from virgo_ray.weights.layout import build_empty

ROOT = Path(__file__).parents[2]
TEXT_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "patch_size": 14, "out_hidden_size": 3584,
}  # fmt: skip
SHAPES = {}
LORA = ("train.lora.rank=16", "train.freeze_connector=true")


@pytest.fixture(scope="module")
def directory_7b(tmp_path_factory):
    path = tmp_path_factory.mktemp("7b")
    config = Qwen2_5_VLConfig(
        text_config=TEXT_7B,
        vision_config=VISION,
        tie_word_embeddings=False,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )
    config.save_pretrained(path)
    return str(path)


def config(directory, *overrides, name="single_node"):
    path = f"model.path={directory}"
    return derive_gpus(load_config(str(ROOT / f"configs/{name}.yaml"), [path, *overrides]), 1)


def shape_of(directory, cfg):
    """Counted once for each way of training."""
    key = directory, cfg.train.model_dump_json()
    if key not in SHAPES:
        SHAPES[key] = read_shape(directory, cfg)
    return SHAPES[key]


def plan_of(directory, *overrides, card="h100", nodes=None, gpus=8, name="single_node"):
    cfg = config(directory, *overrides, name=name)
    shape = shape_of(directory, cfg)

    def replan(other):
        own = shape if other.train == cfg.train else shape_of(directory, other)
        seats = find_seats(other, nodes or find_nodes(other, gpus, None))
        material = assume_material(other, own, None)
        return plan_run(other, own, Path(directory), Machine(CARDS[card], None), seats, material)

    return cfg, replan(cfg), replan


# -- counted without weights -----------------------------------------------------------------------


def test_the_tiny_model_is_counted_from_its_config_as_its_files_are():
    cfg = load_config(str(ROOT / "configs/tiny.yaml"))
    shape = shape_of(str(TINY_DIRECTORY), cfg)
    found = sum(p.stat().st_size for p in TINY_DIRECTORY.glob("*.safetensors"))
    assert abs(version_bytes(shape, "float32") / found - 1) < 0.05
    assert (shape.embedding, shape.frozen) == (0, shape.vision)


def test_a_7b_is_counted_without_any_weights(directory_7b):
    shape = shape_of(directory_7b, config(directory_7b))
    assert shape.saved == 8_292_166_656  # as its card on the hub says: 8.29 billion
    assert shape.trained == shape.saved - shape.vision
    adapted = shape_of(directory_7b, config(directory_7b, *LORA))
    assert adapted.trained == adapted.adapters == 40_370_176
    assert adapted.saved == shape.saved  # adapters are merged


# -- a rank's memory -------------------------------------------------------------------------------


# Peaks of docs/gpu-results.md, section of commit 53ab677, and the micro-batches of those rows, as
# `scripts/gpu/train_checks/fit.py` packs them: padded tokens, targets, pictures. The head of that
# commit held the logits of all targets, their gradient and two float32 copies of a part.
class OfWholeLogits(Rank):
    def logits_of_chunk(self, targets):
        logits = self.shape.vocabulary * targets
        return 4 * logits + 8 * min(logits, 1 << 26)


ON_H200 = [
    (2, 12355, 7181, 1, 25.22), (2, 23988, 15784, 2, 33.11),
    (3, 12355, 7181, 1, 25.70), (3, 23988, 15784, 2, 33.59),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "tokens", "targets", "pictures", "peak_gb"), ON_H200)
def test_a_rank_takes_what_an_h200_counted(directory_7b, stage, tokens, targets, pictures, peak_gb):
    cfg = config(directory_7b, *LORA, f"train.zero_stage={stage}")
    shape = shape_of(directory_7b, cfg)
    rank = OfWholeLogits(shape, cfg.train, "bfloat16", 1, is_gpu=True)
    batch = MicroBatch(tokens, targets, pictures * (1008 // 14) ** 2)
    planned = rank.memory(batch).peak
    assert abs(planned / 1e9 / peak_gb - 1) < 0.05
    assert Rank(shape, cfg.train, "bfloat16", 1, is_gpu=True).memory(batch).peak < planned


def test_the_peaks_that_are_held_against_the_plan_are_those_of_the_docs():
    rows = re.findall(r"^\| fit/7b_lora/.*$", section("53ab677"), re.MULTILINE)
    peaks = {float(row.split("|")[6]) for row in rows}
    assert peaks == {row[-1] for row in ON_H200}


def test_partitioning_recomputing_and_adapters_each_take_less(directory_7b):
    batch = MicroBatch(16384, 16384, 0)

    def peak(*overrides, ranks=8):
        cfg = config(directory_7b, *overrides)
        return Rank(shape_of(directory_7b, cfg), cfg.train, "bfloat16", ranks, True).memory(batch)

    kept = peak("train.gradient_checkpointing=false").micro_batch
    assert peak().micro_batch < kept
    assert peak(*LORA).peak < peak().peak < peak("train.zero_stage=2").peak
    assert peak("train.zero_stage=2").update < peak("train.zero_stage=0").update
    assert peak(ranks=64).peak < peak(ranks=8).peak


def test_offloading_moves_bytes_from_the_gpu_to_the_host(directory_7b):
    def rank(*overrides):
        cfg = config(directory_7b, "train.zero_stage=3", *overrides)
        return Rank(shape_of(directory_7b, cfg), cfg.train, "bfloat16", 8, True)

    here, some, most = (
        rank(f"train.offload={place}")
        for place in ("none", "optimizer", "optimizer_and_parameters")
    )
    batch = MicroBatch(16384, 16384, 0)
    trained, held = here.shape.trained / 8, here.shape.held / 8
    assert here.memory(batch).update - some.memory(batch).update > 16 * trained
    assert some.memory(batch).load - most.memory(batch).load == pytest.approx(2 * held)
    assert (here.offloaded(), some.offloaded()) == (0, pytest.approx(20 * trained))
    assert most.offloaded() == pytest.approx(20 * trained + 2 * held)


def test_keys_that_are_handed_to_deepspeed_are_in_the_plan(directory_7b):
    def peak(*overrides):
        cfg = config(directory_7b, "train.zero_stage=3", *overrides)
        shape = shape_of(directory_7b, cfg)
        return Rank(shape, cfg.train, "bfloat16", 16, True).memory(MicroBatch(8192, 8192, 0)).peak

    zero = "train.deepspeed.zero_optimization"
    assert peak(f"{zero}.zero_hpz_partition_size=8") - peak() == pytest.approx(
        2 * 8.29e9 / 8, rel=0.01
    )
    assert peak(f"{zero}.stage3_max_live_parameters=0") < peak()
    assert peak("train.deepspeed.communication_data_type=bf16") < peak()


def test_adapters_that_go_on_are_loaded_beside_a_second_copy_of_the_model(directory_7b):
    def rank(*overrides, is_gpu=True):
        cfg = config(directory_7b, *LORA, *overrides)
        return Rank(shape_of(directory_7b, cfg), cfg.train, "bfloat16", 8, is_gpu)

    def load(*overrides, is_gpu=True):
        return rank(*overrides, is_gpu=is_gpu).memory(MicroBatch(1024, 1024, 0)).load

    again, host = "train.restart_from=previous", ("train.zero_stage=2",)
    held = 2 * rank().shape.held
    assert load(*host, again, is_gpu=False) == 2 * held > load(*host, is_gpu=False)
    assert load(*host, again) == load(*host)  # read into host memory
    saved = 2 * rank().shape.saved
    assert rank(*host, again).reading_on_host() == 2 * rank(*host).reading_on_host() == 2 * saved
    assert rank("train.zero_stage=3", again).reading_on_host() == 0

    def together(*overrides):
        return sum(item.bytes for item in plan_of(directory_7b, *LORA, *overrides)[1].host)

    assert together(*host, again) - together(*host) == 8 * saved


def test_float32_logits_of_a_bfloat16_model_take_a_copy_of_the_head_on_a_cpu(directory_7b):
    cfg = config(directory_7b)
    shape, batch = shape_of(directory_7b, cfg), MicroBatch(64, 64, 0)
    copy = 4 * 152064 * 3584

    def at_logits(dtype, is_gpu, kept="bfloat16"):
        return Rank(shape, cfg.train, kept, 8, is_gpu, dtype)._at_logits(batch)

    assert at_logits("float32", False) - at_logits(None, False) == copy
    assert at_logits("float32", True) == at_logits(None, True)
    assert at_logits("float32", False, "float32") == at_logits(None, False, "float32")
    wide = config(directory_7b, "model.head_dtype=float32")
    assert (float32_head(cfg, shape), float32_head(wide, shape)) == (0, copy)


# -- seats -----------------------------------------------------------------------------------------


def test_actors_sit_where_the_placement_would_put_them(directory_7b):
    cfg = config(
        directory_7b, "rollout.num_workers=4", "rollout.gpus_per_worker=4", "train.num_workers=16",
        "placement.mode=colocated",
    )  # fmt: skip
    seats = find_seats(cfg, find_nodes(cfg, 8, None))
    assert seats.nodes == Nodes(2, 8)
    assert seats.engines[1] == ("0/4", "0/5", "0/6", "0/7")
    assert seats.ranks[8] == ("1/0",)
    assert (seats.engines_per_node, seats.ranks_per_node) == (2, 8)


def test_too_few_gpus_or_an_engine_over_two_nodes_do_not_fit(directory_7b):
    cfg = config(directory_7b)
    assert find_seats(cfg, Nodes(1, 4)).problem == "8 GPUs are asked for, 4 are there"
    wide = config(directory_7b, "rollout.num_workers=1", "rollout.gpus_per_worker=8")
    assert "node" in find_seats(wide, Nodes(2, 4)).problem
    with pytest.raises(ConfigError, match="--gpus 8 --card h100"):
        find_nodes(cfg, None, None)


# -- cards and hours -------------------------------------------------------------------------------


def section(commit):
    pages = (ROOT / "docs/gpu-results.md").read_text().split("\n## ")
    return next(page for page in pages if f"commit {commit}" in page.splitlines()[0])


def test_the_measured_rows_are_those_of_the_docs():
    text = (ROOT / "docs/gpu-results.md").read_text()
    for row in MEASURED:
        cells = [line.split(" | ") for line in text.splitlines() if f"| {row.row} | ok" in line]
        assert any(float(cell[4]) == row.mfu for cell in cells), row


def test_hours_are_an_assumption_on_a_card_that_was_not_measured(directory_7b):
    for card, is_measured in (("h200", True), ("h100", False)):
        _, plan, _ = plan_of(directory_7b, card=card)
        for phase in plan.phases:
            is_fit = phase.name.startswith("fit")
            assert phase.basis.startswith("measured" if is_fit and is_measured else "assumed")
            assert phase.hours > 0
    assert nearest(True, 3, 20_000).row == "fit/7b_lora/zero3/16384"
    with pytest.raises(ConfigError, match="expected one of a100"):
        find_card("rtx")


# -- the verdict -----------------------------------------------------------------------------------


def test_the_7b_config_fits_a_node_of_h100_and_not_one_of_l40s(directory_7b):
    cfg, plan, replan = plan_of(directory_7b)
    assert plan.is_fitting, plan.problems
    assert plan.longest_that_fits > cfg.model.max_length
    cfg, small, replan = plan_of(directory_7b, "train.micro_batch_tokens=65536", card="l40s")
    assert not small.is_fitting
    ways = {way.keys: way for way in find_ways(cfg, small, replan)}
    assert ways["train.lora={rank: 16} train.freeze_connector=true"].peak < ways["as it is"].peak
    assert ways["train.offload=optimizer"].fit_peak < ways["as it is"].fit_peak
    assert "of a node's host memory" in ways["train.offload=optimizer_and_parameters"].remark


def test_the_longest_micro_batch_that_fits_does_and_a_longer_one_does_not(directory_7b):
    _, plan, _ = plan_of(directory_7b)
    most = plan.longest_that_fits
    over = f"train.micro_batch_tokens={most + 64}"
    assert plan_of(directory_7b, f"train.micro_batch_tokens={most}")[1].is_fitting
    assert not plan_of(directory_7b, over)[1].is_fitting


def test_an_engine_without_room_for_one_sequence_is_a_problem(directory_7b):
    cfg, plan, _ = plan_of(directory_7b, "rollout.gpu_memory_utilization=0.225")
    assert any("KV cache" in problem for problem in plan.problems)
    whole = engine_memory(cfg, plan.shape, CARDS["h100"].memory)
    wide = cfg.model_copy(update={"rollout": cfg.rollout.model_copy(update={"gpus_per_worker": 2})})
    assert engine_memory(wide, plan.shape, CARDS["h100"].memory).kv_tokens > whole.kv_tokens
    eight = config(
        directory_7b, "rollout.gpu_memory_utilization=0.225",
        "rollout.engine_args.kv_cache_dtype=fp8", "rollout.engine_args.max_num_batched_tokens=2048",
    )  # fmt: skip
    small = engine_memory(eight, plan.shape, CARDS["h100"].memory)
    assert small.step * 4 == whole.step and small.kv_tokens > 2 * whole.kv_tokens


def test_too_little_host_memory_is_a_problem(directory_7b):
    cfg, plan, _ = plan_of(directory_7b)
    machine = Machine(CARDS["h100"], 10**9)
    short = plan_run(cfg, plan.shape, Path(directory_7b), machine, plan.seats, plan.material)
    assert any("host memory" in problem for problem in short.problems)
    asleep = plan.host[0]
    assert asleep.bytes == pytest.approx(8 * 1.9 * 2 * plan.shape.saved)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_fit_counts_the_flops_that_the_plan_counts(directory_7b, tmp_path, is_tied):
    described = json.loads((Path(directory_7b) / "config.json").read_text())
    described["tie_word_embeddings"] = described["text_config"]["tie_word_embeddings"] = is_tied
    (tmp_path / "config.json").write_text(json.dumps(described))
    cfg = config(str(tmp_path), "train.gradient_checkpointing=true")
    shape = read_shape(str(tmp_path), cfg)
    model = build_empty(tmp_path, False, "model")
    counted = flops_per_token(trainable_table(model), cfg.train, looked_up(model))
    assert (shape.embedding == 0) is is_tied
    assert counted == 8 * shape.decoder


def test_tables_that_the_plan_cannot_import_say_what_the_trainer_says():
    """The trainer's files load PyTorch, which a plan does without until it has read its config."""
    assert {name: peak_flops(name.upper()) for name in CARDS} == {
        name: card.flops for name, card in CARDS.items()
    }


def test_checkpoints_grow_with_what_is_trained(directory_7b):
    _, plan, _ = plan_of(directory_7b)
    assert plan.disk.checkpoints == 3 * 12 * plan.shape.trained
    fewer, zero2 = replace(plan.shape, trained=1000), config(directory_7b, "train.zero_stage=2")
    assert checkpoint_bytes(fewer, zero2.train, "bfloat16") == 14_000


def test_old_versions_that_go_take_no_disk(directory_7b):
    rule = ("rounds=20", "weights.keep_last=2")
    whole = plan_of(directory_7b, "rounds=20")[1].disk
    cut = plan_of(directory_7b, *rule)[1].disk
    milestones = plan_of(directory_7b, *rule, "weights.keep_every=10")[1].disk
    ungated = plan_of(directory_7b, *rule, "gates=null")[1].disk
    few = plan_of(directory_7b, "rounds=2", "weights.keep_last=2")[1].disk
    found = [d.num_versions for d in (whole, cut, milestones, ungated, few)]
    assert found == [21, 5, 8, 4, 3]
    assert whole.peak - cut.peak == 16 * whole.version
    assert whole.round - cut.round == whole.version


# -- the command -----------------------------------------------------------------------------------


def test_the_command_counts_the_prompts_that_are_here(tmp_path, capsys):
    overrides = [
        f"run_dir={tmp_path}", "data.train.num=6", "data.heldout.num=3", "data.seed_thoughts.num=4",
    ]  # fmt: skip
    tiny = str(ROOT / "configs/tiny.yaml")
    assert main(["--json", tiny, *overrides]) == 0
    said = json.loads(capsys.readouterr().out)
    cfg = load_config(tiny, overrides)
    counted = survey(cfg, Prompter(cfg.model, cfg.prompt)).num_tokens
    for name, source in (("train", "train"), ("heldout", "heldout"), ("seeds", "seed_thoughts")):
        assert said["tokens"][name]["total"] == sum(counted[source])
        assert said["tokens"][name]["is_counted"]
    assert said["gpu_bytes"] == {} and said["fits"]


def test_the_command_says_what_does_not_fit_and_ends_with_1(directory_7b, capsys):
    single = [str(ROOT / "configs/single_node.yaml"), f"model.path={directory_7b}"]
    assert main(["--gpus", "8", "--card", "l40s", *single, "train.micro_batch_tokens=65536"]) == 1
    page = capsys.readouterr().out
    assert "it does not fit:" in page and "what would change it" in page
    assert "lengths are assumed" in page
    assert main(["--gpus", "4", "--nodes", "1", "--card", "h200", *single]) == 1
    assert "8 GPUs are asked for, 4 are there" in capsys.readouterr().out
    assert main(["--gpus", "8", *single]) == 2
    assert main([*single, "rollout.gpus_per_worker=1"]) == 2
    assert main(single) == 0
    assert "planned for CPUs alone" in capsys.readouterr().out


def test_the_config_of_reinforcement_on_one_node_fits_eight_h100(directory_7b, capsys):
    path = str(ROOT / "configs/grpo_single_node.yaml")
    assert main(["--gpus", "8", "--card", "h100", path, f"model.path={directory_7b}"]) == 0
    assert "it does not fit" not in capsys.readouterr().out


def test_the_command_refuses_keys_without_gpus_and_says_what_it_does_not_count(
    directory_7b, capsys
):
    single = [str(ROOT / "configs/single_node.yaml"), f"model.path={directory_7b}"]
    fp8 = "rollout.engine_args.quantization=fp8"
    for key in ("train.liger=true", fp8):
        assert main([*single, key]) == 2
        said = capsys.readouterr().err
        assert "keys that need GPUs" in said and "--gpus 8 --card h100" in said
    assert main(["--gpus", "8", "--card", "h100", *single, fp8]) == 0
    assert "not counted: rollout.engine_args of quantization=fp8" in capsys.readouterr().out


# -- what an example costs -------------------------------------------------------------------------


def test_the_work_of_a_7b_is_that_of_its_matrices(directory_7b):
    cfg = config(directory_7b, "train.gradient_checkpointing=false")
    shape = shape_of(directory_7b, cfg)
    work = count_work(shape, cfg.train)
    head = 3584 * 152064
    assert work.token / 6 == pytest.approx(shape.decoder - head, rel=1e-4)
    assert work.target == 2 * head * (3 + 1)  # logits are computed twice
    assert work.pair == 4 * 28 * 28 * 128 * (1 + 2.5)
    assert work.picture_token / 2 == pytest.approx(4 * shape.vision + 3 * shape.connector)
    assert (work.patch_pair, work.window_pair) == (4 * 1280 * 4, 4 * 1280 * 28)
    assert (work.window, work.patches_per_token) == (64, 4)


def test_what_is_frozen_or_recomputed_changes_the_work(directory_7b):
    def work(*overrides):
        cfg = config(directory_7b, *overrides)
        return count_work(shape_of(directory_7b, cfg), cfg.train)

    plain = work("train.gradient_checkpointing=false")
    again = work("train.gradient_checkpointing=true")
    assert again.token == plain.token * 4 / 3 and again.pair == plain.pair * 4.5 / 3.5
    assert again.picture_token == plain.picture_token and again.target == plain.target
    adapted = work("train.gradient_checkpointing=false", *LORA)
    assert 0.66 < adapted.token / plain.token < 0.68
    seen = work("train.gradient_checkpointing=false", "train.freeze_vision=false")
    assert 2.8 < seen.picture_token / plain.picture_token < 3


@pytest.mark.parametrize(
    ("kind", "vision", "full", "window"),
    [
        (Qwen2VLConfig, {"depth": 4, "embed_dim": 64}, 4, 0),
        (Qwen3VLConfig, {"depth": 4, "hidden_size": 64, "deepstack_visual_indexes": [1]}, 4, 0),
        (Qwen2_5_VLConfig, {"depth": 4, "hidden_size": 64, "fullatt_block_indexes": [3]}, 1, 64),
    ],
)
def test_every_family_says_how_its_vision_tower_looks(tmp_path, kind, vision, full, window):
    text = TEXT_7B | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    written = kind(text_config=text | heads, vision_config=vision | {"num_heads": 4})
    written.save_pretrained(tmp_path)
    shape = read_shape(str(tmp_path), config(str(tmp_path)))
    assert (shape.vision_full_layers, shape.vision_window) == (full, window)
    assert shape.query_width == 64
