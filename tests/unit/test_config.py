from pathlib import Path

import pytest

from virgo_ray.config import (
    FORMATS,
    VerifyConfig,
    dump_config,
    fingerprint,
    flatten,
    load_config,
    make_config,
    parse_section,
    resolve_run_dir,
)
from virgo_ray.errors import ConfigError

CONFIGS = sorted(Path("configs").glob("*.yaml"))


@pytest.fixture
def tiny():
    return load_config("configs/tiny.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_loads_and_survives_a_round_trip(path, tmp_path):
    cfg = load_config(str(path))
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(cfg))
    assert load_config(str(copy)) == cfg


def test_cluster_configs_differ_from_tiny_in_values_only():
    names = [flatten(load_config(str(p))) for p in CONFIGS]
    keys = [{name.partition(".parts.")[0].removesuffix(".parts") for name in n} for n in names]
    assert all(k == keys[0] for k in keys)


def test_overrides_reach_nested_keys(tiny):
    cfg = load_config("configs/tiny.yaml", ["train.lr=1e-3", "seed=7", "data.train.num=5"])
    assert (cfg.train.lr, cfg.seed, cfg.data.train.num) == (1e-3, 7, 5)
    assert tiny.seed != 7


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lerning_rate=1", "unknown key"),
        ("train.zero_stag=1", "did you mean 'zero_stage'"),
        ("trian.lr=1", "did you mean 'train'"),
        ("train.zero_stage=7", "train.zero_stage=7"),
        ("rollout.num_workers=two", "rollout.num_workers='two'"),
        ("explore.sampling.max_tokens=100000", "leaves no room for a prompt"),
        ("rollout.min_workers=9", "can never be met"),
        ("train.batch_size=31", "multiple of"),
        ("seed", "key=value"),
        ("=1", "override '=1' is not of the form key=value"),
        ("explore.temperatures=[1,2", "cannot be read as YAML"),
        ("train=3", "train=3: expected a section"),
        ("name=3", "name=3: expected a text; put quotes"),
        ("verify.second_opinions=steps", "='steps': expected a list"),
        ("train.lr=inf", "train.lr='inf': expected a finite number"),
        ("rounds=-1", "rounds=-1: expected greater than or equal to 0"),
        ("model.min_pixels=9 model.max_pixels=4", "min_pixels=9 with max_pixels=4"),
        ("train.gpus_per_worker=2", "train.gpus_per_worker=2"),
        ("train.lora.target_modules=((", "no regular expression"),
        ("ray.dashboard_port=70000", "ray.dashboard_port=70000"),
    ],
)
def test_a_bad_override_is_refused_with_the_value_and_a_way_out(override, expected):
    with pytest.raises(ConfigError, match=expected.replace("(", r"\(")):
        load_config("configs/tiny.yaml", override.split())


def test_a_clash_of_keys_names_them_and_no_file():
    with pytest.raises(ConfigError) as error:
        load_config("configs/tiny.yaml", ["train.batch_size=31"])
    assert str(error.value).endswith(
        "\n  train.batch_size=31 must be a multiple of train.num_workers=2"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "holds a list, expected a mapping"),
        ("name: x\nname: y\n", "found duplicate key name"),
        ("model:\n\tpath: tiny\n", "cannot be read as YAML"),
        ("seed: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        ("name: \udce9\n", "cannot be read as YAML.*utf-8"),
        ("", "name: missing"),
    ],
)
def test_a_file_that_is_no_config_says_why(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config(str(path))
    with pytest.raises(ConfigError, match="is a directory"):
        load_config(str(tmp_path))


def test_a_missing_file_names_the_nearest_config():
    with pytest.raises(ConfigError, match=r"did you mean configs/tiny.yaml"):
        load_config("configs/tinny.yaml")


def test_keys_of_selection_can_be_given_on_the_command_line():
    cfg = load_config(
        "configs/tiny.yaml",
        [
            "train.seed_share=[0.7,0.3]", "explore.temperatures=[0.8,1.1]",
            "explore.extra.max_samples=6", "select.length_band=[0.2,0.8]",
        ],
    )  # fmt: skip
    assert cfg.train.seed_share == (0.7, 0.3) and cfg.explore.temperatures == (0.8, 1.1)
    assert cfg.explore.extra.max_samples == 6
    assert load_config("configs/tiny.yaml", ["train.seed_share=0.25"]).train.seed_share == 0.25
    for bad in ("train.seed_share=[]", "train.seed_share=[1.5]", "train.seed_share=2"):
        with pytest.raises(ConfigError, match="seed_share"):
            load_config("configs/tiny.yaml", [bad])
    with pytest.raises(ConfigError, match="did you mean 'max_samples'"):
        load_config("configs/tiny.yaml", ["explore.extra.max_sample=6"])
    assert load_config("configs/tiny.yaml", ["explore.extra.budget=null"])  # as once stored
    with pytest.raises(ConfigError, match="did you mean 'budget_share'"):
        load_config("configs/tiny.yaml", ["explore.extra.budget=800"])


def test_malformed_yaml_is_a_config_error(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1,")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(str(path))


def test_all_problems_are_listed_at_once(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("name: x\nrun_dir: y\n")
    with pytest.raises(ConfigError) as error:
        load_config(str(path))
    assert all(f"{key}: missing" in str(error.value) for key in ("model", "data", "explore"))


def test_harmless_keys_do_not_change_the_fingerprint(tiny):
    for override in ("rollout.num_workers=3", "wandb.mode=disabled", "run_dir=elsewhere"):
        assert fingerprint(load_config("configs/tiny.yaml", [override])) == fingerprint(tiny)
    for override in ("seed=1", "train.lr=1e-5", "explore.num_samples=5"):
        assert fingerprint(load_config("configs/tiny.yaml", [override])) != fingerprint(tiny)


def test_thought_tags_are_two_or_four_strings(tiny, tmp_path):
    assert tiny.verify.formats == FORMATS
    own = load_config("configs/tiny.yaml", ["verify.formats=[[<plan>,</plan>]]"])
    assert own.verify.formats == (("<plan>", "</plan>", "", ""),)
    (tmp_path / "config.yaml").write_text(dump_config(own))
    assert load_config(str(tmp_path / "config.yaml")) == own
    assert fingerprint(own) != fingerprint(tiny)
    for bad in ("[]", "[[<plan>]]", "[['', </plan>]]", "[[a, b, c, d, e]]"):
        with pytest.raises(ConfigError, match=r"verify\.formats"):
            load_config("configs/tiny.yaml", [f"verify.formats={bad}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["second_opinions=[judge]"], "expected the opinion `judge` and its section"),
        (["judge.url=http://a/v1", "judge.model=m"], "expected the opinion `judge` and its"),
        (["second_opinions=[step]"], "'steps', 'consistency' or 'judge'"),
        (["judge.urll=x", "judge.model=m"], "judge.urll='x': unknown key; did you mean 'url'"),
        (["custem=x"], "custem='x': unknown key; did you mean 'custom'"),
        (["custom"], "override 'custom' is not of the form key=value"),
    ],
)
def test_a_section_alone_is_checked_like_a_whole_config(overrides, message):
    with pytest.raises(ConfigError, match=message):
        parse_section(VerifyConfig, overrides, "here")


def test_a_section_alone_has_its_defaults():
    assert parse_section(VerifyConfig, [], "here") == VerifyConfig()


def test_what_a_file_leaves_out_comes_from_the_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {path: tiny}\nevaluate: {k: 3}\ndata: {heldout: {reader: easyvqa}}\n")
    unused = {"reader": "tiny", "num": 1}
    defaults = {
        "name": "n",
        "run_dir": "r",
        "model": {"path": "other", "max_length": 64},
        "data": {"train": unused, "heldout": unused, "seed_thoughts": unused},
        "explore": {"num_problems": 1, "num_samples": 1, "sampling": {"max_tokens": 8}},
        "evaluate": {"k": 1, "sampling": {"max_tokens": 8}},
    }
    cfg = load_config(str(path), ["evaluate.sampling.max_tokens=16"], defaults)
    assert (cfg.model.path, cfg.model.max_length, cfg.evaluate.k) == ("tiny", 64, 3)
    assert cfg.evaluate.sampling.max_tokens == 16
    assert cfg.data.heldout.num is None  # a source is taken whole
    assert make_config(defaults, ["seed=4"], "the command line").seed == 4


def test_benchmarks_are_named_sources_and_a_misspelt_key_in_one_is_found():
    cfg = load_config(
        "configs/tiny.yaml", ["benchmarks.zoo.reader=jsonl", "benchmarks.zoo.path=a.jsonl"]
    )
    assert cfg.benchmarks["zoo"].path == "a.jsonl"
    with pytest.raises(ConfigError, match=r"benchmarks.zoo.reeder.*did you mean 'reader'"):
        load_config("configs/tiny.yaml", ["benchmarks.zoo.reeder=jsonl"])


@pytest.mark.parametrize("override", ["train.lr=yes", "rounds=on", "seed=true", "seed=08"])
def test_truth_values_and_octal_numbers_are_no_numbers(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config("configs/tiny.yaml", [override])


def test_blanks_around_an_equals_sign_do_not_count():
    cfg = load_config("configs/tiny.yaml", [" seed = 3", "train.lr= 0.5 "])
    assert (cfg.seed, cfg.train.lr) == (3, 0.5)


@pytest.mark.parametrize(
    ("override", "right"),
    [("train.learning_rate=1", "lr"), ("explore.num_generations=4", "num_samples"),
     ("data.train.reader=sharegpt", "chat"), ("train.lora={r: 8}", "rank")],
)  # fmt: skip
def test_what_others_call_a_key_or_reader_leads_to_ours(override, right):
    with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
        load_config("configs/tiny.yaml", [override])


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://b", "hdfs://x/y", "file:///x"])
def test_a_run_directory_is_no_url(url):
    with pytest.raises(ConfigError, match="is a URL; expected a directory"):
        resolve_run_dir(url)


def test_variables_in_a_run_directory_are_those_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    assert resolve_run_dir("$SCRATCH/run") == tmp_path / "run"
    with pytest.raises(ConfigError, match="not set"):
        resolve_run_dir("${NOT_SET_ANYWHERE}/run")


def test_a_relative_store_is_found_as_a_run_directory_is(tmp_path, monkeypatch):
    def store(path):
        return load_config("configs/tiny.yaml", [f"store.path={path}"]).store.path

    assert store("x.lance") == str(Path.cwd() / "x.lance")
    assert store("s3://bucket/x.lance") == "s3://bucket/x.lance"
    monkeypatch.setenv("VIRGO_RAY_HOME", str(tmp_path))
    assert store("x.lance") == str(resolve_run_dir("x.lance")) == str(tmp_path / "x.lance")
    assert store("$VIRGO_RAY_HOME/y") == str(tmp_path / "y")
    cfg = load_config("configs/tiny.yaml", ["store.path=x.lance"])
    (tmp_path / "config.yaml").write_text(dump_config(cfg))
    monkeypatch.setenv("VIRGO_RAY_HOME", "/elsewhere")
    assert load_config(str(tmp_path / "config.yaml")) == cfg
    with pytest.raises(ConfigError, match=r"store\.path=.*names a variable that is not set"):
        store("$NOT_SET_ANYWHERE/x")
