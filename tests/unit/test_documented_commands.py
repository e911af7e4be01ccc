"""Every command in README.md, docs/ and cluster/README.md works in a fresh clone.

Commands are taken from code blocks and read by bash, with a stub in place of every program: so
quotes, loops and continued lines mean what they mean to a user. What needs no GPU, network, cluster
or minutes is then run; of the others options, files, configs and overrides are checked. A program
that is neither has its reason in NOT_CHECKED.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import pytest

from virgo_ray import cli, run
from virgo_ray.api import init
from virgo_ray.config import load_config
from virgo_ray.config.writing import commented_config
from virgo_ray.data import __main__ as data
from virgo_ray.doctor import __main__ as doctor
from virgo_ray.errors import ConfigError
from virgo_ray.evaluate import __main__ as evaluate
from virgo_ray.evaluate.benchmarks import find_sources
from virgo_ray.node import setup
from virgo_ray.plan import __main__ as plan
from virgo_ray.publish import __main__ as publish
from virgo_ray.report import __main__ as report
from virgo_ray.traces import __main__ as traces
from virgo_ray.verify import __main__ as verify

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "cluster/README.md", *sorted((ROOT / "docs").rglob("*.md"))]

NOT_CHECKED = {
    "vllm": "serves a model on a GPU; it is not our program",
    "vllm.entrypoints.openai.api_server": "the same by the CPU build's name",
    "pip": "installs from a bundle that another command makes with network",
    "git": "reads a commit of the history, which a shallow clone lacks",
    "cp": "copies the bundled model; needs nothing of ours but its directory",
    "cat": "shows what the command before it wrote",
    "sbatch": "is Slurm's; its script is run in test_cluster_files.py",
    "venv": "makes an environment, which takes a minute",
}
# Words of a usage line that stand for a number.
NUMBER = re.compile(r"(^|=)(T|N|ROUND|SAMPLE)$")
# What is run is made small; its shape stays.
SMALL = ("run_dir=run", "data.train.num=40", "data.heldout.num=20", "data.seed_thoughts.num=40")

PROGRAMS = ("virgo-ray", "python", "python3", "ray", "vllm", "git", "cp", "cat", "pytest", "sbatch")
SHELL_WORDS = ("for", "export", "source", "echo")
WORDS = "|".join((*PROGRAMS, *SHELL_WORDS))
IS_COMMAND = re.compile(rf"(\$ )?([A-Z_]+=\S+ )?({WORDS}|(scripts|cluster|\.venv)/\S+)( |$)")
SPAN = re.compile(r"(virgo-ray|scripts/\S+|ray|python) ")


@dataclass(frozen=True)
class Line:
    """A command as it is written."""

    page: str
    number: int
    text: str

    def __str__(self):
        return f"{self.page}:{self.number}: {self.text}"


class Broken(Exception):
    """A command that would not work; the message says why."""


# --- from pages to commands ---


def code_lines(page):
    """(number, text, whether the block holds nothing but commands) of lines in code blocks."""
    fence, is_indented, before = None, False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fence = line.removeprefix("```") or "text" if fence is None else None
        elif fence is not None:
            yield number, line, fence in ("bash", "sh")
        else:
            is_indented = line.startswith("    ") and (is_indented or not before.strip())
            if is_indented:
                yield number, line.removeprefix("    "), False
        before = line


def commands_of(page):
    """The commands of a page, each with its continued lines."""
    open_command, name = None, str(page.relative_to(ROOT))
    for number, line, has_commands_only in code_lines(page):
        if open_command:
            open_command = Line(name, open_command.number, f"{open_command.text}\n{line}")
        elif IS_COMMAND.match(line) or (has_commands_only and re.match(r"[^#\s]", line)):
            open_command = Line(name, number, line.removeprefix("$ "))
        if open_command and not is_unfinished(open_command.text):
            yield open_command
            open_command = None
    assert open_command is None, f"{open_command} has no end"


def spans_of(page):
    """The commands inside a page's sentences and tables."""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        spans = [] if line.startswith("    ") else line.split("`")[1::2]
        yield from (Line(str(page.relative_to(ROOT)), number, s) for s in spans if SPAN.match(s))


def is_unfinished(text):
    num_loops = len(re.findall(r"\bdo\b", text)) - len(re.findall(r"\bdone\b", text))
    return text.endswith("\\") or num_loops > 0


def without_notation(text):
    """One example of a usage line: `[--round T] jsonl|hf` as `--round T jsonl`."""
    text = re.sub(r"\[([^][]*?) \| [^][]*\]", r"[\1]", text)
    while (shorter := re.sub(r"\[([A-Z-][^][]*|key=value \.\.\.)\]", r"\1", text)) != text:
        text = shorter
    text = re.sub(r"\b(\w+)(\|\w+)+", r"\1", text)
    return text.replace(" ...", "").replace("key=value", "seed=1")


# --- what bash makes of a command ---


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A directory like the repository, whose programs only write down how they were called."""
    home = tmp_path_factory.mktemp("stubs")
    scripts = [p for folder in ("scripts", "cluster") for p in (ROOT / folder).rglob("*.sh")]
    programs = [home / "bin" / name for name in PROGRAMS]
    programs += [home / path.relative_to(ROOT) for path in scripts if os.access(path, os.X_OK)]
    for path in [*programs, home / ".venv/bin/python"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"#!{shutil.which('bash')}\n"
            "printf '%s\\0' $(($# + 1)) \"${0#" + str(home) + '/}" "$@" >> "$CALLS"\n'
        )
        path.chmod(0o755)
    (home / ".venv/bin/activate").touch()
    (home / "EARLIER").mkdir()
    return home


def calls_of(line, stubs):
    """The calls of a command, each as a list of words; the program is without its directory `bin`.

    Raises:
        Broken: bash does not understand it, or there is no such program.
    """
    record = stubs / "calls"
    record.unlink(missing_ok=True)
    done = subprocess.run(
        [shutil.which("bash"), "-e", "-o", "pipefail", "-c", without_notation(line.text)],
        cwd=stubs, env={"PATH": f"{stubs}/bin", "CALLS": str(record)}, capture_output=True,
        text=True, timeout=10,
    )  # fmt: skip
    if done.returncode or done.stderr:
        raise Broken(f"bash says {done.stderr.strip() or done.returncode}")
    words = iter(record.read_text().split("\0")[:-1]) if record.exists() else iter(())
    calls = [[next(words) for _ in range(int(count))] for count in words]
    return [[re.sub(r"^(\.venv/)?bin/", "", call[0]), *call[1:]] for call in calls]


# --- checks; each raises Broken, or what the program itself raises ---


def check(call, workplace):
    """Run a call, or check it as far as that is possible.

    Raises:
        Broken: it would not work.
    """
    program, *words = call
    if program.startswith("python") and words[:1] == ["-m"]:
        program, words = words[1], words[2:]
    try:
        if program in ("virgo-ray", "virgo_ray.run"):
            check_own(words if program == "virgo-ray" else ["run", *words], workplace)
        elif program in ("scripts/run.sh", "cluster/single_node.sh"):
            check_own(["run", *words[words[:1] in (["--cpu"], ["--gpu"]) :]], workplace)
        elif program.startswith(("python", "scripts/")):
            check_script(words if program.startswith("python") else [program, *words])
        elif program == "ray":
            check_ray(words, workplace)
        elif program not in NOT_CHECKED:
            raise Broken(f"{program} is no program that this test knows; add it or a reason")
    except (ConfigError, click.UsageError, OSError, json.JSONDecodeError) as error:
        raise Broken(str(error)) from error


def check_own(words, workplace):
    """One of our commands: run if it is quick, else parsed with its config."""
    command, words = words[0], [NUMBER.sub(r"\g<1>1", word) for word in words[1:]]
    words = ["configs/tiny.yaml" if word == "CONFIG" else word for word in words]
    if command not in cli.COMMANDS:
        parsed(cli.main, [command])  # --help, or the message on what is wrong
    elif "--help" in words:
        parsed(cli.main, [command, *words])
    elif command == "run":
        args = parsed(run.parse_args, words)
        load_config(args.config, args.overrides)
    elif command == "inspect":
        args = parsed(data.parse_args, ["inspect", *words])
        cfg = load_config(args.config, args.overrides)
        if cfg.data.train.reader == "tiny":
            expect_success([command, *words, *SMALL])
    elif command == "doctor":
        args = parsed(doctor.parse_args, words)
        if args.config is not None:
            load_config(args.config, args.overrides)
    elif command == "plan":
        args = parsed(plan.parse_args, words)
        cfg = load_config(args.config, args.overrides)
        if cfg.data.train.reader == "tiny":
            expect_success([command, *words, *SMALL])
    elif command == "verify":
        args = parsed(verify._parse, words)
        if args.file != "FILE.jsonl":
            expect_success([command, *words])
    elif command == "evaluate":
        args = parsed(evaluate.parse_args, words)
        benchmarks, late = evaluate.split_benchmarks(args.benchmarks)
        model = args.model if args.model.endswith(".yaml") else "configs/tiny.yaml"
        cfg = load_config(model, [*args.overrides, *late])
        find_sources([b for b in benchmarks if b != "NAME"], cfg, True)
    elif command == "traces":
        parsed(traces.parse, words)
    elif command == "publish":
        parsed(publish.parse, words)
    elif command == "report":
        parsed(report.parse, words)
    elif command == "init":
        args = parsed(init.parse_args, words)
        Path(args.file).write_text(commented_config(args.source, "mine"))
    elif command == "setup":
        parsed(setup.parse_args, words)


def parsed(parse, words):
    """What a parser makes of the words; None if it printed its help."""
    try:
        return parse(words)
    except SystemExit as end:
        if end.code:
            raise Broken("its parser refuses it (see stderr)") from end


def expect_success(words):
    if code := exit_code_of(*words):
        raise Broken(f"it ended with exit code {code}")


@cache
def exit_code_of(*words):
    """What stands on several pages runs once."""
    return cli.main(words)


def check_script(words):
    """A script of ours: it exists, its text names the options, and the config can be loaded."""
    script, *words = words
    text = (ROOT / script).read_text()
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    if unknown := [o for o in options if not re.search(rf"{re.escape(o)}(?![\w-])", text)]:
        raise Broken(f"{script} knows no option {unknown[0]}")
    configs = [word for word in words if word.endswith(".yaml")]
    overrides = [w for w in words if re.match(r"[a-z_]+(\.[a-z_]+)+=|run_dir=|seed=|rounds=", w)]
    if configs or overrides:
        load_config(*(configs or ["configs/tiny.yaml"]), overrides)


def check_ray(words, workplace):
    """Ray's own commands: their options; of a job also what it runs."""
    from ray.scripts.scripts import cli as command

    while isinstance(command, click.Group):
        if words[0] not in command.commands:
            raise Broken(f"ray has no command {words[0]!r}")
        command, words = command.commands[words[0]], words[1:]
    found, _, _ = command.make_parser(click.Context(command)).parse_args(list(words))
    if isinstance(environment := found.get("runtime_env_json"), str):
        json.loads(environment)
    if isinstance(entrypoint := found.get("entrypoint"), tuple):  # absent where it is only named
        check(list(entrypoint), workplace)


# --- the tests ---


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A directory that looks like a fresh clone, in which commands may leave files."""
    for name in ("configs", "docs", "tests", "scripts", "virgo_ray"):
        (tmp_path / name).symlink_to(ROOT / name)
    grading = re.search(r"^    def grade\(.*?(?=^\S)", (ROOT / "docs/verification.md").read_text(),
                        re.MULTILINE | re.DOTALL)  # fmt: skip
    (tmp_path / "grading.py").write_text(re.sub("^    ", "", grading[0], flags=re.MULTILINE))
    own = re.search(
        r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "mine.yaml").write_text(own[1])
    row = {"prediction": "<think>hm</think> The answer is rot.", "gold": "red"}
    (tmp_path / "colours.jsonl").write_text(json.dumps(row))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def broken_among(lines, stubs, workplace):
    found = []
    for line in lines:
        try:
            for call in calls_of(line, stubs):
                check(call, workplace)
        except Broken as error:
            found.append(f"{line}\n    {error}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_work(page, stubs, workplace):
    broken = broken_among([*commands_of(page), *spans_of(page)], stubs, workplace)
    assert not broken, "\n".join(broken)


def test_the_environment_is_activated_before_it_is_needed():
    for page in (ROOT / "README.md", ROOT / "cluster/README.md"):
        texts = [line.text for line in commands_of(page)]
        needs = (i for i, t in enumerate(texts) if t.startswith(("virgo-ray", "python", "ray ")))
        first = next(needs, len(texts))
        assert any(t.startswith("source .venv/bin/activate") for t in texts[:first]), page


def test_every_reason_is_needed(stubs):
    called = set()
    for page in PAGES:
        for line in [*commands_of(page), *spans_of(page)]:
            for program, *words in calls_of(line, stubs):
                called |= {program, *(words[1:2] if words[:1] == ["-m"] else ())}
    assert called >= NOT_CHECKED.keys()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("scripts/run.sh configs/tinny.yaml", "did you mean configs/tiny.yaml"),
        ("scripts/run.sh configs/tiny.yaml sede=1", "did you mean 'seed'"),
        ("scripts/walk.sh configs/tiny.yaml", "No such file"),
        ("for seed in 0 1; do scripts/run.sh configs/tiny.yaml rounds=-$seed; done", "rounds=-1"),
        ("virgo-ray rum configs/tiny.yaml", "parser refuses"),
        ("virgo-ray run --help trian", "parser refuses"),
        ("virgo-ray verify colours.jsonl custom=grading:none --out verdicts.jsonl", "exit code 2"),
        (
            "virgo-ray evaluate runs/tiny --benchmarks mathvista=AI4Math/MathVista --judges",
            "parser refuses",
        ),
        ("virgo-ray evaluate runs/tiny --benchmarks mathvesta=AI4Math/MathVista", "mathvesta"),
        ("virgo-ray traces export RUN --format jsonl|hf [--round T]", "parser refuses"),
        ("python scripts/chaos.py --kils 40 configs/tiny.yaml", "no option --kils"),
        ("python scripts/none.py", "No such file"),
        ("ray start --haed", "--haed"),
        (
            "ray job submit --working-dir . -- python -m virgo_ray.run configs/none.yaml",
            "none.yaml",
        ),
        ("helm install -f cluster/kuberay.yaml", "command not found"),
        ("echo 'never closed", "unexpected EOF"),
    ],
)
def test_a_broken_command_is_found(text, why, stubs, workplace):
    (found,) = broken_among([Line("page.md", 1, text)], stubs, workplace)
    assert why in found


def test_commands_are_told_from_output(tmp_path, monkeypatch):
    monkeypatch.setattr("test_documented_commands.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n    $ virgo-ray traces stats runs/tiny\n    rollouts  2\n\n"
        "    scripts/run.sh configs/tiny.yaml \\\n      seed=1\n\n- a list\n    python of words\n"
        "```yaml\nray: {address: null}\n```\n```bash\n# why\nmake it\n```\n"
    )
    assert [line.text for line in commands_of(page)] == [
        "virgo-ray traces stats runs/tiny",
        "scripts/run.sh configs/tiny.yaml \\\n  seed=1",
        "make it",
    ]
