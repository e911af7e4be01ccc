"""Keys that contradict each other are refused before a run starts; what follows from others is
filled in."""

from pathlib import Path

import pytest
import yaml

from virgo_ray import run
from virgo_ray.config import (
    GrpoConfig,
    ObjectiveConfig,
    derive_gpus,
    dump_config,
    find_weaknesses,
    fingerprint,
    load_config,
    refuse_contradictions,
)
from virgo_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs/tiny.yaml")


RLOO = "train.objective.name=rloo train.restart_from=previous"
GRPO = "train.objective.name=grpo train.restart_from=previous"
DPO = "train.objective.name=dpo"
CARRIED = "train.carry_optimizer=true train.restart_from=previous train.schedule=constant"
OBJECTIVES = [
    (f"{GRPO} explore.extra.max_samples=4", "explore.extra.max_samples=4 with train.objective"),
    (f"{DPO} explore.num_samples=1", "a group of one has nothing to be compared with"),
    (f"{GRPO} explore.sampling.top_p=0.9", "explore.sampling.top_p=0.9 with train.objective"),
    (f"{RLOO} explore.sampling.top_k=20", "explore.sampling.top_k=20 with train.objective"),
    (
        f"{GRPO} explore.sampling.repetition_penalty=1.1",
        "repetition_penalty=1.1 with train.objective.name=grpo: it changes the probabilities",
    ),
    ("train.objective.name=grpo", "train.restart_from=base with train.objective.name=grpo"),
    (f"{GRPO} train.lora.dropout=0.1", "train.lora.dropout=0.1 with train.objective.name=grpo"),
    (f"{DPO} train.lora.dropout=0.1", "train.lora.dropout=0.1 with train.objective.name=dpo"),
    (f"{GRPO} teacher.path=/weights", "a teacher with train.objective.name=grpo"),
    (f"{RLOO} train.objective.num_steps=2", "train.objective.num_steps=2 with"),
    (f"{RLOO} train.num_tokens=1000", "train.num_tokens with train.objective.name=rloo"),
    (f"{DPO} train.packing=false", "the two rollouts of a pair are one packed row"),
    (f"{DPO} train.objective.grpo.clip=cispo", "train.objective.grpo is set with"),
    (f"{DPO} train.objective.max_advantage=2", "name=dpo, which has no advantages"),
    (f"{GRPO} train.num_tokens=1000", "train.num_tokens with train.objective.name=grpo, whose fit"),
    (f"{RLOO} explore.sampling.temperature=0.001", "has 0.001 with train.objective.name=rloo"),
    (f"{DPO} explore.temperatures=[1,0]", "explore.temperatures=[1.0, 0.0] makes the 3 rollouts"),
    ("train.objective.max_advantage=2", "train.objective.max_advantage is set with"),
]  # fmt: skip


def load(*overrides):
    return load_config(TINY, overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            "rollout.gpus_per_worker=1 train.gpus_per_worker=0",
            "rollout.gpus_per_worker=1 with train.gpus_per_worker=0 puts one side on GPUs",
        ),
        ("rollout.gpus_per_worker=0 train.gpus_per_worker=1", "expected both 0 or neither"),
        (
            "weights.publish_every=2 push.transport=disk",
            "weights.publish_every=2 with push.transport=disk: engines would read weights that are",
        ),
        (
            "weights.publish_every=2 train.restart_from=previous",
            "expected train.resident=true, or weights.publish_every=1",
        ),
        (
            "model.dtype=bfloat16 push.max_logprob_diff=0.01",
            "push.max_logprob_diff=0.01 with model.dtype=bfloat16",
        ),
        (
            "explore.sampling.temperature=0",
            "explore.sampling.temperature=0 makes the 3 rollouts of a problem",
        ),
        ("explore.temperatures=[0.8,0]", "explore.temperatures=[0.8, 0.0] makes the 3 rollouts"),
        ("explore.sampling.top_k=1", "explore.sampling.top_k=1 makes the 3 rollouts"),
        (
            "explore.num_samples=1 explore.extra.max_samples=4 explore.sampling.temperature=0",
            "makes the 5 rollouts",
        ),
        (
            "evaluate.sampling.temperature=0",
            "evaluate.sampling.temperature=0 makes the evaluate.k=4 samples",
        ),
        (
            "select.min_correct=4",
            "select.min_correct=4 can never be met with 3 rollouts of a problem",
        ),
        (
            "explore.num_samples=1 select.min_correct=2",
            "select.min_correct=2 can never be met with 1 rollouts",
        ),
        (
            "explore.extra.max_samples=2 explore.extra.until_correct=6",
            "explore.extra.until_correct=6 can never be met with 5 rollouts",
        ),
        (
            "select.policy=faithful select.split=hard select.min_pass_rate=0.4",
            "select.split=hard takes pass rates from 0.4 up to select.min_pass_rate=0.4",
        ),
        (
            "data.seed_thoughts.min_tokens=9 data.seed_thoughts.max_tokens=8",
            "data.seed_thoughts.min_tokens=9 with max_tokens=8 lets no thought pass",
        ),
        ("data.seed_thoughts.min_tokens=320", "lets no thought pass that fits model.max_length"),
        (
            "prompt.thought_format=think verify.formats=[['[a]','[/a]']]",
            "prompt.thought_format=think teaches thoughts between <think> and </think>",
        ),
        *OBJECTIVES,
        ("gates.min_entropy=0.1", "gates.min_entropy=0.1 with train.objective.name=imitation"),
        (f"{DPO} gates.max_kl=0.1", "gates.max_kl=0.1 with train.objective.name=dpo"),
        (f"{GRPO} gates.max_kl=1 train.objective.num_steps=1", "is 0 in a first step"),
        (
            f"{CARRIED} train.resident=true weights.publish_every=2",
            "weights.publish_every=2 with train.carry_optimizer=true",
        ),
        (
            f"{GRPO} {CARRIED} rounds=9 train.schedule=linear train.schedule_steps=35",
            "train.schedule_steps=35 with rounds=9 of 4 optimizer steps",
        ),
        (
            "gates.max_perception_fall=0.1",
            "gates.max_perception_fall=0.1 limits what is not measured; expected "
            "evaluate.perception",
        ),
        ("gates.max_text_fall=0.1", "expected evaluate.text to be a source"),
        ("gates.max_blank_image_rise=0.1 evaluate.blank_image=false", "evaluate.blank_image"),
        ("gates.min_distinct_share=0.3 evaluate.k=1", "expected evaluate.k to be 2 or more"),
        ("select.blank_solved_weight=0.5", "expected explore.blank_probe=true"),
        (
            "train.seed_share=0",
            "train.seed_share=0 leaves a round without seed thoughts, and train.seed_floor=1, the "
            "default, puts them back; expected train.seed_floor=0 for traces alone",
        ),
        ("train.seed_share=[0.5,0]", "train.seed_share=[0.5, 0.0] leaves a round without"),
        ("push.transport=adapter", "push.transport=adapter without train.lora"),
    ],
)
def test_what_cannot_hold_together_is_refused_with_values_and_a_way_out(overrides, expected):
    with pytest.raises(ConfigError) as error:
        refuse_contradictions(load(*overrides.split()))
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        "model.dtype=bfloat16",
        "explore.num_samples=1 explore.sampling.temperature=0",
        "explore.sampling.temperature=0 explore.temperatures=[0.7]",
        "rounds=0 explore.sampling.temperature=0",
        "evaluate.k=1 evaluate.sampling.temperature=0",
        "explore.num_samples=1",
        "explore.num_samples=1 explore.extra.max_samples=1",
        "explore.num_samples=2 explore.extra.max_samples=1",
        "select.policy=faithful select.min_correct=9",
        "select.policy=faithful select.split=hard",
        "select.policy=faithful select.split=hard explore.num_samples=2",
        "evaluate.blank_image=false evaluate.k=1",
        "train.seed_share=0 train.seed_floor=0",
        "train.seed_share=0 train.seed_floor=0.5",
        "train.seed_share=[0.5,0.2]",
        "gates=null",
        "rollout.gpus_per_worker=1",
        "rollout.gpus_per_worker=8 train.gpus_per_worker=1",
        "push.transport=adapter train.lora.rank=4",
    ],
)
def test_what_can_hold_together_is_let_through(overrides):
    assert refuse_contradictions(load(*overrides.split())) == []


def test_the_command_refuses_before_it_reads_any_data(tmp_path, capsys):
    words = [TINY, f"run_dir={tmp_path}/run", "select.min_correct=7", "evaluate.sampling.top_k=1"]
    assert run.main(words) == 2
    said = capsys.readouterr().err
    assert "select.min_correct=7 can never be met" in said and "evaluate.sampling.top_k=1" in said
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_begun_with_a_contradiction_goes_on_and_is_warned(tmp_path, capsys):
    words = [f"run_dir={tmp_path}", "evaluate.sampling.temperature=0"]
    (tmp_path / "config.yaml").write_text(dump_config(load(*words)))
    (tmp_path / "ledger.json").write_text("{}")
    cfg = run.load_run_config(TINY, words)
    assert cfg.evaluate.sampling.temperature == 0
    assert (
        "warning: evaluate.sampling.temperature=0 makes the evaluate.k=4" in capsys.readouterr().out
    )
    with pytest.raises(ConfigError, match=r"min_correct=7 can never be met") as error:
        run.load_run_config(TINY, [*words, "select.min_correct=7"])
    assert "temperature" not in str(error.value)


def test_few_examples_a_rank_are_noted_with_what_would_serve(tmp_path, capsys):
    assert find_weaknesses(load("train.batch_size=32", "train.num_workers=8")) == []
    (said,) = find_weaknesses(load("train.batch_size=24", "train.num_workers=8"))
    assert "leaves 3 examples a rank" in said and "train.num_workers=3 where" in said
    (said,) = find_weaknesses(load(DPO, "train.micro_batch_tokens=639"))
    assert "of up to 640 tokens (twice model.max_length)" in said
    assert find_weaknesses(load(DPO)) == find_weaknesses(load("train.micro_batch_tokens=639")) == []
    assert find_weaknesses(load("train.batch_size=1", "train.num_workers=1")) == []
    (said,) = find_weaknesses(load("train.batch_size=128", "train.num_workers=64"))
    assert "leaves 2 examples a rank" in said
    assert "train.num_workers=16 where memory allows, would keep them busy" in said
    assert "train.batch_size=512 (another recipe)" in said
    words = [f"run_dir={tmp_path}/run", "train.batch_size=4", "train.num_workers=2"]
    run.load_run_config(TINY, words)
    assert "note: train.batch_size=4 over train.num_workers=2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "num_gpus", "expected"),
    [
        ((None, None), 0, (0, 0)),
        ((None, None), 8, (1, 1)),
        ((8, None), 64, (8, 1)),
        ((8, None), 0, (8, 1)),
        ((0, None), 8, (0, 0)),
        ((None, 1), 0, (1, 1)),
        ((None, 0), 8, (0, 0)),
        ((2, 1), 8, (2, 1)),
    ],
)
def test_gpus_of_actors_follow_from_the_cluster_unless_they_are_said(said, num_gpus, expected):
    keys = ("rollout.gpus_per_worker", "train.gpus_per_worker")
    given = [f"{k}={'null' if v is None else v}" for k, v in zip(keys, said, strict=True)]
    cfg = load(*given)
    derived = derive_gpus(cfg, num_gpus)
    assert (derived.rollout.gpus_per_worker, derived.train.gpus_per_worker) == expected
    assert fingerprint(derived) == fingerprint(cfg)
    assert derive_gpus(derived, 0) == derived
    stored = yaml.safe_load(dump_config(cfg))
    assert (stored["rollout"]["gpus_per_worker"], stored["train"]["gpus_per_worker"]) == said


@pytest.mark.parametrize(
    "overrides",
    [
        f"{GRPO} gates.max_kl=0.1 gates.min_entropy=0.1", f"{RLOO} gates.min_entropy=0.1",
        f"{GRPO} {CARRIED} rounds=9 train.schedule=linear train.schedule_steps=36",
        GRPO, RLOO, DPO, f"{DPO} explore.sampling.top_p=0.9", f"{DPO} train.restart_from=base",
        "train.objective=reward_weighted teacher.path=/weights",
        f"{GRPO} train.objective.grpo.old_logprobs=sampler train.objective.num_steps=4",
        "train.objective.name=reward_weighted train.lora.dropout=0.1",
    ],
)  # fmt: skip
def test_objectives_that_hold_together_are_let_through(overrides):
    assert refuse_contradictions(load(*overrides.split())) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("clip=cispo train.objective.grpo.ratio=sequence", "clip=cispo with ratio=sequence"),
        ("importance=tis train.objective.grpo.old_logprobs=sampler", "corrected twice"),
        (
            "importance=none train.objective.grpo.importance_bounds=[0,2]",
            "importance_bounds is set",
        ),
        ("old_logprobs=sampler train.objective.grpo.veto=0.1", "veto is set where tokens are not"),
        ("importance_bounds=[2,0.5]", "expected the lower one first"),
        ("eps_low=1.5", "eps_low=1.5: expected less than 1 with clip=ppo"),
    ],
)
def test_options_of_grpo_that_cannot_hold_together_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        load("train.objective.name=grpo", *f"train.objective.grpo.{options}".split())


def test_a_clip_follows_what_is_clipped():
    def epsilons(**options):
        return GrpoConfig(**options).epsilons

    assert epsilons() == (0.2, 0.28) and epsilons(ratio="sequence") == (3e-4, 4e-4)
    assert epsilons(clip="cispo") == (1.0, 4.0) and epsilons(eps_low=0.1) == (0.1, 0.28)
    assert (GrpoConfig().weighting, GrpoConfig().bounds) == ("icepop", (0.5, 5.0))
    assert GrpoConfig(old_logprobs="sampler").weighting == "none"
    assert GrpoConfig(importance="tis").bounds == (0.0, 2.0)


def test_policy_gradients_have_a_number_of_steps():
    steps = {
        name: ObjectiveConfig(name=name).steps for name in ("imitation", "rloo", "grpo", "dpo")
    }
    assert steps == {"imitation": None, "rloo": 1, "grpo": 4, "dpo": None}
    assert ObjectiveConfig(name="grpo", num_steps=2).steps == 2


def test_imitation_leaves_the_fingerprint_of_a_fit_as_it_was():
    train = load().train
    assert "objective" not in train.model_dump(exclude_defaults=True)
    assert "schedule" not in train.model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("train.carry_optimizer=true", "carry_optimizer=true with restart_from=base"),
        ("train.restart_from=previous train.carry_optimizer=true", "or schedule_steps"),
        ("train.schedule_steps=9", "carry_optimizer=false begins every fit anew"),
        (f"{CARRIED} train.schedule_steps=9 train.stop_epoch=1", "is another plan"),
    ],
)
def test_an_optimizer_is_carried_where_that_means_something(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load(*overrides.split())
