"""A host without a C++ compiler is named before its engine loads a model; what one made is kept."""

import asyncio
import os
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("settings", "where"),
    [({}, "cache/virgo_ray/inductor"), ({"TORCHINDUCTOR_CACHE_DIR": "/own"}, "")],
)
def test_what_was_compiled_is_kept_outside_of_the_temporary_directory(tmp_path, settings, where):
    code = "import os, virgo_ray.rollout; print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    kept = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    env = {**kept, "XDG_CACHE_HOME": f"{tmp_path}/cache", **settings}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()
    assert said == (f"{tmp_path}/{where}" if where else "/own")
    assert not where or os.path.isdir(said)
