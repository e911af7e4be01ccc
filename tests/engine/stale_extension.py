"""A worker extension that forgets the tied output head, as vLLM on CPU does by itself."""

from virgo_ray.rollout.worker_extension import WorkerExtension


class StaleExtension(WorkerExtension):
    def retie_lm_head(self) -> None:
        pass
