from pathlib import Path

import pytest

from virgo_ray.config import dump_config, fingerprint, flatten, load_config
from virgo_ray.errors import ConfigError

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_later_files_win_and_the_file_itself_wins_over_all(tmp_path):
    write(tmp_path, "parts/a.yaml", "seed: 1\ntrain: {lr: 1.0e-4, batch_size: 8}\n")
    write(tmp_path, "parts/b.yaml", "seed: 2\ntrain: {lr: 2.0e-4}\n")
    text = f"include: [{TINY}, parts/a.yaml, parts/b.yaml]\ntrain: {{num_epochs: 7}}\n"
    path = write(tmp_path, "whole.yaml", text)
    cfg = load_config(path)
    train = cfg.train
    assert (cfg.seed, train.lr, train.batch_size, train.num_epochs) == (2, 2e-4, 8, 7)
    assert load_config(path, ["seed=3", "train.lr=1"]).train.lr == 1


def test_names_are_relative_to_the_file_that_includes_them(tmp_path, monkeypatch):
    write(tmp_path, "parts/size.yaml", "include: deep/lr.yaml\nname: size\n")
    write(tmp_path, "parts/deep/lr.yaml", f"include: ../../base.yaml\ntrain: {{lr: {0.5}}}\n")
    write(tmp_path, "base.yaml", f"include: {TINY}\nname: base\n")
    path = write(tmp_path, "rows/row.yaml", "include: ../parts/size.yaml\n")
    monkeypatch.chdir("/")
    cfg = load_config(path)
    assert (cfg.name, cfg.train.lr) == ("size", 0.5)


def test_a_file_may_be_included_on_two_ways(tmp_path):
    write(tmp_path, "common.yaml", f"include: {TINY}\nseed: 5\n")
    for name in ("a", "b"):
        write(tmp_path, f"{name}.yaml", f"include: common.yaml\nname: {name}\n")
    assert load_config(write(tmp_path, "c.yaml", "include: [a.yaml, b.yaml]\n")).name == "b"


def test_interpolations_see_the_merged_whole(tmp_path):
    write(tmp_path, "common.yaml", f"include: {TINY}\nrun_dir: runs/${{name}}\n")
    path = write(tmp_path, "row.yaml", "include: common.yaml\nname: row\n")
    assert load_config(path).run_dir == "runs/row"


def test_what_is_stored_with_a_run_holds_no_include(tmp_path):
    cfg = load_config(write(tmp_path, "row.yaml", f"include: {TINY}\n"))
    assert "include" not in dump_config(cfg)
    plain = load_config(write(tmp_path, "config.yaml", dump_config(cfg)))
    assert plain == cfg and fingerprint(plain) == fingerprint(load_config(str(TINY)))


def test_a_circle_is_refused_with_its_chain(tmp_path):
    a = write(tmp_path, "a.yaml", "include: sub/b.yaml\n")
    b = write(tmp_path, "sub/b.yaml", "include: ../a.yaml\n")
    with pytest.raises(ConfigError, match=f"includes itself: {a} -> {b} -> {a};"):
        load_config(a)
    own = write(tmp_path, "own.yaml", "include: own.yaml\n")
    with pytest.raises(ConfigError, match=f"{own} -> {own}"):
        load_config(own)


def test_a_missing_include_is_refused_with_its_chain_and_the_nearest_name(tmp_path):
    write(tmp_path, "common.yaml", "seed: 1\n")
    b = write(tmp_path, "b.yaml", "include: comon.yaml\n")
    a = write(tmp_path, "a.yaml", "include: b.yaml\n")
    with pytest.raises(ConfigError) as error:
        load_config(a)
    assert f"included by {a} -> {b}" in str(error.value)
    assert f"did you mean {tmp_path}/common.yaml" in str(error.value)


@pytest.mark.parametrize("value", ["3", "{a: b}", "[a.yaml, 4]", "[[a.yaml]]"])
def test_an_include_is_a_name_or_a_list_of_names(tmp_path, value):
    with pytest.raises(ConfigError, match="expected a file name or a list"):
        load_config(write(tmp_path, "a.yaml", f"include: {value}\n"))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1,", "cannot be read as YAML"), ("- 1\n", "expected a mapping")]
)
def test_a_malformed_include_names_who_includes_it(tmp_path, text, message):
    write(tmp_path, "bad.yaml", text)
    a = write(tmp_path, "a.yaml", "include: bad.yaml\n")
    with pytest.raises(ConfigError, match=rf"bad.yaml \(included by {a}\).*{message}"):
        load_config(a)


def test_a_wrong_key_names_the_file_it_stands_in_and_the_nearest_key(tmp_path):
    common = write(tmp_path, "common.yaml", f"include: {TINY}\ntrain: {{num_epoch: 3}}\n")
    a = write(tmp_path, "a.yaml", "include: common.yaml\ndata: {train: {nun: 3}}\n")
    with pytest.raises(ConfigError) as error:
        load_config(a, ["seed=x", "explore.num_problem=1"])
    text = str(error.value)
    assert text.startswith(f"{a} is not a valid config")
    assert f"train.num_epoch=3: unknown key; did you mean 'num_epochs'? (in {common})" in text
    assert "data.train.nun=3: unknown key; did you mean 'num'?\n" in text + "\n"
    assert "explore.num_problem=1: unknown key; did you mean 'num_problems'? (in the comm" in text
    assert "(in the command line)" in next(x for x in text.split("\n") if "seed" in x)


def test_a_section_in_the_place_of_a_value_is_refused_by_name(tmp_path):
    write(tmp_path, "list.yaml", f"include: {TINY}\ntrain: 3\n")
    path = write(tmp_path, "a.yaml", "include: list.yaml\n")
    with pytest.raises(ConfigError, match="train=3"):
        load_config(path)


def test_lists_are_replaced(tmp_path):
    write(tmp_path, "a.yaml", f"include: {TINY}\nselect: {{length_band: [0.2, 0.3]}}\n")
    path = write(tmp_path, "b.yaml", "include: a.yaml\nselect: {length_band: [0.4, 0.5]}\n")
    assert load_config(path).select.length_band == (0.4, 0.5)


# -- sources ---------------------------------------------------------------------------------------


def test_a_source_that_names_its_reader_keeps_nothing_of_the_one_it_replaces(tmp_path):
    mine = "data: {train: {reader: jsonl, path: a.jsonl}, heldout: {reader: easyvqa}}"
    path = write(tmp_path, "mine.yaml", f"include: {TINY}\n{mine}\n")
    data = load_config(path).data
    assert (data.train.num, data.heldout.num, data.heldout.split) == (None, None, "train")
    assert data.seed_thoughts == load_config(str(TINY)).data.seed_thoughts


def test_overrides_of_a_source_together_make_a_whole_one(tmp_path):
    said = ["data.heldout.path=b.jsonl", "data.heldout.reader=jsonl"]
    heldout = load_config(str(TINY), said).data.heldout
    assert (heldout.path, heldout.num, heldout.split) == ("b.jsonl", None, "train")
    assert load_config(str(TINY), ["data.heldout.num=7"]).data.heldout.split == "heldout"


# -- values that are not what they look like -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed: 017", "octal"), ("seed: 2:15", "base 60"), ('name: "\\frac run"', r"probably \\frac"),
     ('prompt: {system: "Use \\boxed{}."}', r"probably \\boxed"),
     ('prompt: {system: "Say $\\theta$."}', r"probably \\theta")],
)  # fmt: skip
def test_what_yaml_reads_as_something_else_is_refused_with_its_line(tmp_path, text, message):
    path = write(tmp_path, "odd.yaml", f"include: {TINY}\n{text}\n")
    with pytest.raises(ConfigError, match=f"odd.yaml, line 2: .*{message}"):
        load_config(path)


def test_quotes_keep_a_text_as_it_is(tmp_path):
    text = (
        "name: '017'\nprompt: {system: 'Use \\boxed{} and \\frac.', instruction: \"two\\nlines\"}"
    )
    cfg = load_config(write(tmp_path, "fine.yaml", f"include: {TINY}\n{text}\n"))
    assert (cfg.name, cfg.prompt.system) == ("017", "Use \\boxed{} and \\frac.")


def test_the_improved_recipe_is_a_part_that_any_config_can_take(tmp_path):
    """tiny_improved.yaml is what was measured: 2 rollouts a problem, 800 more for 800 problems."""
    recipe = {
        "explore.num_samples": 2, "explore.extra.max_samples": 4, "explore.extra.until_correct": 2,
        "explore.extra.batch": 2, "explore.extra.budget_share": 1.0,
        "explore.unsolved_share": 0.25, "explore.temperatures": [0.8, 0.9],
        "select.policy": "improved", "select.keep": "random", "select.length_band": [0.0, 1.0],
        "select.loss_balance": 0.5,
    }  # fmt: skip
    own = {
        "name": "tiny_improved", "run_dir": "runs/tiny_improved", "rounds": 2,
        "train.num_tokens": 690_000,
    }  # fmt: skip
    expected = {**flatten(load_config(TINY)), **recipe}
    mine = write(tmp_path, "mine.yaml", f"include: [{TINY}, {TINY.parent}/parts/improved.yaml]\n")
    assert flatten(load_config(mine)) == expected
    assert flatten(load_config(str(TINY.parent / "tiny_improved.yaml"))) == {**expected, **own}


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.objective=grpo", "train.objective.grpo.kl=0.01"),
        ("train.objective.grpo.kl=0.01", "train.objective=grpo"),
        ("train.objective.name=grpo", "train.objective.grpo.kl=0.01"),
        ("train={objective: grpo}", "train.objective.grpo.kl=0.01"),
    ],
)
def test_a_name_that_stands_alone_stays_beside_keys_of_its_section(overrides):
    more = ("explore.num_samples=4", "train.restart_from=previous")
    objective = load_config(str(TINY), [*overrides, *more]).train.objective
    assert (objective.name, objective.grpo.kl) == ("grpo", 0.01)


def test_a_name_in_a_file_stays_under_keys_of_its_section(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(f"include: {TINY}\ntrain: {{objective: dpo}}\n")
    upper = tmp_path / "upper.yaml"
    upper.write_text("include: base.yaml\ntrain: {objective: {dpo: {beta: 0.5}}}\n")
    objective = load_config(str(upper), ["train.objective.dpo.sft_weight=0.1"]).train.objective
    assert (objective.name, objective.dpo.beta, objective.dpo.sft_weight) == ("dpo", 0.5, 0.1)
    assert load_config(str(upper), ["train.objective=imitation"]).train.objective.dpo.beta is None
    with pytest.raises(ConfigError, match=r"train\.lr"):
        load_config(str(upper), ["train.lr=x", "train.lr.most=1"])
