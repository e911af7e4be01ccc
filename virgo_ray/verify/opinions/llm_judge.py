"""The LLM judge: a language model as a second opinion, over any OpenAI-compatible endpoint.

Guarantees: one question is asked once, from however many threads. Replies are kept in memory and,
with `cache`, in a JSON lines file. At most `budget` requests are sent. A request that fails is
tried again and then makes the opinion UNKNOWN, never a verdict. The prompt stands in
`prompts/judge.txt`, or in a file of one's own. The answer of a model may flatter the LLM judge, so
its reply is an opinion.

Who waits for whom: a thread that asks what another is asking waits for that one, no longer than
`longest_s`; everything else is done under one lock that is held for moments.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virgo_ray.config import JudgeConfig
from virgo_ray.endpoint.client import ChatEndpoint, EndpointError, check_address, key_of
from virgo_ray.errors import ConfigError
from virgo_ray.files import writing
from virgo_ray.records import Opinion, SecondOpinion
from virgo_ray.verify.item import Item

PROMPT = Path(__file__).parent / "prompts" / "judge.txt"
PLACES = ("{question}", "{gold}", "{answer}")
MAX_CHARS = 2000


@dataclass
class LlmJudge:
    """An LLM judge; `model` is its name at the endpoint."""

    endpoint: ChatEndpoint
    model: str
    prompt: str = field(default_factory=PROMPT.read_text, repr=False)
    max_tokens: int = 8
    cache: Path | None = None
    _known: dict[str, Future[SecondOpinion]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if self.cache is not None and self.cache.is_file():
            for line in self.cache.read_text(encoding="utf-8").split("\n"):
                self._recall(line)

    @classmethod
    def of(cls, cfg: JudgeConfig, cache: Path | None = None) -> LlmJudge:
        """Make the LLM judge of a config; `cache` is used where the config names none.

        Raises:
            ConfigError: the address, the prompt file or the key's variable is not usable.
        """
        check_address("verify.judge.url", cfg.url)
        return cls(
            endpoint=ChatEndpoint(
                url=cfg.url,
                key=key_of("verify.judge.key_env", cfg.key_env),
                budget=cfg.budget,
                num_tries=cfg.num_tries,
                deadline_s=cfg.deadline_s,
            ),
            model=cfg.model,
            prompt=_read_prompt(Path(cfg.prompt) if cfg.prompt else PROMPT),
            max_tokens=cfg.max_tokens,
            cache=Path(cfg.cache) if cfg.cache else cache,
        )

    @property
    def longest_s(self) -> float:
        """The longest time that one question may take."""
        return self.endpoint.longest_s

    def ask(self, item: Item, answer: str) -> SecondOpinion:
        prompt = self._fill_prompt({"question": item.question, "gold": item.gold, "answer": answer})
        key = hashlib.sha256(f"{self.model}\n{prompt}".encode(errors="replace")).hexdigest()
        with self._lock:
            known = self._known.get(key)
            mine: Future[SecondOpinion] = Future()
            self._known.setdefault(key, mine)
        if known is not None:
            return known.result(timeout=self.longest_s)
        second = SecondOpinion(Opinion.UNKNOWN, "the request was given up")
        try:
            second = self._request(prompt)
        finally:
            mine.set_result(second)  # first: others wait for it, whatever the disk says
            self._remember(key, second)
        return second

    def _fill_prompt(self, fields: dict[str, str]) -> str:
        """Fill the places of the prompt in one pass: what is put in is never looked at."""
        pattern = "|".join(re.escape(place) for place in PLACES)
        return re.sub(pattern, lambda m: fields[m.group()[1:-1]][:MAX_CHARS], self.prompt)

    def _recall(self, line: str) -> None:
        """Take in one line of the cache; the last one may be torn, and is asked again."""
        try:
            row = json.loads(line)
            second = SecondOpinion(Opinion(row["opinion"]), row["reason"])
        except (ValueError, KeyError, TypeError):
            return
        future: Future[SecondOpinion] = Future()
        future.set_result(second)
        self._known[row["key"]] = future

    def _remember(self, key: str, second: SecondOpinion) -> None:
        with self._lock:
            if second.opinion is Opinion.UNKNOWN:
                del self._known[key]  # asked again another time
            elif self.cache is not None:
                row = {"key": key, "opinion": second.opinion.value, "reason": second.reason}
                with writing(self.cache), self.cache.open("a", encoding="utf-8") as file:
                    file.write("\n" + json.dumps(row))  # a torn line before it stays alone

    def _request(self, prompt: str) -> SecondOpinion:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        try:
            return self.endpoint.ask(body, _read_opinion)
        except EndpointError as error:
            return SecondOpinion(Opinion.UNKNOWN, str(error))


def _read_opinion(reply: Any) -> SecondOpinion:
    said = reply["choices"][0]["message"]["content"] or ""
    said = said.rpartition("</think>")[2].strip()
    word = re.match(r"\W*(yes|no)\b", said, re.IGNORECASE)
    if word is None:
        raise ValueError(f"the LLM judge replied {said[:80]!r}; expected yes or no")
    opinion = Opinion.AGREES if word[1].lower() == "yes" else Opinion.DOUBTS
    return SecondOpinion(opinion, said[:200])


def _read_prompt(path: Path) -> str:
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
