"""What `--help` says of config keys: all of them, by section, those that configs set first."""

import re
from pathlib import Path

import pytest
import yaml

from virgo_ray.config import (
    VerifyConfig,
    describe_core_keys,
    describe_keys,
    describe_section,
    flatten,
    load_config,
)
from virgo_ray.config.keys import WIDTH, by_section, list_keys
from virgo_ray.config.whole import Config
from virgo_ray.errors import ConfigError
from virgo_ray.run import parse_args

ROOT = Path(__file__).parents[2]
KEYS = {key.name: key for key in list_keys(Config)}
TAKES = re.compile(r"; takes the keys of (\S+)$")


def listed_name(name):
    """The name that a key is listed by: data.heldout.num is listed as data.train.num."""
    name = re.sub(r"\.[0-9]+(?=\.)", "", name)  # places in a list
    for prefix in sorted(KEYS, key=len, reverse=True):
        same = TAKES.search(KEYS[prefix].meaning)
        if same and name not in KEYS and name.startswith(f"{prefix}."):
            rest = name.removeprefix(f"{prefix}.")
            if KEYS[prefix].default == "{}":  # benchmarks.NAME.reader
                rest = rest.partition(".")[2]
            return listed_name(f"{same[1]}.{rest}")
    return name


def names_in(prefix, value):
    """Dotted names of a YAML mapping's keys, those of sections included."""
    for key, inner in value.items():
        yield f"{prefix}{key}"
        for part in inner if isinstance(inner, list) else [inner]:
            if isinstance(part, dict):
                yield from names_in(f"{prefix}{key}.", part)


def set_by_configs():
    found = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        found |= {listed_name(name) for name in names_in("", yaml.safe_load(path.read_text()))}
    return found - {"include"}


def test_core_keys_are_those_that_a_shipped_config_sets():
    found = set_by_configs()
    assert found <= KEYS.keys()
    headings = by_section().keys()  # `gates: null` sets a section, which is always shown
    wrongly_advanced = {name for name in found - headings if not KEYS[name].is_core}
    assert not wrongly_advanced, f"add them to CORE_KEYS: {sorted(wrongly_advanced)}"
    wrongly_core = {key.name for key in KEYS.values() if key.is_core} - found
    assert not wrongly_core, f"no config sets them, take them out of CORE_KEYS: {wrongly_core}"


def test_every_key_of_a_config_is_listed():
    for name in flatten(load_config(str(ROOT / "configs/tiny_improved.yaml"))):
        assert listed_name(name) in KEYS, name
    assert listed_name("evaluate.perception.parts.num") == "data.train.num"
    assert listed_name("benchmarks.charts.path") == "data.train.path"


def test_help_on_a_section_shows_its_keys_and_no_others_the_core_keys_first():
    text = describe_section("train")
    assert text.startswith("train: how the model is fine-tuned each round\n")
    assert "\n  train.zero_stage (2): DeepSpeed ZeRO stage [0 | 1 | 2 | 3]\n" in text
    core, advanced = text.split("\nadvanced, set by no config under configs/:\n")
    assert "\n  train.lr (7e-06): " in core and "  train.lora.rank (16): " in advanced
    assert set(re.findall(r"^  (\w+)", text, re.MULTILINE)) == {"train"}


@pytest.mark.parametrize("section", by_section())
def test_help_on_a_section_names_each_of_its_keys_once(section):
    shown = re.findall(r"^  ([a-z][\w.]*) \(", describe_section(section), re.MULTILINE)
    assert sorted(shown) == sorted(key.name for key in by_section()[section])


def test_help_shows_the_core_keys_and_how_to_see_the_others():
    text = describe_core_keys()
    shown = re.findall(r"^  ([a-z][\w.]*) \(", text, re.MULTILINE)
    assert {name for name in shown if not KEYS[name].is_core} == set()
    for section, keys in by_section().items():
        assert re.search(rf"^{section}: ", text, re.MULTILINE)
        has_more = any(not key.is_core and not key.is_section for key in keys)
        assert (f"more with --help {section})" in " ".join(text.split())) == has_more
    assert max(map(len, text.splitlines())) <= WIDTH


def test_every_line_of_help_is_understood_alone():
    for key in KEYS.values():
        assert re.match(r"[a-zA-Z]", key.meaning), f"{key.name}: {key.meaning}"
        first = key.meaning.split()[0]
        assert first not in ("of", "on", "for", "per", "its", "also", "see", "then"), key.name
        assert len(key.meaning.split()) >= 3, f"{key.name}: {key.meaning}"
    meanings = [key.meaning for key in KEYS.values()]
    assert len(set(meanings)) == len(meanings)


def test_a_section_alone_is_listed_without_a_prefix():
    text = describe_keys(VerifyConfig)
    assert "  deadline_s (5.0): " in text and "  judge.url (required): " in text


def test_help_of_a_section_that_is_not_there_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no section 'trian'.*did you mean 'train'"):
        describe_section("trian")
    with pytest.raises(ConfigError, match=r"expected one of run, model, data"):
        describe_section("configs/tiny.yaml")


@pytest.mark.parametrize(
    "words", [["--help", "train"], ["-h", "train"], ["c.yaml", "--help", "train"]]
)
def test_the_run_command_shows_one_section(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(words)
    assert end.value.code == 0 and capsys.readouterr().out == describe_section("train")


def test_the_run_command_shows_its_usage_and_the_core_keys(capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(["--help"], "virgo-ray run")
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.startswith("usage: virgo-ray run ")
    assert out.endswith(describe_core_keys()) and "%%" not in out


def test_the_run_command_refuses_a_section_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(["--help", "trian"])
    assert end.value.code == 2 and "did you mean 'train'" in capsys.readouterr().err
