"""Sampling with vLLM. vLLM reads its environment while it is imported, so it is settled here."""

import contextlib
import os
from pathlib import Path

# Several engines share the cores of a CPU machine: vLLM must neither pin its threads nor take one
# per core. A value that the user has set wins.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
# On CPU every new number of tokens in a step makes oneDNN keep another kernel, 1,024 by default:
# hundreds of MiB over many rounds. 64 sample as fast (scripts/bench_engine_memory.py).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# What torch.compile made is kept for the next start. Its default place, below /tmp, goes with the
# machine; vLLM's own is in the user's cache directory already.
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    _cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "virgo_ray/inductor"
    )
    with contextlib.suppress(OSError, RuntimeError):  # a home that is read-only, or none
        _cache.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_cache)
