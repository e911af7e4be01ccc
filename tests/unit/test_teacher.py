"""A teacher behind an endpoint, against a real HTTP server; which weights may be a local one."""

import base64
import io
import json
import shutil
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from following import Following
from PIL import Image

from virgo_ray.config import Config, PromptConfig, SamplingConfig, TeacherConfig, load_config
from virgo_ray.endpoint.client import ChatEndpoint
from virgo_ray.errors import ConfigError, RolloutError
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import (
    TEACHER_VERSION,
    Judged,
    Problem,
    Request,
    Rollout,
    Status,
    Verdict,
    Weights,
)
from virgo_ray.store.schema import to_judged, to_row
from virgo_ray.teacher import control
from virgo_ray.teacher.local import LocalTeacher, differences, teacher_weights
from virgo_ray.teacher.remote import RemoteTeacher, make_endpoint
from virgo_ray.teacher.reply import read_reply
from virgo_ray.verify.verdict import judge

ROOT = Path(__file__).parents[2]
SAMPLING = SamplingConfig(temperature=0.8, max_tokens=192)
CFG: Config = load_config(str(ROOT / "configs/tiny.yaml"))
LONG = "I look at the picture. There are 3 + 4 = 7 bars.\n\nSo the answer is \\boxed{7}."


class Endpoint(BaseHTTPRequestHandler):
    """Answers with what `script` makes of (body, how many came before)."""

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            nth = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        status, content, *headers = server.script(body, nth)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        with server.lock:
            server.in_flight -= 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    found.daemon_threads = True
    found.lock = threading.Lock()
    found.bodies, found.keys, found.in_flight, found.most_in_flight = [], [], 0, 0
    found.url = f"http://127.0.0.1:{found.server_port}/v1"
    thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module")
def prompter():
    found = Prompter(CFG.model, CFG.prompt)
    assert found.end_id  # reads the model's files now, not within a request's deadline
    return found


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (48, 32), (255, 0, 0, 0)).save(path)
    return str(path)


def said(content, finish="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


def teacher_at(server, prompter, prompt=CFG.prompt, max_length=320, key="", **options):
    options = {"num_tries": 3, **options}
    cfg = TeacherConfig(url=server.url, model="qvq", num_parallel=options.pop("num_parallel", 2))
    endpoint = ChatEndpoint(server.url, key, pause_s=0.0, **options)
    return RemoteTeacher(cfg, endpoint, prompt, prompter, max_length)


def requests(num, images=(), options=()):
    problems = [
        Problem(f"p{i}", "How many bars?", "7", images, options=options) for i in range(num)
    ]
    return [Request(p, 0, seed=i) for i, p in enumerate(problems)]


def one(server, prompter, reply, status=200, **options):
    """The one rollout of a teacher that always replies so; a good answer opens the stream."""
    server.script = lambda body, nth: (200, said(LONG)) if not nth else (status, reply)
    teacher = teacher_at(server, prompter, num_parallel=1, **options)
    rollouts = list(teacher.sample(requests(2), SAMPLING))
    assert len(rollouts) == 2
    return rollouts[1]


# -- what is asked ---------------------------------------------------------------------------------


def test_the_teacher_is_asked_as_the_student_is_with_pictures_inside(server, prompter, picture):
    server.script = lambda body, nth: (200, said(LONG))
    teacher = teacher_at(server, prompter, key="s3cret")
    list(teacher.sample(requests(1, (picture, picture), ("1", "7")), SAMPLING))
    (body,) = server.bodies
    assert server.keys == ["Bearer s3cret"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("qvq", 0.8, 192)
    assert body["seed"] == 0 and "top_k" not in body and "repetition_penalty" not in body
    system, user = body["messages"]
    assert system == {"role": "system", "content": CFG.prompt.system}
    first, second, text = user["content"]
    assert first == second and text["type"] == "text"
    assert text["text"].endswith("How many bars?\n(A) 1\n(B) 7")
    head, data = first["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (48, 32) and image.getpixel((0, 0)) == (255, 255, 255)  # on white


def test_words_alone_are_plain_text_and_other_parameters_are_sent_where_set(server, prompter):
    server.script = lambda body, nth: (200, said(LONG))
    teacher = teacher_at(server, prompter, prompt=PromptConfig(system=""))
    list(teacher.sample(requests(1), SAMPLING.model_copy(update={"top_k": 20})))
    (body,) = server.bodies
    assert [m["role"] for m in body["messages"]] == ["user"] and body["top_k"] == 20
    assert body["messages"][0]["content"].endswith("How many bars?")


# -- what comes back -------------------------------------------------------------------------------


def test_an_answer_becomes_a_rollout_in_the_students_format_and_tokens(server, prompter):
    server.script = lambda body, nth: (200, said(LONG))
    (rollout,) = teacher_at(server, prompter).sample(requests(1), SAMPLING)
    assert rollout.text.startswith("<|begin_of_thought|>\n\nI look at the picture.")
    assert rollout.text.endswith("\\boxed{7}.\n\n<|end_of_solution|>")
    assert rollout.token_ids[-1] == prompter.end_id
    assert prompter.decode(rollout.token_ids) == rollout.text
    assert rollout.weights_version == TEACHER_VERSION and rollout.finish_reason == "stop"
    assert rollout.sampling["teacher"] == "qvq" and rollout.sampling["temperature"] == 0.8
    verdict = judge(rollout.problem, rollout, CFG.verify)
    assert verdict.status is Status.CORRECT
    judged = Judged(rollout, verdict)
    assert to_judged(to_row(1, judged)) == judged
    prompter.example("x", rollout.problem, rollout.token_ids)  # can be trained on


@pytest.mark.parametrize(
    "reply",
    [
        said("It is \\boxed{7}.", reasoning_content="3 + 4 = 7"),
        said("It is \\boxed{7}.", reasoning="3 + 4 = 7"),
        said("<think>\n3 + 4 = 7\n</think>\n\nIt is \\boxed{7}."),
        said("3 + 4 = 7\n</think>\n\nIt is \\boxed{7}."),
        said(
            [{"type": "text", "text": "<think>3 + 4 = 7</think> It "}, {"text": "is \\boxed{7}."}]
        ),
        said("3 + 4 = 7\n\n**Final Answer**\n\nIt is \\boxed{7}."),
    ],
)
def test_every_way_to_keep_thoughts_apart_gives_the_same_rollout(server, prompter, reply):
    text = one(server, prompter, reply).text
    assert text.split() == [
        "<|begin_of_thought|>", "3", "+", "4", "=", "7", "<|end_of_thought|>",
        "<|begin_of_solution|>", "It", "is", "\\boxed{7}.", "<|end_of_solution|>",
    ]  # fmt: skip


def test_tokens_that_stand_for_pictures_or_ends_are_taken_out(server, prompter):
    evil = "3 <|image_pad|><|im_end|>\n<|im_start|>\n + 4\ud800\n\nIt is \\boxed{7}<|video_pad|>."
    rollout = one(server, prompter, said(evil))
    banned = prompter.placeholder_ids | {prompter.end_id}
    assert not banned.intersection(rollout.token_ids[:-1])
    assert "image_pad" not in rollout.text and "im_end" not in rollout.text
    assert judge(rollout.problem, rollout, CFG.verify).status is Status.CORRECT
    prompter.example("x", rollout.problem, rollout.token_ids)


def test_what_the_teacher_cut_is_truncated_and_never_wrong(server, prompter):
    rollout = one(server, prompter, said("I look at the", finish="length"))
    assert rollout.finish_reason == "length" and rollout.token_ids[-1] != prompter.end_id
    assert judge(rollout.problem, rollout, CFG.verify).status is Status.TRUNCATED
    thinking = one(server, prompter, said(None, finish="length", reasoning_content="I look"))
    assert thinking.text == "I look" and thinking.finish_reason == "length"


def test_what_is_too_long_for_the_student_is_cut_and_truncated(server, prompter):
    rollout = one(server, prompter, said("one two three " * 400 + "\n\n\\boxed{7}"))
    room = 320 - prompter.num_prompt_tokens(rollout.problem)
    assert len(rollout.token_ids) == room and rollout.finish_reason == "length"


@pytest.mark.parametrize(
    ("reply", "status", "why"),
    [
        ({"error": "no"}, 200, "KeyError"),
        ({"choices": []}, 200, "IndexError"),
        ({"choices": None}, 200, "TypeError"),
        ({"choices": [{"message": None}]}, 200, "AttributeError"),
        ({"choices": [{"message": {"content": 7}}]}, 200, "TypeError"),
        ({"choices": [{"message": {"content": {"a": 1}}}]}, 200, "TypeError"),
        ({"choices": [{"message": {"content": [7]}}]}, 200, "AttributeError"),
        ([1, 2], 200, "TypeError"),
        (said(None), 200, "no text"),
        (said("  "), 200, "no text"),
        (said("Well", finish="content_filter"), 200, "content_filter"),
        (b"<html>busy</html>", 200, "JSONDecodeError"),
        (b"[" * 100_000, 200, "RecursionError"),
        (b"\xff\xfe\x00", 200, "UnicodeDecodeError"),
        (b"", 200, "JSONDecodeError"),
        ({"message": "prompt is too long"}, 400, "HTTP 400: .*prompt is too long"),
        ({"message": "too large"}, 413, "HTTP 413"),
    ],
)
def test_what_it_declines_or_garbles_is_an_empty_rollout_that_says_why(
    server, prompter, reply, status, why
):
    rollout = one(server, prompter, reply, status)
    assert (rollout.text, rollout.token_ids, rollout.finish_reason) == ("", (), "stop")
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(rollout.sampling["declined"])
    assert judge(rollout.problem, rollout, CFG.verify).status is Status.NO_ANSWER
    judged = Judged(rollout, Verdict(Status.NO_ANSWER))
    assert to_judged(to_row(1, judged)) == judged


def test_a_reply_without_end_is_not_kept_in_memory(server, prompter):
    server.script = lambda body, nth: (200, b" " * 3_000_000)
    endpoint = ChatEndpoint(server.url, num_tries=1, max_bytes=1 << 20)
    with pytest.raises(Exception, match="no complete reply within 60 s and 1 MiB"):
        endpoint.ask({}, read_reply)


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_what_may_pass_is_tried_again(server, prompter, status):
    server.script = lambda body, nth: (200, said(LONG)) if nth % 3 == 2 else (status, b"later")
    rollouts = list(teacher_at(server, prompter, num_parallel=1).sample(requests(3), SAMPLING))
    assert [r.finish_reason for r in rollouts] == ["stop"] * 3 and len(server.bodies) == 9
    assert all("declined" not in r.sampling for r in rollouts)


def test_a_server_that_asks_for_a_pause_gets_it(server, prompter):
    server.script = lambda body, nth: (
        (200, said(LONG)) if nth else (429, b"", ("Retry-After", "0.3"))
    )
    began = time.monotonic()
    assert len(list(teacher_at(server, prompter).sample(requests(1), SAMPLING))) == 1
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    ("status", "tries", "message"),
    [
        (503, 3, "no usable reply in 3 tries .HTTP 503: overloaded"),
        (401, 1, "HTTP 401: overloaded"),
        (404, 1, "HTTP 404"),
        (302, 1, "HTTP 302"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_stops_the_run(server, prompter, status, tries, message):
    server.script = lambda body, nth: (status, b"overloaded", ("Location", "http://127.0.0.1:9/"))
    teacher = teacher_at(server, prompter, num_parallel=1, key="s3cret")
    with pytest.raises(RolloutError, match=message) as error:
        list(teacher.sample(requests(5), SAMPLING))
    assert len(server.bodies) == tries
    assert "run the same command again" in str(error.value) and "s3cret" not in str(error.value)


def test_nobody_there_stops_the_run(server, prompter):
    server.url = "http://127.0.0.1:9/v1"
    with pytest.raises(RolloutError, match="Connection refused"):
        list(teacher_at(server, prompter).sample(requests(5), SAMPLING))


def test_what_was_answered_before_a_failure_is_kept(server, prompter):
    server.script = lambda body, nth: (200, said(LONG)) if nth < 4 else (500, b"")
    kept = []
    with pytest.raises(RolloutError):
        for rollout in teacher_at(server, prompter, num_parallel=1).sample(requests(9), SAMPLING):
            kept.append(rollout.key)
    assert kept == [(f"p{i}", 0) for i in range(4)]


def test_what_is_out_when_another_fails_is_kept_too(server, prompter):
    def script(body, nth):
        if nth == 1:
            return 401, b""
        time.sleep(0.3 if nth in (2, 3) else 0)
        return 200, said(LONG)

    server.script = script
    kept = []
    with pytest.raises(RolloutError, match="HTTP 401"):
        for rollout in teacher_at(server, prompter, num_parallel=3).sample(requests(50), SAMPLING):
            kept.append(rollout)
    assert len(kept) == len(server.bodies) - 1 < 10


def test_a_spent_budget_stops_the_run_and_counts_tries(server, prompter):
    server.script = lambda body, nth: (200, said(LONG)) if nth % 2 else (500, b"")
    kept = []
    with pytest.raises(RolloutError, match="the budget of 6 requests is spent"):
        teacher = teacher_at(server, prompter, budget=6, num_parallel=1)
        for rollout in teacher.sample(requests(9), SAMPLING):
            kept.append(rollout)
    assert len(server.bodies) == 6 and len(kept) == 3  # two tries each


def test_a_teacher_that_declines_everything_is_a_wrong_set_up(server, prompter):
    server.script = lambda body, nth: (400, b"unknown parameter: seed")
    teacher = teacher_at(server, prompter, num_parallel=1)
    stream = teacher.sample(requests(30), SAMPLING)
    with pytest.raises(RolloutError, match=r"first 8 requests, .*unknown parameter: seed"):
        next(stream)
    assert len(server.bodies) <= 10  # one that was out, and the control question
    with pytest.raises(RolloutError, match=r"first 3 requests.* and a control question"):
        next(teacher.sample(requests(3), SAMPLING))


@pytest.mark.parametrize("num", [3, 20])
def test_what_alone_is_left_and_declined_is_an_answer(server, prompter, picture, num):
    """As where a run goes on after only what a filter stops was left."""

    def script(body, nth):
        return (400, b"filtered") if "bars" in str(body["messages"]) else (200, said("White."))

    server.script = script
    rollouts = list(teacher_at(server, prompter).sample(requests(num, (picture,)), SAMPLING))
    assert len(rollouts) == num and {r.sampling["declined"] for r in rollouts} == {
        "HTTP 400: filtered"
    }
    (control,) = [b for b in server.bodies if "bars" not in str(b["messages"])]
    content = control["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert (control["temperature"], control["max_tokens"]) == (0.8, 192)


def test_what_takes_no_pictures_declines_the_control_question_too(server, prompter, picture):
    has_picture = lambda body: "image_url" in str(body["messages"])  # noqa: E731
    server.script = lambda body, nth: (400, b"text") if has_picture(body) else (200, said("White."))
    with pytest.raises(RolloutError, match="takes images"):
        list(teacher_at(server, prompter).sample(requests(3, (picture,)), SAMPLING))


@pytest.mark.parametrize("is_busy", [True, False])
def test_silence_is_noticed_in_minutes_and_long_thoughts_are_waited_for(
    server, prompter, monkeypatch, is_busy
):
    """Scaled: the control question after 0.2 s, its deadline 0.3 s; a request may take 60 s."""
    monkeypatch.setattr(control, "SILENCE_S", 0.2)
    monkeypatch.setattr(control, "CONTROL_DEADLINE_S", 0.3)
    monkeypatch.setattr("virgo_ray.endpoint.stream.WATCH_S", 0.05)
    done = threading.Event()

    def script(body, nth):
        if body["max_tokens"] == 1 and is_busy:
            done.set()  # it answers, and so after a while do the others
            return 200, said("White.", finish="length")
        done.wait(20)
        return 200, said(LONG)

    server.script = script
    stream = teacher_at(server, prompter, deadline_s=60.0).sample(requests(4), SAMPLING)
    began = time.monotonic()
    if is_busy:
        assert len(list(stream)) == 4
    else:
        with pytest.raises(RolloutError, match=r"nothing came back .* control question"):
            list(stream)
    assert time.monotonic() - began < 15
    done.set()


@pytest.mark.parametrize("num_parallel", [1, 4])
@pytest.mark.parametrize("declines", [False, True])
def test_requests_may_follow_rollouts(server, prompter, monkeypatch, num_parallel, declines):
    """Also where all of the first are declined, so that they are held back for a while."""
    monkeypatch.setattr("virgo_ray.teacher.remote.IDLE_S", 0.001)

    def script(body, nth):
        is_ours = "bars" in str(body["messages"])
        return (400, b"filtered") if declines and is_ours else (200, said(LONG))

    server.script = script
    wanted = requests(9)
    following = Following(wanted[:5], wanted[5:])
    teacher = teacher_at(server, prompter, num_parallel=num_parallel)
    rollouts = following.take(teacher.sample(following, SAMPLING))
    assert sorted(r.key for r in rollouts) == sorted(r.key for r in wanted)


def test_a_greedy_request_is_asked_at_temperature_0(server, prompter):
    server.script = lambda body, nth: (200, said(LONG))
    (sampled,) = requests(1)
    both = [sampled, replace(sampled, is_greedy=True)]
    rollouts = list(teacher_at(server, prompter, num_parallel=1).sample(both, SAMPLING))
    assert [body["temperature"] for body in server.bodies] == [0.8, 0.0]
    assert [(r.is_greedy, r.sampling["temperature"]) for r in rollouts] == [
        (False, 0.8), (True, 0.0),
    ]  # fmt: skip


def test_what_was_declined_before_the_first_answer_is_kept(server, prompter):
    server.script = lambda body, nth: (400, b"filtered") if nth < 3 else (200, said(LONG))
    teacher = teacher_at(server, prompter, num_parallel=1)
    rollouts = list(teacher.sample(requests(5), SAMPLING))
    assert [bool(r.text) for r in rollouts] == [False] * 3 + [True] * 2


def test_a_server_that_says_nothing_meets_the_deadline(server, prompter):
    release = threading.Event()
    server.script = lambda body, nth: (release.wait(20), (200, said(LONG)))[1]
    teacher = teacher_at(server, prompter, num_tries=1, deadline_s=0.3)
    began = time.monotonic()
    with pytest.raises(RolloutError, match="timed out"):
        list(teacher.sample(requests(2), SAMPLING))
    assert time.monotonic() - began < 10
    release.set()


# -- how it is asked -------------------------------------------------------------------------------


def test_requests_are_drawn_lazily_and_at_most_so_many_are_out(server, prompter):
    drawn = []
    slow = threading.Event()
    server.script = lambda body, nth: (slow.wait(0.05), (200, said(LONG)))[1]

    def counted():
        for request in requests(40):
            drawn.append(request)
            yield request

    stream = teacher_at(server, prompter, num_parallel=4).sample(counted(), SAMPLING)
    assert not drawn
    first = next(stream)
    assert len(drawn) <= 5
    rest = list(stream)
    assert sorted(r.problem.id for r in [first, *rest]) == sorted(f"p{i}" for i in range(40))
    assert 2 <= server.most_in_flight <= 4


def test_a_consumer_that_leaves_waits_for_nobody(server, prompter):
    block = threading.Event()
    server.script = lambda body, nth: (nth and block.wait(20), (200, said(LONG)))[1]
    stream = teacher_at(server, prompter, num_parallel=2).sample(requests(50), SAMPLING)
    next(stream)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 5 and len(server.bodies) <= 3
    block.set()


def test_no_requests_ask_nobody(server, prompter):
    assert list(teacher_at(server, prompter).sample([], SAMPLING)) == []


# -- the config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.url=http://a/v1"], "expected `path`"),
        (["teacher.model=m"], "expected `path`"),
        (["teacher.path=x", "teacher.model=m"], "expected `path`"),
        (["teacher.pth=x"], "did you mean 'path'"),
    ],
)
def test_a_teacher_is_a_path_or_an_endpoint(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(str(ROOT / "configs/tiny.yaml"), overrides)


def test_an_endpoint_that_could_not_be_used_is_refused_before_the_start(monkeypatch):
    with pytest.raises(ConfigError, match=r"teacher.url='localhost' is no http"):
        make_endpoint(TeacherConfig(url="localhost", model="m"))
    cfg = TeacherConfig(url="http://localhost/v1", model="m", key_env="TEACHER_KEY")
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"teacher.key_env='TEACHER_KEY'"):
        make_endpoint(cfg)
    monkeypatch.setenv("TEACHER_KEY", "s3cret")
    assert make_endpoint(cfg).key == "s3cret"
    assert "s3cret" not in repr(make_endpoint(cfg)) + cfg.model_dump_json()


# -- local weights ---------------------------------------------------------------------------------


def with_teacher(path):
    return load_config(str(ROOT / "configs/tiny.yaml"), [f"teacher.path={path}"])


def changed_model(tmp_path, file="config.json", change=lambda content: None):
    directory = shutil.copytree(TINY_DIRECTORY, tmp_path / "teacher")
    content = json.loads((directory / file).read_text())
    change(content)
    (directory / file).write_text(json.dumps(content))
    return directory


def test_weights_of_the_same_architecture_are_a_teacher(tmp_path):
    assert teacher_weights(CFG) is None
    assert teacher_weights(with_teacher("tiny")) == Weights(TEACHER_VERSION, str(TINY_DIRECTORY))
    same = changed_model(tmp_path, change=lambda c: c.update(transformers_version="0"))
    assert teacher_weights(with_teacher(same)) == Weights(TEACHER_VERSION, str(same))


def test_another_architecture_or_tokenizer_is_refused_with_a_way_out(tmp_path):
    def deeper(content):
        content["text_config"]["num_hidden_layers"] += 1

    cfg = with_teacher(changed_model(tmp_path, change=deeper))
    with pytest.raises(ConfigError, match=r"num_hidden_layers .*vllm serve.*teacher.url"):
        teacher_weights(cfg)


def test_other_tokens_are_another_tokenizer(tmp_path):
    def renamed(content):
        content["added_tokens"][0]["content"] = "<other>"

    found = differences(TINY_DIRECTORY, changed_model(tmp_path, "tokenizer.json", renamed))
    assert found == ["other tokens in tokenizer.json"]


def test_a_teacher_that_is_not_there_is_refused_by_its_own_key():
    with pytest.raises(ConfigError, match=r"teacher.path='./nowhere' is no directory"):
        teacher_weights(with_teacher("./nowhere"))


class Engines:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def push(self, weights):
        self.told.append(weights.version)

    def sample(self, requests, sampling):
        self.num_asked = len(requests)
        for r in requests:
            self.told.append(r.key)
            yield Rollout(r.problem, r.sample_index, "x", (1,), "stop", -1, {"seed": r.seed})


def test_the_engines_load_the_teacher_once_something_is_asked():
    engines = Engines()
    teacher = LocalTeacher(engines, Weights(TEACHER_VERSION, "there"), "runs/tiny")
    assert list(teacher.sample([], SAMPLING)) == [] and engines.told == []
    rollouts = list(teacher.sample(iter(requests(2)), SAMPLING))
    assert engines.told == [-1, ("p0", 0), ("p1", 0)]
    assert {r.sampling["teacher"] for r in rollouts} == {"runs/tiny"}
    assert rollouts[1].sampling["seed"] == 1 and rollouts[0].token_ids == (1,)


def test_the_engines_are_told_how_much_is_asked():
    engines = Engines()
    teacher = LocalTeacher(engines, Weights(TEACHER_VERSION, "there"), "runs/tiny")
    assert len(list(teacher.sample(requests(3), SAMPLING))) == 3
    assert engines.num_asked == 3
