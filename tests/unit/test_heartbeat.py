"""Who is silent for too long, and how processes are ended; times are given, nobody waits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil

from virgo_ray.actors.processes import end_deaf, family, resident_mib, with_children
from virgo_ray.actors.rollouts.heartbeat import BEAT_EVERY_S, Heartbeat


def test_one_question_at_a_time_and_not_too_often():
    heart = Heartbeat()
    assert heart.is_due(0.0)
    heart.asked(0.0)
    assert not heart.is_due(1e9)
    heart.answered(3.0)
    assert not heart.is_due(3.0 + BEAT_EVERY_S - 0.1) and heart.is_due(3.0 + BEAT_EVERY_S)


def test_silent_is_who_leaves_a_question_unanswered():
    heart = Heartbeat()
    assert not heart.is_silent(1e9, 120.0)  # nobody asked
    heart.asked(10.0)
    assert not heart.is_silent(130.0, 120.0) and heart.is_silent(130.1, 120.0)
    heart.answered(131.0)
    assert not heart.is_silent(1e9, 120.0)


def test_a_stopped_process_and_its_children_are_ended(monkeypatch):
    monkeypatch.setattr("virgo_ray.actors.processes.KILL_GRACE_S", 0.2)
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True);"
    code += "import time; time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    everybody = with_children(psutil.Process(parent.pid))
    assert child in everybody
    for process in everybody:
        os.kill(process.pid, signal.SIGSTOP)
    end_deaf(everybody)
    parent.wait(10)
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert with_children(everybody[0]) == []


def test_the_semaphores_of_a_deaf_process_go_with_it(monkeypatch):
    monkeypatch.setattr("virgo_ray.actors.processes.KILL_GRACE_S", 0.1)
    code = "import multiprocessing as m, time; lock = m.get_context('spawn').Lock();"
    code += "print(lock._semlock.name, flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    name = owner.stdout.readline().strip().removeprefix("/")
    semaphore = Path("/dev/shm", f"sem.{name}")
    assert semaphore.exists()
    owner.send_signal(signal.SIGSTOP)
    end_deaf(with_children(psutil.Process(owner.pid)))
    owner.wait(10)
    assert not semaphore.exists()


def test_a_process_that_died_just_now_is_nobodys_family(monkeypatch):
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a"))
    gone = subprocess.Popen(["true"])
    assert [p.pid for p in family("a", os.getpid())[:1]] == [os.getpid()]
    gone.wait(10)
    assert family("a", gone.pid) == family("b", os.getpid()) == []


def test_resident_memory_counts_what_was_started_too():
    own = resident_mib(with_children=False)
    assert 5 < own < 5000
    child = subprocess.Popen([sys.executable, "-c", "x = b'1' * (80 << 20); input()"], stdin=-1)
    deadline = time.monotonic() + 20
    while resident_mib() < own + 80:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.communicate(b"\n", timeout=10)
