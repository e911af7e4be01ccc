"""A signal ends a command within seconds, wherever it is, and nothing that it started is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from virgo_ray.command import exit_code
from virgo_ray.interrupts import END_DEADLINE_S, EndsOnSignals

ROOT = Path(__file__).parents[2]
SLACK_S = 3.0  # of a busy machine

COMMAND = """
import ctypes, os, signal, subprocess, sys, time
from virgo_ray.command import exit_code

# A shell ignores it for what runs in its background, as these tests may.
signal.signal(signal.SIGINT, signal.default_int_handler)

def sleep():
    time.sleep(60)

def stuck_in_c():
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second one waits for ever, as Ray's C++ does for a dead cluster
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def cleaning_up_for_long():
    try:
        time.sleep(60)
    finally:
        stuck_in_c()

def cleaning_up_badly():
    try:
        time.sleep(60)
    finally:
        raise RuntimeError("what is left behind by a cluster that ended first")

def handler_of_ray():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(number))
    time.sleep(60)

def work():
    print("printed before")
    # What is started does not hear SIGTERM, and has a parent that will be gone first.
    ignore = "import signal, time; signal.signal(15, 1); print('up', flush=True); time.sleep(60)"
    stubborn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ignore!r}])"
    subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
    time.sleep(0.2)
    globals()[sys.argv[1]]()

sys.exit(exit_code(work, "interrupted; the same command goes on"))
"""


def start(what):
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    run = subprocess.Popen(
        [sys.executable, "-c", COMMAND, what], cwd=ROOT, text=True, env=buffered,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    return run


def status(process):
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None


# Where the main thread is, and the signal. Side by side, because each takes seconds.
STOPPED = {
    "sleep": signal.SIGTERM,
    "stuck_in_c": signal.SIGTERM,
    "cleaning_up_for_long": signal.SIGINT,
    "cleaning_up_badly": signal.SIGTERM,
    "handler_of_ray": signal.SIGTERM,
}


def test_a_signal_ends_a_command_in_time_with_its_code_and_with_all_that_it_started():
    runs = {what: start(what) for what in STOPPED}
    families = {}
    for what, run in runs.items():
        assert run.stdout.readline() == "up\n", what
        families[what] = psutil.Process(run.pid).children(recursive=True)
        assert len(families[what]) == 2, what
    time.sleep(0.5)  # until all are where they are to be told
    started = time.monotonic()
    for what, run in runs.items():
        os.kill(run.pid, STOPPED[what])
    codes = {what: run.wait(30) for what, run in runs.items()}
    assert "printed before" in runs["sleep"].stdout.read()
    assert time.monotonic() - started < END_DEADLINE_S + SLACK_S
    assert set(codes.values()) == {130}, codes
    said = {run.stderr.read() for run in runs.values()}
    assert said == {"interrupted; the same command goes on\n"}
    gone = {psutil.STATUS_ZOMBIE, None}  # whose parent has not looked yet
    assert {status(p) for family in families.values() for p in family} <= gone


def test_a_signal_that_was_ignored_stays_ignored_and_all_is_as_it_was_afterwards():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    of_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with EndsOnSignals("never said"):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is not of_sigterm
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is of_sigterm
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_no_signal_brought_is_a_code_too():
    def work():
        raise KeyboardInterrupt

    assert exit_code(work) == 130
