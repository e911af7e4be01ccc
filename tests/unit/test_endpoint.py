"""One chat endpoint over real HTTP: what is sent, where it goes, and what an error tells."""

import json
import logging
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from virgo_ray.endpoint.client import (
    ChatEndpoint,
    EndpointError,
    NoReplyError,
    RequestRefusedError,
    UnusableReplyError,
    key_of,
)
from virgo_ray.errors import ConfigError

KEY = "sk-s3cret-0123456789"
BODY = {"model": "m", "messages": [{"role": "user", "content": "How many?"}], "top_k": 5}
REPLY = {"choices": [{"message": {"content": "7"}}]}


class Handler(BaseHTTPRequestHandler):
    """Notes path, headers and body of a request, then lets `answer` of its server reply."""

    protocol_version = "HTTP/1.1"  # connections are kept, as real endpoints keep them

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        self.server.answer(self)

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers), None))
        self.reply(200, REPLY)

    def reply(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *arguments):
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        self.answer = lambda handler: handler.reply(200, REPLY)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Quiet: a client that gives up is what these tests are about."""


@pytest.fixture
def server():
    found = Server()
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module", autouse=True)
def loaded_transport():
    """Load `openai` now, not within a deadline."""
    import virgo_ray.endpoint.transport  # noqa: F401


def endpoint_at(server, **options):
    return ChatEndpoint(server.url, **{"key": KEY, "num_tries": 1, "pause_s": 0.0, **options})


def read_content(reply):
    return reply["choices"][0]["message"]["content"]


def test_loading_the_client_does_not_load_openai():
    code = "import sys, virgo_ray.endpoint.client; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# -- what is sent ----------------------------------------------------------------------------------


def test_the_body_is_sent_as_it_is_with_fields_that_openai_does_not_know(server):
    assert endpoint_at(server).ask(BODY, read_content) == "7"
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions" and body == BODY
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_a_lone_surrogate_is_sent_as_a_question_mark(server):
    body = {**BODY, "messages": [{"role": "user", "content": "3 + 4\ud800 é"}]}
    endpoint_at(server).ask(body, read_content)
    assert server.seen[0][2]["messages"][0]["content"] == "3 + 4? é"


def test_variables_of_openai_are_ignored(server, monkeypatch):
    other = Server()
    for name, value in {
        "OPENAI_API_KEY": "sk-other",
        "OPENAI_ADMIN_KEY": "sk-admin",
        "OPENAI_BASE_URL": other.url,
        "OPENAI_ORG_ID": "an-organization",
        "OPENAI_PROJECT_ID": "a-project",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer sk-custom\nX-Extra: sk-custom",
    }.items():
        monkeypatch.setenv(name, value)
    assert endpoint_at(server).ask(BODY, read_content) == "7"
    assert endpoint_at(server, key="").ask(BODY, read_content) == "7"
    other.server_close()
    assert not other.seen
    with_key, without_key = (headers for _, headers, _ in server.seen)
    assert with_key.pop("Authorization") == f"Bearer {KEY}"
    assert with_key == without_key
    assert {name.lower() for name in without_key} == {
        "host", "content-type", "content-length", "accept", "accept-encoding", "user-agent",
    }  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server, status):
    target = f"{server.url}/elsewhere"
    server.answer = lambda handler: handler.reply(status, b"moved", Location=target)
    with pytest.raises(RequestRefusedError, match=f"HTTP {status}: moved") as caught:
        endpoint_at(server, num_tries=3).ask(BODY, read_content)
    assert caught.value.status == status
    assert [path for path, _, _ in server.seen] == ["/v1/chat/completions"]


def test_a_try_is_one_request(server):
    server.answer = lambda handler: handler.reply(503, b"overloaded")
    endpoint = endpoint_at(server, num_tries=2)
    with pytest.raises(NoReplyError, match=r"no usable reply in 2 tries \(HTTP 503: overloaded"):
        endpoint.ask(BODY, read_content)
    assert len(server.seen) == endpoint.num_asked == 2


# -- deadlines and bounds --------------------------------------------------------------------------


def answer_silently(handler):
    time.sleep(20)


def answer_with_headers_only(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    time.sleep(20)


def answer_byte_by_byte(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        time.sleep(0.02)


@pytest.mark.parametrize(
    "answer",
    [answer_silently, answer_with_headers_only, answer_byte_by_byte],
    ids=lambda a: a.__name__,
)
def test_a_time_out_ends_as_an_error_of_ours_within_the_longest_time(server, answer):
    server.answer = answer
    endpoint = endpoint_at(server, deadline_s=0.3)
    began = time.monotonic()
    with pytest.raises(NoReplyError, match=r"timed out|no complete reply within 0\.3 s"):
        endpoint.ask(BODY, read_content)
    assert time.monotonic() - began < 10


def test_an_error_whose_text_never_ends_is_still_that_error(server):
    def answer(handler):
        handler.send_response(401)
        handler.send_header("Content-Length", "1000000000")
        handler.end_headers()
        while True:
            handler.wfile.write(b"wrong key " * 1000)

    server.answer = answer
    with pytest.raises(RequestRefusedError, match="HTTP 401: wrong key"):
        endpoint_at(server).ask(BODY, read_content)


def test_a_host_name_that_cannot_be_one_is_an_error_of_the_endpoint():
    with pytest.raises(NoReplyError, match="UnicodeError"):
        ChatEndpoint("http://a..b/v1", num_tries=1).ask(BODY, read_content)


# -- the key ---------------------------------------------------------------------------------------


def quote_key(reply):
    raise ValueError(f"the reply is {reply}")


@pytest.mark.parametrize("status", [200, 302, 401, 503])
def test_no_error_shows_the_key_that_a_reply_contains(server, status, caplog):
    caplog.set_level(logging.DEBUG)
    server.answer = lambda handler: handler.reply(status, {"error": {"message": f"bad key {KEY}"}})
    with pytest.raises(EndpointError, match=r"bad key \[the key\]") as caught:
        endpoint_at(server, num_tries=2).ask(BODY, quote_key)
    shown = "".join(traceback.format_exception(caught.value))
    assert "bad key" in shown and KEY not in shown
    assert KEY not in caplog.text


def test_a_reply_that_cannot_be_read_names_the_reason(server):
    with pytest.raises(UnusableReplyError, match="ValueError: the reply is"):
        endpoint_at(server).ask(BODY, quote_key)


@pytest.mark.parametrize("key", ["two words", f"{KEY}\n", "schlüssel"])
def test_a_variable_that_holds_no_key_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ConfigError, match="where='MY_KEY'") as caught:
        key_of("where", "MY_KEY")
    assert key.strip() not in str(caught.value)
