"""Functions of the user's that were edited between two starts of a run, or within a notebook."""

import sys
from functools import partial

import pytest

from virgo_ray.config import importing, load_config
from virgo_ray.config.importing import hash_source, import_function
from virgo_ray.errors import ConfigError, LedgerError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Weights

BASE = Weights(0, "base")
TEXT = "def {}(*given): return None\n"


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Write a module, as a new process will find it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module, function, more="", is_new_process=True):
        (tmp_path / f"{module}.py").write_text(TEXT.format(function) + more)
        if is_new_process:
            sys.modules.pop(module, None)
            importing._load.cache_clear()
            importing._LOADED.clear()

    yield write
    for module in ("own_writer", "own_chooser"):
        sys.modules.pop(module, None)
    importing._load.cache_clear()
    importing._LOADED.clear()


def start(tmp_path, *more):
    cfg = load_config(
        "tiny",
        [
            f"run_dir={tmp_path}/run", "prompt.custom=own_writer:write",
            "select.custom=own_chooser:choose", *more,
        ],
    )  # fmt: skip
    Ledger.check(cfg)
    book = Ledger.open(cfg, BASE)
    book.close()
    return book.news


def test_an_edited_function_is_recorded_and_an_edited_prompt_is_refused(edit, tmp_path):
    edit("own_writer", "write")
    edit("own_chooser", "choose")
    assert start(tmp_path) == start(tmp_path) == []
    edit("own_chooser", "choose", "# edited\n")
    (said,) = start(tmp_path)
    assert said.startswith("changed: source of select.custom: ") and "(round 0)" in said
    assert start(tmp_path) == [] == start(tmp_path, "rollout.num_workers=1", "train.lr=5e-4")[1:]
    edit("own_writer", "write", "# edited\n")
    with pytest.raises(LedgerError, match=r"prompt.custom='own_writer:write' is another one than"):
        start(tmp_path)
    (said,) = start(tmp_path, "train.lr=5e-4", "data.accept_changes=prompt.custom")
    assert said.startswith("changed: source of prompt.custom: ")


def test_a_function_that_was_edited_after_its_import_is_refused(edit, tmp_path):
    edit("own_writer", "write")
    edit("own_chooser", "choose")
    start(tmp_path)
    loaded = hash_source(sys.modules["own_writer"].write)
    edit("own_writer", "write", "# edited\n", is_new_process=False)
    assert hash_source(sys.modules["own_writer"].write) == loaded
    with pytest.raises(ConfigError, match=r"was edited after this process.*restart the notebook"):
        start(tmp_path)


class Grader:
    def __call__(self):
        pass


def test_partials_and_instances_have_the_source_of_their_code():
    assert hash_source(partial(Grader())) == hash_source(Grader()) == hash_source(Grader) != ""
    assert hash_source(len) == ""


def test_a_function_of_a_notebook_is_refused():
    with pytest.raises(ConfigError, match="move it to a file of its own"):
        import_function("select.custom", "__main__:choose", "choose()")
