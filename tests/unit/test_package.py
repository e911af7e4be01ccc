"""What is installed: the wheel's contents, constraints, configs by name, set-up, init, the schema.

A fresh environment with the wheel alone is `scripts/check_wheel.sh`.
"""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import virgo_ray
from virgo_ray import cli
from virgo_ray.config import load_config
from virgo_ray.config.schema import make_schema, name_schema, schema_text
from virgo_ray.config.shipped import SHIPPED, list_shipped
from virgo_ray.config.writing import commented_config
from virgo_ray.errors import ConfigError
from virgo_ray.node import repair

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD_S = 300
LINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][A-Za-z0-9.!]*")


# -- the wheel -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files of a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    code = (
        "import sys; sys.argv = ['setup.py', '-q', 'bdist_wheel', '-d', sys.argv[1], '-b', "
        "sys.argv[1] + '/build', 'egg_info', '-e', sys.argv[1]]; "
        "import setuptools; setuptools.setup()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=BUILD_S)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_code_configs_model_and_templates(wheel):
    package = ROOT / "virgo_ray"
    kept = {".py", ".yaml", ".json", ".safetensors", ".jinja", ".j2", ".txt"}
    ours = {
        str(path.relative_to(ROOT))
        for folder in (package, package / "configs", package / "constraints")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in kept and "__pycache__" not in path.parts
    }
    assert len(ours) > 400 and "virgo_ray/configs/paper/parts/common.yaml" in ours
    assert {"virgo_ray/constraints/cpu.txt", "virgo_ray/constraints/gpu.txt"} <= ours
    assert ours <= wheel, sorted(ours - wheel)
    assert not [name for name in wheel if not name.startswith(("virgo_ray/", "virgo_ray-"))]


def test_one_version_stands_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == virgo_ray.__version__ == str(citation["version"])
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


# -- constraints -----------------------------------------------------------------------------------


def constrained(kind):
    lines = (ROOT / f"constraints/{kind}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_constraints_are_names_and_versions_and_agree_with_our_pins(kind):
    lines = constrained(kind)
    names = [line.partition("==")[0] for line in lines]
    assert len(lines) > 150 and names == sorted(names)
    assert not [line for line in lines if not LINE.fullmatch(line)]
    versions = dict(line.split("==") for line in lines)
    pins = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][kind]]
    for need in map(Requirement, pins):
        assert versions[canonicalize_name(need.name)] in need.specifier, need


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_constraints_are_printed_before_anything_else_is_installed(kind):
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
        f"sys.path.insert(0, {str(ROOT)!r}); from virgo_ray import cli; "
        f"code = cli.main(['setup', '--constraints', {kind!r}]); "
        "assert not {'pydantic', 'yaml', 'omegaconf'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_S)
    assert done.stdout == (ROOT / f"constraints/{kind}.txt").read_text()


def test_constraints_are_what_these_tests_ran_with():
    if not repair.has_cpu_packages():
        pytest.skip("another kind is installed here")
    for name, wanted in (line.split("==") for line in constrained("cpu")):
        assert version(name).partition("+")[0] == wanted, name


def test_constraints_name_all_that_is_brought_along():
    if not repair.has_cpu_packages():
        pytest.skip("another kind is installed here")
    names = {line.partition("==")[0] for line in constrained("cpu")}
    for name in names:
        for need in map(Requirement, requires(name) or ()):
            asked = need.marker is None or need.marker.evaluate({"extra": ""})
            known = canonicalize_name(need.name) in {*names, *repair.UNLOADABLE}
            assert known or not asked, f"{name} needs {need}"


# -- configs ---------------------------------------------------------------------------------------


def test_a_bare_name_is_that_of_a_shipped_config_and_a_file_beside_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny").name == "tiny" and "paper/tiny_d_t" in list_shipped()
    assert load_config({"include": "tiny", "seed": 7}, ["rounds=1"]).seed == 7
    (tmp_path / "mine.yaml").write_text("include: [tiny]\nname: mine\n")
    assert load_config("mine.yaml").name == "mine"
    (tmp_path / "tiny").write_text("include: tiny.yaml\n")
    with pytest.raises(ConfigError, match=r"tiny\.yaml' does not exist"):
        load_config("tiny")
    with pytest.raises(ConfigError, match=r"'tinny' does not exist.*single_node, tiny"):
        load_config("tinny")


def test_the_schema_is_that_of_the_code_and_every_config_names_it():
    assert (SHIPPED / "schema.json").read_text() == schema_text(), (
        "python -m virgo_ray.config.schema"
    )
    for path in SHIPPED.rglob("*.yaml"):
        assert path.read_text() == name_schema(path), "python -m virgo_ray.config.schema"


def test_shipped_configs_fit_the_schema_and_mistakes_do_not():
    schema = make_schema()
    check = jsonschema.Draft202012Validator(schema)
    for path in SHIPPED.rglob("*.yaml"):
        assert not list(check.iter_errors(yaml.safe_load(path.read_text()))), path
    for wrong in (
        {"sed": 1},
        {"train": {"lr": "fast"}},
        {"data": {"train": {"reader": "jsonlines"}}},
    ):
        assert list(check.iter_errors(wrong)), wrong
    assert not list(check.iter_errors({"data": {"train": {"reader": "own:rows"}}}))


@pytest.mark.parametrize("name", ["tiny", "single_node", "easyvqa", "paper/d_qvq_7b"])
def test_init_writes_the_config_that_it_begins_as(name, tmp_path):
    path = tmp_path / "mine.yaml"
    assert cli.main(["init", str(path), "--from", name]) == 0
    mine, shipped = load_config(str(path)), load_config(name)
    assert mine == shipped.model_copy(update={"name": "mine", "run_dir": "runs/mine"})


def test_init_comments_every_key_and_overwrites_nothing(tmp_path, capsys):
    text = commented_config("single_node", "mine")
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r" *(# )?[a-z_0-9]+:( |$)", line):
            assert lines[number - 1].lstrip().startswith("#"), line
    (tmp_path / "mine.yaml").write_text("name: x\n")
    assert cli.main(["init", str(tmp_path / "mine.yaml")]) == 2
    assert cli.main(["init", str(tmp_path / "mine.txt")]) == 2
    assert cli.main(["init", str(tmp_path / "new.yaml"), "--from", "none"]) == 2
    assert "exists already" in (said := capsys.readouterr().err) and "'none' does not exist" in said


# -- set-up ----------------------------------------------------------------------------------------


@pytest.fixture
def unrepaired(tmp_path, monkeypatch):
    """An environment as `pip install virgo_ray[cpu]` leaves it; what was uninstalled."""
    gone = []
    has = {"torchaudio": "2.11.0", "torchcodec": "0.17.0"}
    monkeypatch.setattr(repair, "has_cpu_packages", lambda: True)
    monkeypatch.setattr(repair, "_version", lambda name: "" if name in gone else has.get(name, ""))
    monkeypatch.setattr(repair, "_is_cpu_torchvision", lambda: False)
    monkeypatch.setattr(repair, "site_packages", lambda: tmp_path)
    monkeypatch.setattr(repair, "uninstall", gone.extend)
    return gone


def test_a_command_that_needs_set_up_names_it(unrepaired, capsys):
    assert cli.main(["run", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "torchaudio 2.11.0" in said and "Run `virgo-ray setup` once" in said


def test_set_up_repairs_once(unrepaired, tmp_path, capsys):
    assert cli.main(["setup", "--check"]) == 1 and not unrepaired and not list(tmp_path.iterdir())
    assert cli.main(["setup", "--no-import"]) == 0
    assert unrepaired == ["torchaudio", "torchcodec"]
    assert (tmp_path / "_torchvision_cpu_ops.pth").read_text() == "import _torchvision_cpu_ops\n"
    assert repair.find_ailments() == [] and cli.main(["setup", "--check", "--no-import"]) == 0
    (tmp_path / "_torchvision_cpu_ops.py").write_text("# of an earlier version")
    assert len(repair.find_ailments()) == 1
    assert "uninstall torchaudio" in capsys.readouterr().out


@pytest.mark.parametrize("work", [repair.check_imports, lambda: repair.uninstall(["torchaudio"])])
def test_set_up_says_what_did_not_end_in_time(work, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'the disk is slow' >&2\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(repair.sys, "executable", str(python))
    monkeypatch.setattr(repair, "PIP_DEADLINE_S", 1.0)
    monkeypatch.setattr(repair, "IMPORT_DEADLINE_S", 1.0)
    with pytest.raises(ConfigError, match=r" 1 s: the disk is slow; .*`virgo-ray setup` again"):
        work()


def test_nothing_is_repaired_where_the_packages_are_for_gpus(unrepaired, monkeypatch):
    monkeypatch.setattr(repair, "has_cpu_packages", lambda: False)
    assert repair.find_ailments() == []


# -- what GitHub reads -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_github_fit_their_schemas(schema, pattern):
    from check_jsonschema import builtin_schemas

    vendored = Path(builtin_schemas.__file__).parent / f"vendor/{schema}.json"
    check = jsonschema.validators.validator_for(json.loads(vendored.read_text()))
    found = sorted(ROOT.glob(pattern))
    assert found
    for path in found:
        text = re.sub(r"^on:", '"on":', path.read_text(), flags=re.M)  # YAML 1.1 reads true
        errors = check(json.loads(vendored.read_text())).iter_errors(yaml.safe_load(text))
        assert not [f"{path}: {error.message}" for error in errors]


def test_workflows_run_scripts_that_exist():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for script in re.findall(r"(?:scripts|\.ci)/[\w./]+", path.read_text()):
            assert (ROOT / script).exists(), (path, script)
