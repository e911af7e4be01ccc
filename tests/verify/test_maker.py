"""The process that forks judges: it ends only its own, and a frozen one is found and replaced."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from virgo_ray.config import VerifyConfig
from virgo_ray.errors import VerifierError
from virgo_ray.verify.process import maker as maker_module
from virgo_ray.verify.process.frames import receive_frame
from virgo_ray.verify.process.maker import Maker


@pytest.fixture
def maker() -> Iterator[Maker]:
    maker = Maker(VerifyConfig())
    yield maker
    maker.close()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait(timeout=60)


def pid_of(maker: Maker) -> int:
    assert maker._process is not None
    return maker._process.pid


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_maker_refuses_to_end_a_process_that_it_did_not_fork(
    maker: Maker, stranger: subprocess.Popen[bytes]
) -> None:
    pid, sock = maker.new_judge()
    control = maker._control
    assert control is not None
    control.sendall(b'{"reap": %d}' % stranger.pid)
    said = f"process {stranger.pid} is no judge that process {pid_of(maker)} forked"
    assert receive_frame(control) == {"refused": said}
    assert stranger.poll() is None
    assert maker.bury(pid).reason == "signal SIGKILL"  # it goes on with its own
    sock.close()


def test_a_judge_of_an_earlier_maker_is_nobody(
    maker: Maker, stranger: subprocess.Popen[bytes]
) -> None:
    _, sock = maker.new_judge()
    death = maker.bury(stranger.pid)
    assert (death.reason, death.is_foreign) == ("its maker died", True)
    assert stranger.poll() is None
    sock.close()


@pytest.mark.parametrize("order", ["to fork a judge", "to end judge"])
def test_a_frozen_maker_is_killed_and_replaced(
    maker: Maker,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(maker_module, "ORDER_DEADLINE_S", 1.0)
    judge, sock = maker.new_judge()
    frozen = pid_of(maker)
    os.kill(frozen, signal.SIGSTOP)
    with caplog.at_level(logging.WARNING):
        if order == "to fork a judge":
            other, second = maker.new_judge()
            assert pid_of(maker) != frozen and maker.bury(other).reason == "signal SIGKILL"
            second.close()
        else:
            death = maker.bury(judge)
            assert death.is_foreign and "did not answer" in death.reason
            maker.new_judge()[1].close()
    (said,) = caplog.messages
    assert said.startswith(f"the process that forks judges (pid {frozen}) was asked {order}")
    assert "did not answer and was killed after 1." in said
    assert not is_running(frozen)
    sock.close()


def test_a_frozen_maker_does_not_hold_up_the_end(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker_module, "ORDER_DEADLINE_S", 0.5)
    maker.new_judge()[1].close()
    frozen = pid_of(maker)
    os.kill(frozen, signal.SIGSTOP)
    maker.close()
    assert not is_running(frozen)


def test_the_message_about_a_maker_that_died_says_how(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A module of one's own that breaks the start, for example."""
    code = "import sys; print('no such library', file=sys.stderr); sys.exit(7)"
    start = subprocess.Popen
    monkeypatch.setattr(
        maker_module.subprocess,
        "Popen",
        lambda command, **options: start([command[0], "-c", code], **options),
    )
    with pytest.raises(VerifierError) as raised:
        maker.new_judge()
    said = str(raised.value)
    assert said.count("was asked to get ready and was gone (exit code 7) after ") == 2
    assert said.count("its standard error ends with: no such library") == 2
    assert "expected" in said.lower()


def test_the_signal_that_ended_a_maker_is_named(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    maker.new_judge()[1].close()
    os.kill(pid_of(maker), signal.SIGKILL)
    time.sleep(0.2)
    with caplog.at_level(logging.WARNING):
        maker.new_judge()[1].close()
    assert "was asked to fork a judge and was gone (signal SIGKILL)" in caplog.messages[0]
