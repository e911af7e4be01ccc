"""What a run reaches over the network: the hub, Weights & Biases, endpoints of other models.

Secrets go into headers only, never into a text, and to the given address only, because no redirect
is followed. An answer of whatever kind shows that somebody is there; an answer that refuses the key
says so.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from virgo_ray.doctor.findings import Check, Finding, not_checked, not_needed, to_do, well
from virgo_ray.doctor.subject import Subject
from virgo_ray.monitor.wandb_sink import resolve_mode

ANSWER_S = 8.0
REFUSED = (401, 403)
HUB = "https://huggingface.co"
WANDB = "https://api.wandb.ai"
VIEWER = json.dumps({"query": "query Viewer { viewer { username } }"}).encode()


class Reply(NamedTuple):
    """`status` is None where nobody answered, and `text` says why."""

    status: int | None
    text: str

    @property
    def is_redirect(self) -> bool:
        return self.status is not None and 300 <= self.status < 400


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is the answer: followed, it would carry the key to whatever address it names."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Reply:
    """The answer to one request, whatever its status; redirects are not followed.

    A user and password in the address go into a header, unless there is a key.
    """
    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        login = {"Authorization": _basic(unquote(user))} if user else {}
        target = urlunsplit(parts._replace(netloc=host))
        request = urllib.request.Request(target, body, {**login, **(headers or {})})
        opener = urllib.request.build_opener(NoRedirects)
        with opener.open(request, timeout=ANSWER_S) as reply:
            return Reply(reply.status, reply.read(2**20).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.reason)
    except (OSError, HTTPException, ValueError) as error:
        return Reply(None, str(getattr(error, "reason", error)))


def without_secrets(url: str) -> str:
    """Scheme, host and path of an address: its user, password and query are nobody's business.

    >>> without_secrets("https://me:secret@hub.example:8443/api?key=secret")
    'https://hub.example:8443/api'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def look_at_hub(subject: Subject) -> Finding:
    used = subject.hub_names()
    is_needed = bool(used) or subject.cfg is None
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        why = "HF_HUB_OFFLINE is set, so only what is in the cache is found"
        return not_checked(why) if used else not_needed(why)
    reply = ask(f"{endpoint}/api/models?limit=1")
    subject.is_hub_silent = reply.status is None
    if reply.status is None and not is_needed:
        shown = without_secrets(endpoint)
        return not_needed(f"{shown} does not answer, and this config takes nothing from it")
    token = os.environ.get("HF_TOKEN", "").strip() or _hub_token()
    own = ask(f"{endpoint}/api/whoami-v2", {"Authorization": f"Bearer {token}"}) if token else None
    return judge_hub(without_secrets(endpoint), reply, own, used)


def judge_hub(endpoint: str, reply: Reply, own: Reply | None, used: list[str]) -> Finding:
    """`own` is the answer to the token, None without one; `used` are keys that need the hub."""
    if reply.status is None or reply.status >= 500:
        what = reply.text if reply.status is None else f"status {reply.status}"
        return to_do(
            f"{endpoint} does not answer ({what})",
            "check the network, HTTPS_PROXY and HF_ENDPOINT; or fetch the files beforehand and "
            "give local directories",
        )
    if own is not None and own.status in REFUSED:
        return to_do(
            f"{endpoint} does not know the token in HF_TOKEN or of `hf auth login`",
            "make a new one at https://huggingface.co/settings/tokens, or unset it",
        )
    token = "without a token" if own is None else "with a token"
    if own is not None and own.is_redirect:
        token = "with a token that is unchecked, for it redirects elsewhere"
    users = f"; used by {', '.join(used)}" if used else ""
    return well(f"{endpoint} answers, {token}{users}")


def look_at_wandb(subject: Subject) -> Finding:
    mode = resolve_mode(subject.cfg.wandb.mode if subject.cfg else "auto")
    if mode == "disabled":
        return not_needed("wandb.mode=disabled")
    if mode == "offline":
        return not_needed(
            "offline: no key is set, or wandb.mode says so; `virgo-ray sync RUN_DIR` sends later"
        )
    base = os.environ.get("WANDB_BASE_URL", WANDB).rstrip("/")
    key = os.environ.get("WANDB_API_KEY") or _netrc_key(base)
    if not key:
        return to_do("wandb.mode=online and no key", "set WANDB_API_KEY, or run `wandb login`")
    headers = {"Authorization": _basic(f"api:{key}"), "Content-Type": "application/json"}
    return judge_wandb(without_secrets(base), ask(f"{base}/graphql", headers, VIEWER))


def judge_wandb(base: str, reply: Reply) -> Finding:
    if reply.status is None or reply.status >= 500:
        what = reply.text if reply.status is None else f"status {reply.status}"
        return to_do(
            f"{base} does not answer ({what})",
            "check the network; a run goes on offline, and `virgo-ray sync RUN_DIR` sends later",
        )
    if reply.is_redirect:
        return to_do(
            f"{base} redirects elsewhere (status {reply.status}), so the key was not checked",
            "set WANDB_BASE_URL to the address that it redirects to",
        )
    if reply.status in REFUSED or not _viewer(reply.text):
        return to_do(f"{base} does not know the key", "set another WANDB_API_KEY")
    return well(f"{base} knows the key")


def look_at_endpoints(subject: Subject) -> Finding:
    cfg = subject.cfg
    assert cfg is not None
    used: dict[str, tuple[str, str | None]] = {}
    if cfg.teacher is not None and cfg.teacher.url is not None:
        used["teacher.url"] = (f"{cfg.teacher.url.rstrip('/')}/models", cfg.teacher.key_env)
    if cfg.verify.judge is not None:
        judge = cfg.verify.judge
        used["verify.judge.url"] = (f"{judge.url.rstrip('/')}/models", judge.key_env)
    if (cfg.verify.custom or "").startswith(("http://", "https://")):
        used["verify.custom"] = (str(cfg.verify.custom), None)
    if not used:
        return not_needed("no teacher, judge or verifier behind an address")
    return judge_endpoints({key: _ask_endpoint(*place) for key, place in used.items()})


def judge_endpoints(replies: Mapping[str, Reply]) -> Finding:
    silent = {k: r.text for k, r in replies.items() if r.status is None}
    refusing = [k for k, r in replies.items() if r.status in REFUSED]
    moved = [k for k, r in replies.items() if r.is_redirect]
    if silent:
        faults = "; ".join(f"{key} does not answer ({why})" for key, why in silent.items())
        return to_do(faults, "start it, or give its address as it is seen from here")
    if refusing:
        return to_do(f"{', '.join(refusing)} refuses the key", "look at the key of its key_env")
    if moved:
        return to_do(
            f"{', '.join(moved)} redirects elsewhere, and a run follows no redirect",
            "give the address that it redirects to",
        )
    return well(f"{', '.join(replies)} answers")


def _ask_endpoint(url: str, key_env: str | None) -> Reply:
    key = os.environ.get(key_env or "", "")
    return ask(url, {"Authorization": f"Bearer {key}"} if key else None)


def _basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def _viewer(text: str) -> Any:
    try:
        return json.loads(text)["data"]["viewer"]
    except (ValueError, LookupError, TypeError):
        return None


def _hub_token() -> str:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _netrc_key(base: str) -> str:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = netrc.netrc(str(path)).authenticators(urlsplit(base).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return ""
    return found[2] or "" if found else ""


CHECKS = (
    Check("hub", look_at_hub, 3 * ANSWER_S),
    Check("W&B", look_at_wandb, 2 * ANSWER_S),
)
RUN_CHECKS = (Check("endpoints", look_at_endpoints, 4 * ANSWER_S),)
