"""Measures of accepted texts in the store: the same as from the text, and taken only once."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from test_buffer import fill, judged

from virgo_ray.config import Config, Format, SelectConfig, VerifyConfig, load_config
from virgo_ray.records import Status
from virgo_ray.selection import measuring
from virgo_ray.selection.measuring import Measuring, measuring_for
from virgo_ray.selection.training_set import choose_traces
from virgo_ray.store import buffer as buffer_module
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.schema import KEY, MEASURED_BY, MEASURES
from virgo_ray.store.sums import read_sums

DATA = Path(__file__).parents[1] / "data"
PIECES = (
    "<think>", "</think>", "<|begin_of_thought|>", "<|end_of_thought|>", "Wait, ", "look again. ",
    "3 + 4 = 7 ", "red circle ", "\n", "\u732b\u304c\u4e8c\u5339 ", "\U0001f408\u200d ",
    "\u0130\u017f\u212a ", "", " ",
)  # fmt: skip
REFLECTIONS = (
    "Hmm, wait. Alternatively, on second thought: double-checking, rechecking, re-examining and "
    "reconsidering. Check it again, look again, verify again, count again, read and think again."
)
WORDS = SelectConfig(max_overlap=0.5, max_repetition=0.6, max_luck=1.0, max_per_problem=3)
PLAIN = SelectConfig(max_luck=1.0)


def texts(num):
    rng = random.Random(0)
    made = ["".join(rng.choices(PIECES, k=rng.choice((1, 5, 40)))) for _ in range(num - 2)]
    return ["", "".join(rng.choices(PIECES, k=5000)), *made]


def store(run_dir, taken: Measuring | None):
    """Two rounds of the same judged texts, a third of them wrong, some problems with a probe."""
    buffer = ReplayBuffer.open(run_dir, measuring=taken)
    for n, text in enumerate(texts(120)):
        status = Status.WRONG if n % 3 == 2 else Status.CORRECT
        buffer.add(1 + n // 60, judged(f"p{n // 5}", n % 5, status, text, n % 17, guess_chance=0.5))
    fill(buffer, 2, {"p1#blank": "c", "p2#blank": "w"})
    return buffer


@pytest.fixture(scope="module")
def cfg() -> Config:
    return load_config("configs/tiny.yaml")


def columns_read(monkeypatch):
    """The columns that readers ask for from now on."""
    asked = []
    real = TraceReader._batches

    def watched(self, columns, condition, **options):
        asked.extend(columns)
        return real(self, columns, condition, **options)

    monkeypatch.setattr(TraceReader, "_batches", watched)
    return asked


@pytest.mark.parametrize("select", [WORDS, PLAIN], ids=["words", "plain"])
def test_stored_measures_choose_the_same_as_the_texts_and_no_text_is_read(
    tmp_path, cfg, select, monkeypatch
):
    cfg = cfg.model_copy(update={"select": select})
    plain = store(tmp_path / "plain", None)
    measured = store(tmp_path / "measured", measuring_for(cfg.verify.formats, select))
    by_text = choose_traces(cfg, 2, plain), plain.num_new(2)
    asked = columns_read(monkeypatch)
    assert (choose_traces(cfg, 2, measured), measured.num_new(2)) == by_text and by_text[0]
    assert "fingerprint" in asked and not {"text", "token_ids", "question"} & set(asked)
    assert ("signature" in asked) == (select is WORDS)
    for formats in (cfg.verify.formats, [Format("<think>", "</think>", "7", "red")]):
        one, other = (x.candidates([1, 2], formats) for x in (plain, measured))
        assert {c.key: c for c in one} == {c.key: c for c in other} != {}


def test_the_words_are_a_column_only_where_they_are_compared(tmp_path):
    for select, is_there in ((PLAIN, False), (WORDS, True)):
        folder = tmp_path / str(is_there)
        store(folder, measuring_for(VerifyConfig().formats, select))
        rows = lance.dataset(str(folder / "buffer.lance")).to_table().to_pylist()
        accepted = [row for row in rows if row["status"] == "correct"]
        assert {row["signature"] is not None for row in accepted} == {is_there}
        assert all(row[MEASURED_BY] is None for row in rows if row["status"] == "wrong")


def is_measured(buffer):
    """{key: whether it has the present measures} of the accepted rollouts."""
    table = buffer._dataset.to_table(filter="status = 'correct'")
    return {
        tuple(row[name] for name in KEY): row[MEASURED_BY] == Measuring().label
        for row in table.to_pylist()
    }


def test_a_store_of_version_1_is_measured_when_it_is_opened(tmp_path):
    shutil.copytree(DATA / "store_v1", tmp_path / "run")
    before = TraceReader.open(ReplayBuffer.open(tmp_path / "run")._location).candidates([1])
    buffer = ReplayBuffer.open(tmp_path / "run", measuring=Measuring())
    assert set(is_measured(buffer).values()) == {True}
    assert buffer.candidates([1]) == before != []


def test_measuring_that_was_killed_goes_on_where_it_was_and_is_said(tmp_path, monkeypatch, caplog):
    store(tmp_path, None)
    monkeypatch.setattr(buffer_module, "MEASURED_AT_ONCE", 30)
    with monkeypatch.context() as patch:
        real, calls = ReplayBuffer.replace_columns, []

        def killed(self, changes):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(self, changes)

        patch.setattr(ReplayBuffer, "replace_columns", killed)
        with pytest.raises(KeyboardInterrupt):
            ReplayBuffer.open(tmp_path, measuring=Measuring())
    assert [r.getMessage() for r in caplog.records if "measuring" in r.message] == [
        "measuring 80 stored texts, once; a start that is stopped meanwhile goes on here"
    ]
    assert sum(is_measured(ReplayBuffer.open(tmp_path)).values()) == 30
    taken = []
    measure = Measuring.measure
    monkeypatch.setattr(Measuring, "measure", lambda *a: taken.append(1) or measure(*a))
    buffer = ReplayBuffer.open(tmp_path, measuring=Measuring())
    assert len(taken) == 50 and list(is_measured(buffer).values()).count(True) == 80
    assert ReplayBuffer.open(tmp_path, measuring=Measuring()).version == buffer.version
    buffer.seal()
    files = {f"data/{f.path}" for x in buffer._dataset.get_fragments() for f in x.metadata.files}
    assert files <= set(read_sums(tmp_path / "buffer.lance"))


def test_measures_of_other_code_are_never_used_and_taken_again(tmp_path, monkeypatch):
    old = store(tmp_path, Measuring())
    monkeypatch.setattr(measuring, "MEASURES_VERSION", 10)
    monkeypatch.setitem(measuring.OF_TEXT, "num_reflections", len)
    by_key = {c.key: c.num_reflections for c in old.candidates([1, 2])}
    assert by_key[1, "p0", 0] == 0 and by_key[1, "p0", 1] == len(texts(120)[1])
    buffer = ReplayBuffer.open(tmp_path, measuring=Measuring())
    monkeypatch.undo()
    rows = buffer._dataset.to_table(filter="status = 'correct' AND NOT problem_id = 'p1#blank'")
    stored = rows.select([*KEY, "num_reflections"]).to_pylist()
    assert {tuple(row.values()) for row in stored} == {(*k, num) for k, num in by_key.items()}


def test_what_a_regrade_accepts_is_measured_too(tmp_path):
    buffer = store(tmp_path, Measuring())
    key = {"round": 1, "problem_id": "p0", "sample_index": 2}
    schema = pa.schema([buffer._dataset.schema.field(name) for name in (*KEY, "status")])
    change = pa.Table.from_pylist([{**key, "status": "correct"}], schema=schema).to_reader()
    assert buffer.replace_columns(change) == 1
    (found,) = [c for c in buffer.candidates([1]) if c.key == tuple(key.values())]
    assert found.fingerprint == Measuring().measure(texts(120)[2])["fingerprint"]
    again = ReplayBuffer.open(tmp_path, measuring=Measuring())
    assert is_measured(again)[tuple(key.values())] and found in again.candidates([1])


def test_other_results_of_the_measures_need_another_number():
    """What stores hold was taken by this code; `traces export --chosen` compares with it."""
    everything = Measuring(with_words=True)
    taken = [everything.measure(text) for text in (*texts(120), REFLECTIONS)]
    shown = json.dumps(taken, default=bytes.hex, sort_keys=True)
    assert set(taken[0]) == {*MEASURES.names} - {MEASURED_BY}
    assert (measuring.MEASURES_VERSION, hashlib.sha256(shown.encode()).hexdigest()[:16]) == (
        1, "5cb7167e52ca6227",
    ), "the measures have changed: raise MEASURES_VERSION, and put the new hash here"  # fmt: skip
