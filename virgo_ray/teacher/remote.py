"""A teacher behind an OpenAI-compatible chat endpoint.

Guarantees one rollout per request or an error that says what to do; what was answered before an
error has been yielded, so the same command asks only for the rest. The endpoint gives text, not
ids: thought and solution are put into the student's thought format, then tokenised with the
student's tokenizer, and `text` is what those ids say, so that what is judged is what is learnt.
Ids that stand for pictures or end a response are taken out of it. A response that the teacher cut,
or that is too long for the student, has finish reason "length" (TRUNCATED); one that it declined to
give (an HTTP error of the request itself, a filter, nothing usable) is empty (NO_ANSWER) and says
why in `sampling["declined"]`. If it declines from the start, a control question decides whether
the set-up is wrong. It also tells within minutes whether a silent endpoint still answers
(`teacher/control.py`).

Knows no engine, and not what becomes of the rollouts.
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from virgo_ray.config import Config, PromptConfig, SamplingConfig, TeacherConfig
from virgo_ray.data.rows import RowError
from virgo_ray.data.thoughts import convert_thought, render_thought
from virgo_ray.endpoint.client import (
    ChatEndpoint,
    EndpointError,
    RequestRefusedError,
    UnusableReplyError,
    check_address,
    key_of,
)
from virgo_ray.endpoint.stream import NoAnswerError, stream_answers
from virgo_ray.errors import RolloutError
from virgo_ray.model.images import load_image
from virgo_ray.model.prompts import Prompter, user_content
from virgo_ray.records import TEACHER_VERSION, Problem, Request, Rollout
from virgo_ray.teacher.control import Silence, answers_control
from virgo_ray.teacher.reply import Reply, read_reply

MAX_REPLY_BYTES = 16 << 20
MAX_DECLINED_AT_FIRST = 8  # as many without one answer, and the set-up is wrong
IDLE_S = 0.1  # between two looks for a request, while nothing is out
NUM_IMAGES_KEPT = 64  # encoded pictures: the samples of one problem come one after the other
JPEG_QUALITY = 95
NOT_OF_THE_REQUEST = (401, 402, 403, 404, 405)  # refusals that every request would meet
MORE_THAN_OPENAI = {"top_k": 0, "repetition_penalty": 1.0}  # vLLM's; sent where they differ


class RemoteTeacher:
    """Implements `ports.Sampler`. Make it with `RemoteTeacher.of`."""

    def __init__(
        self,
        cfg: TeacherConfig,
        endpoint: ChatEndpoint,
        prompt: PromptConfig,
        prompter: Prompter,
        max_length: int,
    ) -> None:
        """`prompter` is the student's; `max_length` the most tokens of its prompt and response."""
        self._cfg = cfg
        self._endpoint = endpoint
        self._prompt = prompt
        self._prompter = prompter
        self._max_length = max_length
        self._lock = threading.Lock()  # tokenizers are not made for several threads
        self._image_part = lru_cache(maxsize=NUM_IMAGES_KEPT)(image_part)

    @classmethod
    def of(cls, cfg: Config, prompter: Prompter) -> RemoteTeacher:
        """The teacher of a config that names `teacher.url`.

        Raises:
            ConfigError: the address or the key's variable is not usable.
        """
        teacher = cfg.teacher
        assert teacher is not None and teacher.url is not None
        return cls(teacher, make_endpoint(teacher), cfg.prompt, prompter, cfg.model.max_length)

    def sample(
        self, requests: Iterable[Request | None], sampling: SamplingConfig
    ) -> Iterator[Rollout | None]:
        """See `ports.Sampler.sample`.

        Raises:
            RolloutError: the endpoint cannot be reached or does not let us in, the budget is spent,
                or it declined every one of the first requests and a control question too.
        """
        stream = self._stream_rollouts(requests, sampling)
        first = list(_first_declined(stream))
        if first and "declined" in first[-1].sampling:
            self._refuse_wrong_setup(first, sampling)
        yield from first
        for rollout in stream:
            yield rollout
            if rollout is None:
                time.sleep(IDLE_S)

    def _refuse_wrong_setup(self, declined: Sequence[Rollout], sampling: SamplingConfig) -> None:
        """What declines a question that anybody answers is not set up as it must be."""
        last = declined[-1]
        body = self._body(Request(last.problem, last.sample_index, 0), sampling)
        try:
            if answers_control(self._endpoint, body, read_reply):
                return
        except EndpointError as error:
            raise self._stop_error(error) from error
        raise RolloutError(
            f"the teacher {self._cfg.name!r} at {self._endpoint.url} declined all of the first "
            f"{len(declined)} requests, the last: {last.sampling['declined']}, and a control "
            "question; expected a chat model that takes images and explore.sampling's parameters"
        )

    def _stream_rollouts(
        self, requests: Iterable[Request | None], sampling: SamplingConfig
    ) -> Iterator[Rollout | None]:
        silence = Silence(self._endpoint)
        try:
            yield from stream_answers(
                lambda request: self._ask(request, sampling, silence),
                requests,
                self._cfg.num_parallel,
                self._endpoint.longest_s,
                watch=silence.check,
            )
        except EndpointError as error:
            raise self._stop_error(error) from error
        except NoAnswerError as error:
            raise RolloutError(
                f"the teacher {self._cfg.name!r} at {self._endpoint.url} does not answer: {error}, "
                "expected each request to end by teacher.deadline_s; look at what answers "
                "teacher.url, then run the same command again: only what is missing is asked for"
            ) from error

    def _ask(self, request: Request, sampling: SamplingConfig, silence: Silence) -> Rollout:
        """Ask for one rollout; called by many threads at once."""
        began = time.monotonic()
        used = sampling.used_for(request.is_greedy)
        notes: dict[str, float | int | str] = {
            **used.model_dump(), "seed": request.seed, "teacher": self._cfg.name,
        }  # fmt: skip
        text, finish = "", "stop"
        ids: tuple[int, ...] = ()
        try:
            body = self._body(request, used)
            silence.asked(body)
            reply = self._endpoint.ask(body, read_reply)
            with self._lock:
                text, ids, finish = self._as_student(request.problem, reply)
        except (RequestRefusedError, UnusableReplyError) as error:
            status = getattr(error, "status", 0)
            if status in NOT_OF_THE_REQUEST or 300 <= status < 400:
                raise self._stop_error(error) from error
            notes["declined"] = str(error)
        except EndpointError as error:
            raise self._stop_error(error) from error
        silence.heard()
        return Rollout(
            problem=request.problem,
            sample_index=request.sample_index,
            text=text,
            token_ids=ids,
            finish_reason=finish,
            weights_version=TEACHER_VERSION,
            sampling=notes,
            seconds=time.monotonic() - began,
            is_greedy=request.is_greedy,
        )

    def _stop_error(self, error: EndpointError) -> RolloutError:
        return RolloutError(
            f"the teacher {self._cfg.name!r} at {self._endpoint.url} cannot be asked: {error}; look"
            " at the endpoint, its key and teacher.budget, then run the same command again: only "
            "what is missing is asked for"
        )

    def _body(self, request: Request, sampling: SamplingConfig) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._cfg.model,
            "messages": self._messages(request.problem),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
        }
        more = {key: getattr(sampling, key) for key in MORE_THAN_OPENAI}
        return body | {key: more[key] for key, off in MORE_THAN_OPENAI.items() if more[key] != off}

    def _messages(self, problem: Problem) -> list[dict[str, Any]]:
        """The student's own prompt; pictures as data URLs, words alone as plain text."""
        images = iter(problem.images)
        parts: list[dict[str, Any]] = [
            self._image_part(next(images)) if part["type"] == "image" else dict(part)
            for part in user_content(problem, self._prompt)
        ]
        content = parts if problem.images else parts[0]["text"]
        system = [{"role": "system", "content": self._prompt.system}] if self._prompt.system else []
        return [*system, {"role": "user", "content": content}]

    def _as_student(self, problem: Problem, reply: Reply) -> tuple[str, tuple[int, ...], str]:
        """(text, ids, finish reason) as the student would have written it."""
        ids = self._prompter.response_ids(self._format(reply))
        room = self._max_length - self._prompter.num_prompt_tokens(problem)
        is_cut = reply.is_cut or len(ids) + 1 > room
        ids = ids[: max(0, room)] if is_cut else (*ids, self._prompter.end_id)
        return self._prompter.decode(ids), ids, "length" if is_cut else "stop"

    def _format(self, reply: Reply) -> str:
        """In the student's thought format where the parts can be told; as it is otherwise."""
        wanted = self._prompt.thought_format
        if reply.is_cut:
            return reply.whole
        if reply.thought and reply.content:
            return render_thought(reply.thought, reply.content, wanted)
        try:
            return convert_thought(reply.whole, wanted)
        except RowError:  # the verifier says what is wrong with it
            return reply.whole


def _first_declined(stream: Iterator[Rollout | None]) -> Iterator[Rollout]:
    """The first rollouts, all declined but perhaps the last: as many as may wait for an answer, or
    all that there are for now."""
    for num, rollout in enumerate(stream, 1):
        if rollout is None:
            return
        yield rollout
        if "declined" not in rollout.sampling or num == MAX_DECLINED_AT_FIRST:
            return


def make_endpoint(cfg: TeacherConfig) -> ChatEndpoint:
    """The endpoint of `teacher.url`.

    Raises:
        ConfigError: the address or the key's variable is not usable.
    """
    assert cfg.url is not None
    check_address("teacher.url", cfg.url)
    return ChatEndpoint(
        url=cfg.url,
        key=key_of("teacher.key_env", cfg.key_env),
        budget=cfg.budget,
        num_tries=cfg.num_tries,
        deadline_s=cfg.deadline_s,
        max_bytes=MAX_REPLY_BYTES,
    )


def image_part(path: str) -> dict[str, Any]:
    """A picture as a message part: the pixels the student sees, JPEG where the file is one."""
    is_photo = path.lower().endswith((".jpg", ".jpeg"))
    file = io.BytesIO()
    image = load_image(path)
    if is_photo:
        image.save(file, format="JPEG", quality=JPEG_QUALITY)
    else:
        image.save(file, format="PNG")
    kind = "jpeg" if is_photo else "png"
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}
