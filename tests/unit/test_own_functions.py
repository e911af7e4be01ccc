"""Functions of the user's by import path: the module of docs/python.md, and how mistakes are named.

The module is taken from the page, so what stands there works.
"""

import json
import random
import re
import sys
from pathlib import Path

import pytest

from virgo_ray.config import GatesConfig, PartConfig, PromptConfig, SelectConfig, load_config
from virgo_ray.data.sources import problem_rows, seed_thought_rows
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.gates import failures
from virgo_ray.model.prompts import user_content
from virgo_ray.records import Candidate, Evaluation, Failure, Figures, Problem
from virgo_ray.run import check_own_functions
from virgo_ray.selection import select
from virgo_ray.verify.custom import resolve
from virgo_ray.verify.item import Item

PAGE = Path(__file__).parents[2] / "docs/python.md"
BAD = """
def rows(source):
    yield {"question": "1?", "answer": "1"}
    yield "no mapping"
    raise OSError("gone")
def choose(candidates, rng): return [*candidates, candidates[0]]
def invent(candidates, rng): return [object()]
def gate(now, earlier): return "bad"
def write(problem): return None
def one(argument): raise KeyError("one")
number = 3
import numpy as np
from virgo_ray.records import Failure
wrong = {}
def worst(now, earlier):
    fields = dict(gate="g", figure="f", value=np.float32(0.5), bound=1, limit=1.0, noise=0.0,
                  is_lower_bound=np.bool_(True))
    return Failure(**{**fields, **wrong})
"""


def figures(pass_at_1):
    names = (
        "pass_at_k maj_at_k mean_thought_tokens long_format_share truncated_share not_judged_share"
    )
    return {"pass_at_1": pass_at_1, "k": 4, "num_problems": 50, **dict.fromkeys(names.split(), 0.5)}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A directory, on Python's path, with `own_page.py` from the docs and `own_bad.py`."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (text,) = [block for block in blocks if "def choose" in block]
    (folder / "own_page.py").write_text(text)
    (folder / "own_bad.py").write_text(BAD)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def candidates(num):
    return [Candidate(1, f"p{i % 4}", i, "s", 10 + i, 3, 4, fingerprint=str(i)) for i in range(num)]


def test_a_reader_of_ones_own_yields_rows_like_those_of_a_file(modules, tmp_path):
    file = tmp_path / "ours.txt"
    file.write_text(
        json.dumps(["How many?", "a.png", "3"]) + "\n" + json.dumps(["?", "b.png", "4"])
    )
    source = PartConfig(reader="own_page:rows", path=str(file), max_rows=1)
    (row,) = problem_rows(source, 0, tmp_path)
    assert (row.fields["question"], row.fields["answer"], row.number) == ("How many?", "3", 1)
    assert row.folder == tmp_path and "a.png" in str(row.broken or row.fields["images"])


def test_a_bad_row_of_ones_own_reader_is_a_bad_row_and_what_it_raises_is_named(modules):
    rows = seed_thought_rows(PartConfig(reader="own_bad:rows"), 0)
    assert next(rows).fields == {"question": "1?", "answer": "1"}
    assert "yielded str" in next(rows).broken
    with pytest.raises(ConfigError, match=r"reader='own_bad:rows' failed with OSError.*line 5 of"):
        next(rows)


def test_a_selector_of_ones_own_chooses_in_place_of_the_policy(modules):
    cfg = SelectConfig(custom="own_page:choose")
    kept = select(candidates(12), cfg, random.Random(0))
    assert sorted(c.problem_id for c in kept) == ["p0", "p1", "p2", "p3"]
    assert (
        kept == select(candidates(12), cfg, random.Random(0)) == sorted(kept, key=lambda c: c.key)
    )
    assert (
        len(select(candidates(12), SelectConfig(custom=cfg.custom, max_traces=2), random.Random(0)))
        == 2
    )


@pytest.mark.parametrize("name", ["choose", "invent"])
def test_a_selector_may_return_only_what_it_was_given_and_each_once(modules, name):
    with pytest.raises(ConfigError, match="expected some of the 4"):
        select(candidates(4), SelectConfig(custom=f"own_bad:{name}"), random.Random(0))


def test_a_gate_of_ones_own_rejects_a_round(modules):
    cfg = GatesConfig(custom=("own_page:worst_source",))
    good = Evaluation(**figures(0.6), per_source={"a": Figures(**figures(0.6))})
    bad = Evaluation(**figures(0.6), per_source={"a": Figures(**figures(0.05))})
    assert failures(cfg, good, ()) == ()
    (failure,) = failures(cfg, bad, ())
    assert failure.gate == "custom" and isinstance(failure, Failure)
    assert str(failure) == "gates.custom=0.1: worst source is 0.05, expected at least 0.1"
    with pytest.raises(ConfigError, match=r"returned 'bad'; expected virgo_ray\.Failure"):
        failures(GatesConfig(custom=("own_bad:gate",)), good, ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": None}, {"value": "0.3"}, {"is_lower_bound": 1}, {"reference_round": (0, 1)},
        {"figure": object()},
    ],
)  # fmt: skip
def test_a_failure_that_the_ledger_could_not_read_is_refused_by_its_field(modules, wrong):
    import own_bad

    cfg, now = GatesConfig(custom=("own_bad:worst",)), Evaluation(**figures(0.6))
    own_bad.wrong = {}
    (failure,) = failures(cfg, now, ())
    assert (failure.value, failure.bound) == (0.5, 1.0) and failure.is_lower_bound is True
    assert type(failure.value) is float
    own_bad.wrong, field = wrong, next(iter(wrong))
    with pytest.raises(ConfigError, match=f"own_bad:worst' returned a Failure with {field}="):
        failures(cfg, now, ())


def test_a_prompt_of_ones_own_stands_after_the_pictures(modules):
    problem = Problem("1", "How many?", "2", images=("a.png",))
    said = user_content(problem, PromptConfig(custom="own_page:write"))
    assert said == [
        {"type": "image"},
        {"type": "text", "text": "How many?\nPut the final answer in \\boxed{}."},
    ]
    with pytest.raises(ConfigError, match="returned None for problem '1'; expected text"):
        user_content(problem, PromptConfig(custom="own_bad:write"))


def test_a_verifier_of_ones_own_judges(modules):
    grade = resolve("own_page:grade")
    assert grade(Item("312", "..."), "123") and not grade(Item("312", "..."), "12")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train.reader=own_bad:missing", "reader='own_bad:missing' cannot be imported"),
        ("data.heldout.reader=own_bad:number", "cannot be called (it is a int)"),
        ("select.custom=own_bad:one", "expected choose(candidates, rng) -> candidates"),
        ("select.custom=own_bad", "not of the form `package.module:function`"),
        ("prompt.custom=own_bad", "not of the form `package.module:function`"),
        ("gates.custom=[own_bad]", "not of the form `package.module:function`"),
        ("gates.custom=[own_bad:one]", "expected gate(now, earlier)"),
        ("prompt.custom=no.such:write", "prompt.custom='no.such:write' cannot be imported"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_starts(modules, override, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_own_functions(load_config("tiny", [override]))


def test_a_misspelt_reader_is_no_import_path():
    with pytest.raises(ConfigError, match=r"data\.train\.reader='jsonlines'.*did you mean 'jsonl'"):
        load_config("tiny", ["data.train.reader=jsonlines"])
