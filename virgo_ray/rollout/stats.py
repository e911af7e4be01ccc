"""What vLLM's scheduler does: its queue, its KV cache and its caches' hits, since the last look.

vLLM calls `record` after every step of the engine; nothing is asked of it. Shares without anything
to be a share of are left out.
"""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats


class EngineStats(StatLoggerBase):
    """One of vLLM's stat loggers; `take` hands over what it saw and begins anew."""

    def __init__(self, vllm_config: VllmConfig | None = None, engine_index: int = 0) -> None:
        self._begin()

    def _begin(self) -> None:
        self._num_steps = self._running = self._waiting = self._preempted = 0
        self._kv_cache_peak = 0.0
        self._prompt_tokens = self._cached_tokens = 0
        self._pictures = self._cached_pictures = 0

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self._num_steps += 1
            self._running += scheduler_stats.num_running_reqs
            self._waiting += scheduler_stats.num_waiting_reqs
            self._kv_cache_peak = max(self._kv_cache_peak, scheduler_stats.kv_cache_usage)
            self._prompt_tokens += scheduler_stats.prefix_cache_stats.queries
            self._cached_tokens += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            self._preempted += iteration_stats.num_preempted_reqs
        if mm_cache_stats is not None:
            self._pictures += mm_cache_stats.queries
            self._cached_pictures += mm_cache_stats.hits

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def take(self) -> dict[str, float]:
        """Means per step, the peak and the shares since the last call; empty without a step."""
        if not self._num_steps:
            return {}
        values = {
            "running": self._running / self._num_steps,
            "waiting": self._waiting / self._num_steps,
            "kv_cache_peak": self._kv_cache_peak,
            "preempted": float(self._preempted),
        }
        if self._prompt_tokens:
            values["prefix_hit_share"] = self._cached_tokens / self._prompt_tokens
        if self._pictures:
            values["picture_hit_share"] = self._cached_pictures / self._pictures
        self._begin()
        return values
