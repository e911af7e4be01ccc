"""The process that judges, and the process that makes such processes quickly.

`python -m virgo_ray.verify.process.child FD` gets its config, imports the verifier once (0.7 s) and
then forks a ready judge in a few milliseconds whenever the parent asks: a killed judge costs next
to nothing. Forking is safe here because this process has one thread and owns only its sockets.

Who waits for whom: this process waits for the parent's orders; every judge waits for a batch on its
own socket, judges in its main thread, and answers item by item. When the parent dies, its end of
the socket closes, and everything here ends. All frames are a length and JSON: nothing that comes
from a process which has read hostile text is unpickled.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import asdict, replace

from virgo_ray.config import VerifyConfig
from virgo_ray.node.orphans import die_with_parent
from virgo_ray.records import AnswerType, Status, Verdict
from virgo_ray.verify.answers.gold import gold_fault
from virgo_ray.verify.answers.mathcheck import math_equal
from virgo_ray.verify.answers.units import parse_units
from virgo_ray.verify.item import VERIFIER_VERSION, Item
from virgo_ray.verify.opinions.consistency import StepCheck, form_local_opinions
from virgo_ray.verify.process.frames import receive_frame, send_frame
from virgo_ray.verify.verdict import judge_item


def main(fd: int) -> None:
    """Fork a judge for every socket that the parent sends, until the parent is gone."""
    control = socket.socket(fileno=fd)
    cfg = VerifyConfig.model_validate(receive_frame(control))
    warm_up()
    send_frame(control, {"ready": os.getpid()})
    children: set[int] = set()
    while True:
        try:
            # deadline: none, the parent orders when it likes; its end ends this
            order, fds, _, _ = socket.recv_fds(control, 1 << 12, 1)
            if not order:
                break
            if fds:
                pid = _fork_judge(control, fds[0], cfg)
                children.add(pid)
                send_frame(control, {"pid": pid})
            else:
                send_frame(control, reap_own(json.loads(order)["reap"], children))
        except (ConnectionError, KeyboardInterrupt):
            break
    for pid in children:
        _reap(pid)


# A judge's first formulas are slow: the LaTeX parser builds its tables as it meets new forms, and
# sympy its caches. Met once before forking, they are there in every judge.
_WARM_UP = (
    (r"\frac{1}{2}x^{2}+3x-4", r"3x-4+\frac{x^2}{2}"),
    (r"\sqrt{2}+\sqrt[3]{5}-2\pi", r"5^{1/3}+2^{\frac{1}{2}}"),
    (r"[0,\infty)\cup(1,2]", r"x\geq 0"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
    (r"\{1,2\}", r"1 \pm \sqrt{5}"),
    (r"y=2x+1", r"2y-4x=2"),
    (r"\sin(2x)+\log_{2}(8)", r"e^{x}\cos(x)|x|"),
    (r"90^\circ", r"\text{Evelyn}"),
)


def warm_up() -> None:
    for gold, answer in _WARM_UP:
        math_equal(gold, answer)
    parse_units("km/h")  # imports pint
    StepCheck().ask(Item("", "sqrt(2) * sqrt(8) = 4, 10 / 3 = 3.33, sqrt(3) = 1.73"), "4")


def reap_own(pid: int, children: set[int]) -> dict[str, str]:
    """End one of the `children`, which then forget it; the reply to the parent.

    Any other pid is a stranger's, and nothing is done to it: a judge of an earlier maker is gone,
    and the system gives its number to others.
    """
    if pid not in children:
        return {"refused": f"process {pid} is no judge that process {os.getpid()} forked"}
    children.remove(pid)
    return {"ended": _reap(pid)}


def _reap(pid: int) -> str:
    """Make sure that a judge is dead, and say how it died.

    Only this process reaps its children, so the pid of a child cannot have been reused.
    """
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)  # deadline: the parent's ORDER_DEADLINE_S
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"


def _fork_judge(control: socket.socket, fd: int, cfg: VerifyConfig) -> int:
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    code = 1
    try:
        control.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        _limit_memory(cfg.memory_mib)
        serve(socket.socket(fileno=fd), cfg)
        code = 0
    finally:
        os._exit(code)


def _limit_memory(memory_mib: int) -> None:
    """At most `memory_mib` of address space beyond what is in use now; no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: count from nothing
        used = 0
    limit = used + (memory_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(sock: socket.socket, cfg: VerifyConfig) -> None:
    """Judge batches until the parent closes the socket.

    Second opinions follow their verdict in a message of its own: they have a deadline of their own,
    and whatever becomes of them, the parent has the verdict.
    """
    while True:
        try:
            batch = receive_frame(sock)
        except (EOFError, ConnectionError):
            return
        for fields in batch:
            item = Item.from_json(fields)
            verdict = judge_safely(item, cfg)
            has_more = verdict.is_correct and bool(cfg.local_opinions)
            _answer(sock, verdict, has_more)
            if has_more:
                opinions = form_local_opinions(item, verdict.answer, cfg)
                _answer(sock, replace(verdict, opinions=opinions), has_more=False)


def _answer(sock: socket.socket, verdict: Verdict, has_more: bool) -> None:
    now = {"at": time.monotonic(), "cpu": time.process_time()}
    send_frame(sock, {**now, "verdict": asdict(verdict), "has_more": has_more})


def judge_safely(item: Item, cfg: VerifyConfig) -> Verdict:
    """A verdict whatever happens: at this process boundary every failure is a counted status."""
    try:
        return _check_gold(item) if item.is_gold_check else judge_item(item, cfg)
    except MemoryError:
        return _error("out of memory")
    except RecursionError:
        return _error("nested too deeply")
    except Exception as error:
        return _error(f"{type(error).__name__}: {str(error)[:200]}")


def _check_gold(item: Item) -> Verdict:
    fault = gold_fault(item.gold, AnswerType(item.answer_type), item.options)
    status = Status.WRONG if fault else Status.CORRECT
    return Verdict(status, verifier_version=VERIFIER_VERSION, reason=fault)


def _error(reason: str) -> Verdict:
    return Verdict(Status.ERROR, verifier_version=VERIFIER_VERSION, reason=reason)


if __name__ == "__main__":
    main(int(sys.argv[1]))
