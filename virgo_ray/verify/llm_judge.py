"""A language model as a second opinion, over any OpenAI-compatible endpoint (a local vLLM server
too).

Guarantees: one question is asked once (answers are kept in memory and, with `cache`, in a JSON
lines file); at most `budget` requests are sent; a request that fails is tried again and then
UNKNOWN, never a verdict. The prompt stands in `prompts/judge.txt`. Answers of a model may flatter
the judge: what it says is an opinion.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions import Opinion, Second

PROMPT = Path(__file__).parent / "prompts" / "judge.txt"
MAX_CHARS = 2000


@dataclass
class LlmJudge:
    """`url` is the base up to and including `/v1`; `key` is sent as a bearer token if it is set."""

    url: str
    model: str
    key: str = ""
    budget: int = 1000
    num_tries: int = 3
    deadline_s: float = 60.0
    pause_s: float = 1.0
    cache: Path | None = None
    num_asked: int = 0
    _known: dict[str, Second] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache is not None and self.cache.is_file():
            for line in self.cache.read_text().splitlines():
                row = json.loads(line)
                self._known[row["key"]] = Second(Opinion(row["opinion"]), row["reason"])

    def ask(self, item: Item, answer: str) -> Second:
        fields = {"question": item.question, "gold": item.gold, "answer": answer}
        prompt = PROMPT.read_text()
        # Not str.format: a model's text may hold braces.
        for name, value in fields.items():
            prompt = prompt.replace("{" + name + "}", value[:MAX_CHARS].replace("{", "{ "))
        key = hashlib.sha256(f"{self.model}\n{prompt}".encode(errors="replace")).hexdigest()
        if key not in self._known:
            second = self._request(prompt)
            if second.opinion is Opinion.UNKNOWN:
                return second  # asked again another time
            self._remember(key, second)
        return self._known[key]

    def _remember(self, key: str, second: Second) -> None:
        self._known[key] = second
        if self.cache is not None:
            row = {"key": key, "opinion": second.opinion.value, "reason": second.reason}
            with self.cache.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _request(self, prompt: str) -> Second:
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": 8}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        reason = ""
        for attempt in range(self.num_tries):
            if self.num_asked >= self.budget:
                return Second(Opinion.UNKNOWN, f"the budget of {self.budget} requests is spent")
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            self.num_asked += 1
            try:
                return self._send(body, headers)
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}"
        return Second(Opinion.UNKNOWN, f"no usable reply in {self.num_tries} tries ({reason})")

    def _send(self, body: dict[str, object], headers: dict[str, str]) -> Second:
        address = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.deadline_s) as response:
            reply = json.load(response)["choices"][0]["message"]["content"]
        word = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
        if word is None:
            raise ValueError(f"the judge replied {reply[:80]!r}; expected yes or no")
        opinion = Opinion.AGREES if word[1].lower() == "yes" else Opinion.DOUBTS
        return Second(opinion, reply.strip()[:200])
