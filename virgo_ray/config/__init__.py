"""One YAML file, one frozen schema. Every default stands here and nowhere else.

A component's constructor takes its own section. Unknown keys, wrong types and impossible values
raise ConfigError naming the key, the value, what was expected and the nearest valid key.
Nothing is written to a config after it was loaded.
"""

from virgo_ray.config.changing import Moment, is_harmless, moment_of
from virgo_ray.config.contradictions import (
    find_contradictions,
    find_weaknesses,
    refuse_contradictions,
    refuse_without_gpus,
)
from virgo_ray.config.data import (
    DataConfig,
    ModelConfig,
    PartConfig,
    PromptConfig,
    SeedThoughtsConfig,
    SourceConfig,
)
from virgo_ray.config.describing import (
    dump_config,
    fingerprint,
    flatten,
)
from virgo_ray.config.explore import (
    ExploreConfig,
    ExtraConfig,
    RolloutConfig,
    SamplingConfig,
    SelectConfig,
    budget_as_share,
)
from virgo_ray.config.gates import GatesConfig
from virgo_ray.config.gpus import derive_gpus
from virgo_ray.config.keys import describe_core_keys, describe_keys, describe_section
from virgo_ray.config.loading import (
    load_config,
    make_config,
    parse_config,
    parse_section,
    resolve_run_dir,
)
from virgo_ray.config.objective import (
    DpoConfig,
    GrpoConfig,
    ObjectiveConfig,
    RewardsConfig,
)
from virgo_ray.config.opening import open_config
from virgo_ray.config.places import is_data_place
from virgo_ray.config.store import StoreConfig
from virgo_ray.config.stored import complete_from_stored, read_begun, read_stored
from virgo_ray.config.teacher import TeacherConfig
from virgo_ray.config.train import LoraConfig, PushConfig, TrainConfig
from virgo_ray.config.verify import FORMATS, Format, JudgeConfig, VerifyConfig
from virgo_ray.config.weights import WeightsConfig
from virgo_ray.config.whole import PROBES, Config, EvaluateConfig, RayConfig

__all__ = [
    "FORMATS",
    "PROBES",
    "Config",
    "DataConfig",
    "DpoConfig",
    "EvaluateConfig",
    "ExploreConfig",
    "ExtraConfig",
    "Format",
    "GatesConfig",
    "GrpoConfig",
    "JudgeConfig",
    "LoraConfig",
    "ModelConfig",
    "Moment",
    "ObjectiveConfig",
    "PartConfig",
    "PromptConfig",
    "PushConfig",
    "RayConfig",
    "RewardsConfig",
    "RolloutConfig",
    "SamplingConfig",
    "SeedThoughtsConfig",
    "SelectConfig",
    "SourceConfig",
    "StoreConfig",
    "TeacherConfig",
    "TrainConfig",
    "VerifyConfig",
    "WeightsConfig",
    "budget_as_share",
    "complete_from_stored",
    "derive_gpus",
    "describe_core_keys",
    "describe_keys",
    "describe_section",
    "dump_config",
    "find_contradictions",
    "find_weaknesses",
    "fingerprint",
    "flatten",
    "is_data_place",
    "is_harmless",
    "load_config",
    "make_config",
    "moment_of",
    "open_config",
    "parse_config",
    "parse_section",
    "read_begun",
    "read_stored",
    "refuse_contradictions",
    "refuse_without_gpus",
    "resolve_run_dir",
]
