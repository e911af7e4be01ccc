"""`virgo-ray COMMAND` and `python -m virgo_ray.COMMAND` are the same commands under two names."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from virgo_ray import cli

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "lance", "vllm", "deepspeed", "transformers", "wandb", "virgo_ray.config")
MODULES = {
    "run": "virgo_ray.run",
    "init": "virgo_ray.api.init",
    "setup": "virgo_ray.node.setup",
    "inspect": "virgo_ray.data.__main__",
    "doctor": "virgo_ray.doctor.__main__",
    "plan": "virgo_ray.plan.__main__",
    "verify": "virgo_ray.verify.__main__",
    "evaluate": "virgo_ray.evaluate.__main__",
    "sync": "virgo_ray.monitor.sync",
    "runs": "virgo_ray.monitor.runs",
    "traces": "virgo_ray.traces.__main__",
    "report": "virgo_ray.report.__main__",
    "publish": "virgo_ray.publish.__main__",
}


def help_of(main, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_console_script_is_this_module():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"virgo-ray": "virgo_ray.cli:main"}


def test_help_names_every_command_and_loads_nothing_heavy():
    program = (
        "import sys\nfrom virgo_ray.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print('loaded:', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "loaded: []" in done.stdout
    for name in MODULES:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_the_name_that_the_command_was_called_by(name, capsys):
    called_so = help_of(cli.main, [name, "--help"], capsys)
    assert called_so.startswith(f"usage: virgo-ray {name} ")
    assert "python -m virgo_ray.run" not in called_so.replace("-- python -m virgo_ray.run", "")
    arguments = ["inspect", "--help"] if name == "inspect" else ["--help"]
    as_module = help_of(import_module(MODULES[name]).main, arguments, capsys)
    module = MODULES[name].removesuffix(".__main__")
    assert as_module.startswith(f"usage: python -m {module} ")


@pytest.mark.parametrize("words", [[], ["rum"], ["configs/tiny.yaml"]])
def test_what_is_no_command_ends_with_2_and_names_the_commands(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage: virgo-ray [-h] COMMAND ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "configs/none.yaml"], "config file 'configs/none.yaml' does not exist"),
        (["inspect", "configs/tiny.yaml", "sede=1"], "did you mean 'seed'?"),
        (["doctor", "configs/none.yaml"], "config file 'configs/none.yaml' does not exist"),
        (["verify", "none.jsonl"], "none.jsonl does not exist"),
        (["evaluate", "configs/none.yaml"], "configs/none.yaml"),
        (["sync", "runs/none"], "expected the run_dir of a run"),
        (["traces", "stats", "runs/none"], "runs/none"),
        (["publish", "runs/none", "--push-to-hub", "name"], "expected OWNER/NAME"),
    ],
)
def test_the_exit_code_is_that_of_the_command(words, said, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_the_script_finds_modules_in_the_working_directory_as_the_module_command_does(tmp_path):
    script, here = tmp_path / "bin" / "virgo-ray", tmp_path / "here"
    script.parent.mkdir()
    script.write_text("import sys\nfrom virgo_ray.cli import main\nsys.exit(main())\n")
    here.mkdir()
    (here / "grading.py").write_text(
        "def grade(question: str, gold: str, answer: str, response: str) -> bool:\n"
        "    return answer == gold[::-1]\n"
    )
    (here / "rows.jsonl").write_text(json.dumps({"prediction": "abc", "gold": "cba"}) + "\n")
    done = subprocess.run(
        [sys.executable, script, "verify", "rows.jsonl", "custom=grading:grade", "--out", "out"],
        cwd=here, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((here / "out").read_text())["status"] == "correct"
