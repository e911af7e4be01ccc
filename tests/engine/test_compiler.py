"""A host without a C++ compiler is named before its engine loads a model."""

import asyncio

import pytest

from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig
from virgo_ray.errors import ConfigError
from virgo_ray.rollout.engine import RolloutEngine


def test_an_engine_on_a_host_without_a_compiler_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    model = ModelConfig(path="tiny", dtype="float32", max_length=384)
    engine = RolloutEngine(model, PromptConfig(), RolloutConfig())
    with pytest.raises(ConfigError, match=r"'g\+\+' is not on the PATH .* `apt-get install g\+\+`"):
        asyncio.run(engine.start())
