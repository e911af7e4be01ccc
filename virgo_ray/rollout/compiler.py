"""Whether an engine needs a C++ compiler, and what to say where there is none.

torch.compile writes C++. vLLM uses it for the model unless `rollout.enforce_eager` is set, and,
whatever is set, for one small function that counts ranks of log-probabilities. An engine without a
compiler would start, sample, and die at the first parity probe.
"""

from __future__ import annotations

import os
import platform
import shutil

from vllm.platforms import current_platform

from virgo_ray.config import RolloutConfig
from virgo_ray.errors import ConfigError


def settle_compiler(rollout: RolloutConfig) -> None:
    """Let nothing be compiled on a CPU that was asked for none; otherwise look for the compiler.

    Must come before vLLM imports its sampler, which happens as an engine is made. On a GPU the rank
    counter stays compiled: plainly it would take memory that vLLM has not set aside.

    Raises:
        ConfigError: there is no compiler, and these settings need one.
    """
    if rollout.gpus_per_worker == 0 and rollout.enforce_eager:
        type(current_platform).simple_compile_backend = "eager"
        return
    compiler = os.environ.get("CXX") or "g++"  # where torch looks, too
    if shutil.which(compiler) is None:
        without = ", or set rollout.enforce_eager=true" if rollout.gpus_per_worker == 0 else ""
        raise ConfigError(
            f"no C++ compiler: {compiler!r} is not on the PATH of {platform.node()}, and engines "
            "with these settings compile parts of the model as they start. Install one there "
            f"(for instance `apt-get install g++`), name it in CXX{without}"
        )
