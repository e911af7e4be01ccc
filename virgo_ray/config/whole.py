"""The whole set-up of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from virgo_ray.config.data import DataConfig, ModelConfig, PromptConfig, SourceConfig
from virgo_ray.config.explore import ExploreConfig, RolloutConfig, SamplingConfig, SelectConfig
from virgo_ray.config.gates import GatesConfig
from virgo_ray.config.section import Section
from virgo_ray.config.store import StoreConfig
from virgo_ray.config.teacher import TeacherConfig
from virgo_ray.config.train import PushConfig, TrainConfig
from virgo_ray.config.verify import VerifyConfig
from virgo_ray.config.weights import WeightsConfig

PROBES = ("perception", "text")  # problems with a score of their own, beside the held-out ones


class EvaluateConfig(Section):
    """How the held-out problems are asked after each round."""

    every: PositiveInt = Field(
        1,
        description="rounds 0, k, 2k, ... and the last are evaluated and judged by their gates; "
        "those between are kept or rejected with the next that is",
    )
    k: PositiveInt = Field(
        4, description="number of samples per held-out problem, for pass@k and maj@k"
    )
    sampling: SamplingConfig = Field(
        description="how the k samples of an evaluation are drawn; pass@1 is greedy with the same "
        "limits"
    )
    blank_image: bool = Field(True, description="evaluate a second time with every image blanked")
    permute_options: NonNegativeInt = Field(
        0,
        description="number of other orders of its options in which each multiple choice is asked "
        "again; 0: none",
    )
    perception: SourceConfig | None = Field(
        None,
        description="problems of a probe for perception: short questions about what is seen; "
        "null: no probe",
    )
    text: SourceConfig | None = Field(
        None,
        description="problems of a probe for forgetting: questions without images; null: no probe",
    )

    def is_due(self, round: int | None, last_round: int) -> bool:
        """Whether a round of a run up to `last_round` is evaluated; None: the base, which is.

        Example: `every=4` and rounds up to 10: the base, 0, 4, 8 and 10.
        """
        return round is None or round % self.every == 0 or round >= last_round


class PlacementConfig(Section):
    """Where engines and trainers run on the cluster."""

    mode: Literal["colocated", "disaggregated"] = Field(
        "colocated",
        description="where engines and trainers run: in turn on the same GPUs (colocated), or on "
        "GPUs of their own (disaggregated), of which half always wait, since neither works while "
        "the other does",
    )
    deadline_s: PositiveFloat = Field(
        300,
        description="longest wait for the cluster to reserve the GPUs and CPUs of the run, in "
        "seconds",
    )
    cpus_per_worker: NonNegativeFloat = Field(0.1, description="Ray CPUs that each worker reserves")
    autoscaling: bool = Field(
        False,
        description="the Ray cluster adds nodes by itself: a run that does not fit yet waits for "
        "them, instead of being refused",
    )


class WandbConfig(Section):
    """What is logged to Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="whether W&B is used; auto: online if a key is set, else offline"
    )
    project: str = Field("virgo_ray", description="name of the W&B project")
    entity: str | None = Field(None, description="name of the W&B team; null: your default")
    group: str | None = Field(
        None, description="name under which W&B shows runs together, such as all seeds; null: none"
    )
    tags: tuple[str, ...] = Field((), description="labels of the run in W&B")


class RayConfig(Section):
    """The Ray cluster that the run joins or starts."""

    address: str | None = Field(
        None,
        description="address of the Ray cluster; null: RAY_ADDRESS if that is set, else a local "
        "cluster is started",
    )
    dashboard_port: PositiveInt | None = Field(
        None,
        le=65535,
        description="port of a local cluster's dashboard; null: 8265, or the next free one",
    )


class Config(Section):
    """The whole set-up of a run."""

    name: str = Field(description="name of the run in W&B and on the console")
    seed: int = Field(
        0, ge=0, description="seed of everything random in data, sampling and training"
    )
    run_dir: str = Field(
        description="directory that the run is kept in; a start on the same directory resumes it"
    )
    rounds: NonNegativeInt = Field(
        2, description="number of self-distillation rounds after round 0"
    )
    seed_round: bool = Field(
        True,
        description="imitate the seed thoughts in round 0; false: round 0 leaves the base as it is",
    )
    model: ModelConfig
    data: DataConfig
    prompt: PromptConfig = PromptConfig()
    explore: ExploreConfig
    rollout: RolloutConfig = RolloutConfig()
    verify: VerifyConfig = VerifyConfig()
    store: StoreConfig = StoreConfig()
    select: SelectConfig = SelectConfig()
    teacher: TeacherConfig | None = Field(
        None, description="a model that is asked in place of the taught one in rounds 1 and later"
    )
    train: TrainConfig = TrainConfig()
    push: PushConfig = PushConfig()
    weights: WeightsConfig = WeightsConfig()
    evaluate: EvaluateConfig
    benchmarks: dict[str, SourceConfig] = Field(
        {}, description="benchmarks of `virgo-ray evaluate`, by any name; each is a source"
    )
    gates: GatesConfig | None = GatesConfig()
    placement: PlacementConfig = PlacementConfig()
    wandb: WandbConfig = WandbConfig()
    trackers: tuple[Literal["tensorboard", "mlflow", "trackio"], ...] = Field(
        (),
        description="trackers that are given every number, beside W&B; each is a package that must "
        "be installed",
    )
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _is_possible(self) -> Config:
        for where, sampling in (
            ("explore", self.explore.sampling),
            ("evaluate", self.evaluate.sampling),
        ):
            if sampling.max_tokens >= self.model.max_length:
                raise ValueError(
                    f"{where}.sampling.max_tokens={sampling.max_tokens} leaves no room "
                    f"for a prompt in model.max_length={self.model.max_length}; expected less"
                )
        if self.rollout.min_workers > self.rollout.num_workers:
            raise ValueError(
                f"rollout.min_workers={self.rollout.min_workers} can never be met with "
                f"rollout.num_workers={self.rollout.num_workers}"
            )
        if self.train.batch_size % self.train.num_workers:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} must be a multiple of "
                f"train.num_workers={self.train.num_workers}"
            )
        return self
