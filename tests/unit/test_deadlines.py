"""No wait without a deadline: every call that can block has one, or says who keeps it.

A call without a time-out carries a comment `# deadline: ...`, on its line or the one before, that
says what ends the wait. A reviewer judges the comment; the test sees to it that there is one.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "virgo_ray"
FILES = sorted(PACKAGE.rglob("*.py"))
ALWAYS_SAY = {
    "recv", "recv_fds", "recv_into", "accept", "waitpid", "barrier", "input", "lockf",
    "all_reduce", "all_gather", "broadcast", "connect",
}  # fmt: skip
NEED_TIMEOUT = {
    "urlopen", "acquire", "result", "exception", "communicate", "check_call", "check_output",
    "create_connection", "wait_procs", "as_completed", "init_process_group", "TCPStore", "OpenAI",
}  # fmt: skip
CLIENTS = {"requests", "httpx", "httpx2", "subprocess"}


def blocking(call):
    """Why a call may wait for ever, or None."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    name = call.func.attr if owner is not None else getattr(call.func, "id", "")
    of = getattr(owner, "id", "")
    keywords = {k.arg: k.value for k in call.keywords}
    has_timeout = "timeout" in keywords and not is_none(keywords["timeout"])
    num_given = len(call.args)
    if name in ALWAYS_SAY or (name == "flock" and "LOCK_NB" not in ast.unparse(call)):
        return f"{name}() takes no time-out"
    if name in NEED_TIMEOUT or (of == "ray" and name in ("get", "wait")):
        return None if has_timeout else f"{name}() without timeout="
    if of in CLIENTS and name in ("run", "call", "get", "post", "put", "request", "Client"):
        return None if has_timeout else f"{of}.{name}() without timeout="
    if name == "wait" and not has_timeout and num_given < (2 if owner is None else 1):
        return "wait() without a time"
    if name in ("get", "join") and owner is not None and not num_given and not has_timeout:
        return f"{name}() without a time"  # of a queue, of a thread; dict.get and str.join take one
    if of == "select" and name == "select" and num_given < 4:
        return "select() without a time"
    if name == "shutdown" and of != "ray" and truth(keywords.get("wait")) is not False:
        return None if has_timeout or "timeout" in keywords else "shutdown() that waits"
    return None


def is_none(node):
    return isinstance(node, ast.Constant) and node.value is None


def truth(node):
    return node.value if isinstance(node, ast.Constant) else None


def waits(text):
    """(line number, reason) of every wait that neither has a deadline nor says who keeps it."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        reason = None
        if isinstance(node, ast.Call):
            reason = blocking(node)
        elif isinstance(node, ast.withitem) and "PoolExecutor(" in ast.unparse(node.context_expr):
            node, reason = node.context_expr, "its end waits for all threads"
        if reason:
            said = lines[max(0, node.lineno - 2) : node.end_lineno]
            if not any("# deadline: " in line for line in said):
                yield node.lineno, reason


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_wait_has_a_deadline_or_says_who_keeps_it(path):
    found = [f"{path}:{line}: {reason}" for line, reason in waits(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "ray.get(ref)", "ray.wait(refs)", "ray.get(ref, timeout=None)", "queue.get()",
        "thread.join()", "process.wait()", "event.wait()", "lock.acquire()", "future.result()",
        "subprocess.run(['x'])", "process.communicate()", "requests.get('x')", "httpx.post('x')",
        "OpenAI(api_key='x')", "httpx2.Client()",
        "urllib.request.urlopen('x')", "select.select([a], [], [])", "sock.recv(1)",
        "dist.barrier()", "os.waitpid(1, 0)", "wait(futures)", "threads.shutdown(wait=True)",
        "threads.shutdown()", "fcntl.flock(f, fcntl.LOCK_EX)",
    ],
)  # fmt: skip
def test_the_test_sees_waits_and_accepts_what_says_who_ends_them(code):
    assert list(waits(code))
    assert not list(waits(f"{code}  # deadline: of the other side"))


@pytest.mark.parametrize(
    "code",
    [
        "ray.get(ref, timeout=3)", "queue.get(timeout=t)", "queue.get_nowait()", "d.get('x')",
        "', '.join(x)", "process.wait(3)", "event.wait(timeout=3)", "future.result(timeout=3)",
        "subprocess.run(['x'], timeout=3)", "select.select([a], [], [], 0.1)", "ray.shutdown()",
        "wait(futures, 3)", "threads.shutdown(wait=False)",
        "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    ],
)  # fmt: skip
def test_what_has_a_deadline_is_left_alone(code):
    assert not list(waits(code))
