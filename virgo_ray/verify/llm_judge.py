"""A language model as a second opinion, over any OpenAI-compatible endpoint (a local vLLM server
too).

Guarantees: one question is asked once, from however many threads (answers are kept in memory and,
with `cache`, in a JSON lines file); at most `budget` requests are sent; a request that fails is
tried again and then UNKNOWN, never a verdict. The prompt stands in `prompts/judge.txt`, or in a
file of one's own. Answers of a model may flatter the judge: what it says is an opinion.

Who waits for whom: a thread that asks what another is asking waits for that one, no longer than
`longest_s`; everything else is done under one lock that is held for moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import urllib.request
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from virgo_ray.config import JudgeConfig
from virgo_ray.errors import ConfigError
from virgo_ray.records import Opinion, Second
from virgo_ray.verify.custom import check_address
from virgo_ray.verify.item import Item

PROMPT = Path(__file__).parent / "prompts" / "judge.txt"
PLACES = ("{question}", "{gold}", "{answer}")
MAX_CHARS = 2000
MAX_REPLY_BYTES = 1 << 20


@dataclass
class LlmJudge:
    """`url` is the base up to and including `/v1`; `key` is sent as a bearer token if it is set."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    prompt: str = field(default_factory=PROMPT.read_text, repr=False)
    budget: int = 1000
    max_tokens: int = 8
    num_tries: int = 3
    deadline_s: float = 60.0
    pause_s: float = 1.0
    cache: Path | None = None
    num_asked: int = 0
    _known: dict[str, Future[Second]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if self.cache is not None and self.cache.is_file():
            for line in self.cache.read_text(encoding="utf-8").split("\n"):
                self._recall(line)

    @classmethod
    def of(cls, cfg: JudgeConfig, cache: Path | None = None) -> LlmJudge:
        """The judge of a config; `cache` is used where the config names none.

        Raises:
            ConfigError: the address, the prompt file or the key's variable is not usable.
        """
        check_address("verify.judge.url", cfg.url)
        return cls(
            url=cfg.url,
            model=cfg.model,
            key=_key(cfg.key_env) if cfg.key_env else "",
            prompt=_prompt(Path(cfg.prompt) if cfg.prompt else PROMPT),
            budget=cfg.budget,
            max_tokens=cfg.max_tokens,
            num_tries=cfg.num_tries,
            deadline_s=cfg.deadline_s,
            cache=Path(cfg.cache) if cfg.cache else cache,
        )

    @property
    def longest_s(self) -> float:
        """What one question may take: all tries, each with a last read, and the pauses."""
        return self.num_tries * 2 * self.deadline_s + self.pause_s * 2**self.num_tries

    def ask(self, item: Item, answer: str) -> Second:
        prompt = self._filled({"question": item.question, "gold": item.gold, "answer": answer})
        key = hashlib.sha256(f"{self.model}\n{prompt}".encode(errors="replace")).hexdigest()
        with self._lock:
            known = self._known.get(key)
            mine: Future[Second] = Future()
            self._known.setdefault(key, mine)
        if known is not None:
            return known.result(timeout=self.longest_s)
        second = Second(Opinion.UNKNOWN, "the request was given up")
        try:
            second = self._request(prompt)
        finally:
            self._remember(key, second)
            mine.set_result(second)
        return second

    def _filled(self, fields: dict[str, str]) -> str:
        """The prompt with its places filled in one pass: what is put in is never looked at."""
        pattern = "|".join(re.escape(place) for place in PLACES)
        return re.sub(pattern, lambda m: fields[m.group()[1:-1]][:MAX_CHARS], self.prompt)

    def _recall(self, line: str) -> None:
        """One line of the cache; the last one may be torn, and is asked again."""
        try:
            row = json.loads(line)
            second = Second(Opinion(row["opinion"]), row["reason"])
        except (ValueError, KeyError, TypeError):
            return
        future: Future[Second] = Future()
        future.set_result(second)
        self._known[row["key"]] = future

    def _remember(self, key: str, second: Second) -> None:
        with self._lock:
            if second.opinion is Opinion.UNKNOWN:
                del self._known[key]  # asked again another time
            elif self.cache is not None:
                row = {"key": key, "opinion": second.opinion.value, "reason": second.reason}
                with self.cache.open("a", encoding="utf-8") as file:
                    file.write("\n" + json.dumps(row))  # a torn line before it stays alone

    def _request(self, prompt: str) -> Second:
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "temperature": 0}
        body["max_tokens"] = self.max_tokens
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        reason = ""
        for attempt in range(self.num_tries):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            if not self._spend():
                return Second(Opinion.UNKNOWN, f"the budget of {self.budget} requests is spent")
            try:
                return self._send(body, headers)
            except (
                OSError,
                HTTPException,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
            ) as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}"
        return Second(Opinion.UNKNOWN, f"no usable reply in {self.num_tries} tries ({reason})")

    def _spend(self) -> bool:
        with self._lock:
            is_left = self.num_asked < self.budget
            self.num_asked += is_left
            return is_left

    def _read(self, response: HTTPResponse) -> bytes:
        """The body; the deadline also holds for a server that sends it byte by byte."""
        end = time.monotonic() + self.deadline_s
        body = b""
        while piece := response.read1():
            body += piece
            if len(body) > MAX_REPLY_BYTES or time.monotonic() > end:
                raise TimeoutError(f"no complete reply within {self.deadline_s:g} s and 1 MiB")
        return body

    def _send(self, body: dict[str, object], headers: dict[str, str]) -> Second:
        address = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.deadline_s) as response:
            reply = json.loads(self._read(response))
        said = reply["choices"][0]["message"]["content"] or ""
        said = said.rpartition("</think>")[2].strip()
        word = re.match(r"\W*(yes|no)\b", said, re.IGNORECASE)
        if word is None:
            raise ValueError(f"the judge replied {said[:80]!r}; expected yes or no")
        opinion = Opinion.AGREES if word[1].lower() == "yes" else Opinion.DOUBTS
        return Second(opinion, said[:200])


def _key(name: str) -> str:
    key = os.environ.get(name, "")
    if not key:
        raise ConfigError(
            f"verify.judge.key_env={name!r}: that environment variable is not set here; set it to "
            "the endpoint's key, or leave key_env out where the endpoint asks for none"
        )
    return key


def _prompt(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"verify.judge.prompt={str(path)!r} cannot be read ({error}); expected a text file"
        ) from error
    missing = [place for place in PLACES if place not in text]
    if missing:
        raise ConfigError(
            f"verify.judge.prompt={str(path)!r} lacks {', '.join(missing)}; expected a text with "
            f"{', '.join(PLACES)} that asks for one word, yes or no"
        )
    return text
