"""Whether this host has the C++ compiler that an engine needs, and what to say where it has none.

torch.compile writes C++. vLLM uses it for the model unless `rollout.enforce_eager` is set, and,
whatever is set, for one small function that counts ranks of log-probabilities. An engine without a
compiler would start, sample, and die at the first parity probe.
"""

from __future__ import annotations

import os
import platform
import shutil

from virgo_ray.errors import ConfigError


def require_compiler() -> None:
    """Look for the compiler where torch will.

    Raises:
        ConfigError: there is none.
    """
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"no C++ compiler: {compiler!r} is not on the PATH of {platform.node()}, and engines "
            "compile a function as they score their first probe. Install one there (for instance "
            "`apt-get install g++`), or name it in CXX"
        )
