"""One vLLM engine: samples long thoughts, scores probes, takes new weights without a restart.

Works with or without Ray, on CPU and GPU alike. Guarantees: a request with the same seed gets the
same tokens from every engine with the same weights; ids that stand for pictures are never sampled;
`token_ids` are the ids as sampled; after `load` nothing computed with the old weights is used.
Several coroutines may wait in `generate` at once; vLLM's own process does the work and wakes them.
Knows nothing of other engines, of rounds or of what is done with a rollout.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from vllm import AsyncEngineArgs, SamplingParams, TokensPrompt
from vllm.exceptions import VLLMClientError
from vllm.v1.engine.async_llm import AsyncLLM

from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig, SamplingConfig
from virgo_ray.errors import PushError, RolloutError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, Request, Rollout, Weights
from virgo_ray.rollout.arguments import PROCESSED, engine_args
from virgo_ray.rollout.asking import Asking
from virgo_ray.rollout.compiler import require_compiler
from virgo_ray.rollout.outputs import finish_reason, logprob_of, sampled_logprobs
from virgo_ray.rollout.stats import EngineStats
from virgo_ray.rollout.worker_extension import OWNER_VARIABLE
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.probe import ProbeItem

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

CPU_EXIT_S = (
    1.0  # then vLLM kills its process: it spends seconds on tearing itself down, for nothing
)
WARM_UP = SamplingConfig(max_tokens=8)


class RolloutEngine:
    """Made cheaply; `start` loads the model."""

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        rollout: RolloutConfig,
        worker: int = 0,
        can_sleep: bool = False,
        needs_logprobs: bool = False,
    ) -> None:
        """Both must be known before the start. `can_sleep`: give GPU memory back in `sleep`.
        `needs_logprobs`: rollouts that are not greedy carry their log-probabilities."""
        self._model = model
        self._rollout = rollout
        self._worker = worker
        self._can_sleep = can_sleep and bool(rollout.gpus_per_worker)
        self._needs_logprobs = needs_logprobs
        self._prompter = Prompter(model, prompt)
        self._asking = Asking(self._prompter, needs_logprobs)
        self._engine: Any = None
        self._stats = EngineStats()
        self._request_numbers = itertools.count()
        self._version: int | None = 0
        self._num_pictures_before = 0  # processed before the caches were emptied last
        self._read: dict[str, str] = {}
        self._is_cache_asleep = False

    @property
    def is_cache_asleep(self) -> bool:
        """Whether the KV cache sleeps while the weights are awake: it holds nothing."""
        return self._is_cache_asleep

    @property
    def version(self) -> int | None:
        """Of the weights it serves; None after a load that failed half-way."""
        return self._version

    @property
    def num_pictures(self) -> int:
        """Pictures processed so far: not those that were found in vLLM's cache."""
        cache = self._engine.renderer.mm_processor_cache
        if cache is None:  # the model takes no pictures
            return 0
        looked_up = cache.make_stats()
        return int(self._num_pictures_before + looked_up.total - looked_up.hits)

    @property
    def read(self) -> Mapping[str, str]:
        """{file name: sha256} of what the last load read, or {"stream": digest} of what it was
        sent; empty for the weights of the start."""
        return self._read

    @property
    def is_dead(self) -> bool:
        """True once vLLM's process has ended; nothing but a new engine helps."""
        return self._engine is not None and self._engine.errored

    @property
    def was_killed(self) -> bool:
        """True if one of vLLM's processes was ended by a signal, not by an error of its own."""
        manager = self._engine and self._engine.engine_core.resources.engine_manager
        return bool(manager) and any(code < 0 for code in manager.finished_procs().values())

    async def start(self, ray_metrics: Any = None) -> None:
        """Load the base model and generate once from text and once from an image.

        Blocks the event loop while the model loads: there is nothing else to serve yet.
        `ray_metrics` is the module `ray.util.metrics` where this process is Ray's, which then
        exports vLLM's own metrics.

        Raises:
            ConfigError: this host has no C++ compiler.
            RolloutError: vLLM refuses the model or its settings, computes logits in another number
                format, or is not warm after `rollout.start_deadline_s`; vLLM itself raises
                RuntimeError where its process fails or takes that long.
        """
        require_compiler()
        deadline = time.monotonic() + self._rollout.start_deadline_s
        os.environ[OWNER_VARIABLE] = str(os.getpid())
        os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(round(self._rollout.start_deadline_s))
        if not self._rollout.gpus_per_worker:
            # Lets the CPU platform keep model and scheduler in one process: a start of 12 s instead
            # of 23 s, twice the tokens per second, and no polling while idle.
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            self._engine = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**self._engine_args()),
                stat_loggers=[lambda *_: self._stats, *_ray_loggers(ray_metrics)],
            )
        except ValueError as error:  # pydantic's, which do not survive pickling
            raise RolloutError(f"vLLM refuses the set-up of this model: {error}") from None
        await self._require_head_dtype()
        try:
            await asyncio.wait_for(self._warm_up(), deadline - time.monotonic())
        except TimeoutError as error:
            raise RolloutError(
                f"engine {self._worker} loaded its model but did not finish its warm-up within "
                f"rollout.start_deadline_s={self._rollout.start_deadline_s:g}; raise it"
            ) from error

    async def generate(self, request: Request, sampling: SamplingConfig) -> Rollout:
        """Sample one long thought. Where the task is cancelled, the engine's request ends too.

        Raises:
            RolloutError: the request cannot be served (prompt too long).
        """
        started = time.monotonic()
        problem, used = request.problem, sampling.used_for(request.is_greedy)
        params = self._asking.sampling_params(used, request.seed)
        output = await self._finished(self._asking.prompt(problem), params, problem)
        completion = output.outputs[0]
        token_ids = tuple(completion.token_ids)
        return Rollout(
            problem=problem,
            sample_index=request.sample_index,
            text=self._prompter.decode(token_ids),
            token_ids=token_ids,
            finish_reason=finish_reason(completion.finish_reason, problem),
            weights_version=self._served_version(),
            sampling={**used.model_dump(), "seed": request.seed},
            seconds=time.monotonic() - started,
            worker=self._worker,
            is_greedy=request.is_greedy,
            logprobs=sampled_logprobs(completion, problem) if params.logprobs is not None else (),
        )

    async def score(self, items: Sequence[ProbeItem]) -> list[list[float]]:
        """Log-probabilities (nats, temperature 1) of every item's target tokens."""
        return list(await asyncio.gather(*(self._score(item) for item in items)))

    async def score_cached(self, items: Sequence[ProbeItem]) -> list[float]:
        """Log-probabilities of the first target of every item, through the prefix cache.

        What is cached of a prompt is used, and what is not is cached then: asked before and after a
        load, this tells whether the load emptied the cache. (`score` asks for log-probabilities of
        prompts, which vLLM computes anew whatever is cached.)
        """
        return list(await asyncio.gather(*(self._score_next(item) for item in items)))

    async def load(self, weights: Weights, offer: Offer | None = None) -> None:
        """Take over `weights` in place and forget everything computed with the old ones.

        They are fetched as `offer` says, or read from disk. After an error the engine serves
        nothing until another `load` has succeeded, which may be of the same weights.

        Raises:
            PushError: requests are in flight, or a cache could not be emptied.
            Exception: the directory does not fill the model, or the stream broke. vLLM passes on
                the message of the worker's error, not its type.
        """
        if num := self._engine.get_num_unfinished_requests():
            raise PushError(
                f"engine {self._worker} has {num} requests in flight, expected none during a push: "
                "exhaust or close the iterator that sample() returned first"
            )
        self._version, self._read = None, {}
        read = await self._reload(weights, offer)
        await self._wake_cache()
        if not await self._engine.reset_prefix_cache():
            raise PushError(f"engine {self._worker} could not empty its prefix cache; restart it")
        self._num_pictures_before = self.num_pictures
        await self._engine.reset_mm_cache()
        await self._engine.reset_encoder_cache()
        self._version, self._read = weights.version, read

    async def _reload(self, weights: Weights, offer: Offer | None) -> dict[str, str]:
        """In all processes of the engine; returns what each of them read."""
        if offer is None:
            call: tuple[str, tuple[Any, ...]] = ("reload_from", (weights.path,))
        else:
            call = ("reload_through", (asdict(offer), weights.path))
        read: list[dict[str, str]] = await self._engine.collective_rpc(call[0], args=call[1])
        if any(other != read[0] for other in read):
            raise PushError(
                f"the processes of engine {self._worker} read different bytes of {weights.path}: "
                f"{read}; expected the same from all. Is it the same file system for all?"
            )
        return read[0]

    async def beat(self) -> None:
        """Ask vLLM's process something that it answers between two steps."""
        await self._engine.is_sleeping()

    def take_stats(self) -> dict[str, float]:
        """What its scheduler and caches did since the last call (see `EngineStats.take`)."""
        return self._stats.take()

    async def sleep(self) -> None:
        """Move weights to host memory and drop the KV cache (GPU only; nothing on CPU)."""
        if self._can_sleep:
            self._is_cache_asleep = False  # both are, until `wake`
            await self._engine.sleep(level=1)

    async def wake(self) -> None:
        """Undo `sleep`, for the weights: they can be loaded anew beside a trainer's. The KV cache
        wakes at the end of `load`, or with the first request."""
        if self._can_sleep and await self._engine.is_sleeping():
            self._is_cache_asleep = True
            await self._engine.wake_up(["weights"])

    async def _wake_cache(self) -> None:
        if self._is_cache_asleep:
            self._is_cache_asleep = False  # requests that come meanwhile wait in vLLM
            is_awake = False
            try:
                await self._engine.wake_up(["kv_cache"])
                is_awake = True
            finally:
                self._is_cache_asleep = not is_awake

    def close(self) -> None:
        """End vLLM's processes."""
        if self._engine is not None:
            self._engine.shutdown(timeout=None if self._rollout.gpus_per_worker else CPU_EXIT_S)
            self._engine = None

    # -- how vLLM is called ----------------------------------------------------------------------

    def _engine_args(self) -> dict[str, Any]:
        args = engine_args(self._model, self._rollout, self._can_sleep)
        return args | PROCESSED if self._needs_logprobs else args

    async def _finished(
        self, prompt: TokensPrompt, params: SamplingParams, problem: Problem | None = None
    ) -> RequestOutput:
        """The last (with FINAL_ONLY: the only) output of a request."""
        name = f"{self._worker}-{next(self._request_numbers)}"
        last = None
        await self._wake_cache()
        try:
            async for output in self._engine.generate(prompt, params, name):
                last = output
        except VLLMClientError as error:
            what = f"problem {problem.id!r}" if problem else "a probe item"
            raise RolloutError(
                f"{what} cannot be asked: {error}; drop it, or raise model.max_length="
                f"{self._model.max_length}"
            ) from error
        if last is None:
            raise RolloutError(f"request {name} was aborted before its first token")
        return last

    async def _score(self, item: ProbeItem) -> list[float]:
        prompt, params = self._asking.whole_item(item), self._asking.scoring_params()
        output = await self._finished(prompt, params)
        table = output.prompt_logprobs or []
        rows = table[len(table) - len(item.target_ids) :]
        return [logprob_of(row, token) for row, token in zip(rows, item.target_ids, strict=True)]

    async def _score_next(self, item: ProbeItem) -> float:
        token = item.target_ids[0]
        params = self._asking.params_for_next(token)
        output = await self._finished(self._asking.prompt_of_item(item), params)
        rows = output.outputs[0].logprobs
        return logprob_of(rows[0] if rows else None, token)

    async def _require_head_dtype(self) -> None:
        """vLLM falls back to the model's number format with no more than a warning; the trainer
        would then compute its logits in another one."""
        expected = str(getattr(torch, self._model.head_dtype or self._model.dtype))
        for found in await self._engine.collective_rpc("head_dtypes"):
            if found != [expected]:
                raise RolloutError(
                    f"engine {self._worker} computes logits in {found}, expected {expected}: this "
                    f"vLLM cannot do model.head_dtype={self._model.head_dtype} with this model"
                )

    def _served_version(self) -> int:
        if self._version is None:
            raise RolloutError(
                f"engine {self._worker} holds half-loaded weights after a failed push; restart it"
            )
        return self._version

    async def _warm_up(self) -> None:
        """The first generation of each kind takes far longer than the next ones."""
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory) / "grey.png")
            Image.new("RGB", (64, 64), (127, 127, 127)).save(path)
            text = Problem("warm-up-text", "What is 1 + 1?", "2")
            image = Problem("warm-up-image", "What is this?", "grey", images=(path,))
            for problem in (text, image):
                await self.generate(Request(problem, 0, seed=0), WARM_UP)


def _ray_loggers(ray_metrics: Any) -> list[Any]:
    """vLLM's own metrics (`vllm:num_requests_running` ...) through Ray's exporter, beside ours; in
    place of those that vLLM would keep in this process, where nobody asks for them."""
    if ray_metrics is None:
        return []
    from vllm.v1.metrics import ray_wrappers

    if ray_wrappers.ray_metrics is None:
        # vLLM imports it together with ray[serve], which it needs for a replica's name only.
        ray_wrappers.ray_metrics = ray_metrics
    return [ray_wrappers.RayPrometheusStatLogger]
