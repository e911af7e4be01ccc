import random
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

from virgo_ray.config import Format
from virgo_ray.errors import TraceStoreError
from virgo_ray.model.blank import BLANK
from virgo_ray.records import (
    AnswerType,
    Judged,
    LogProbs,
    Member,
    Opinion,
    Problem,
    Rollout,
    SecondOpinion,
    Status,
    Verdict,
)
from virgo_ray.selection import fingerprint, repetition, signature
from virgo_ray.selection.measuring import Measuring
from virgo_ray.stats.tally import tally
from virgo_ray.store.buffer import CHUNK_ROWS, ReplayBuffer, request_seed
from virgo_ray.store.schema import SCHEMA, to_judged, to_row

NAMES = {
    "round", "problem_id", "sample_index", "status", "weights_version", "token_ids", "text",
    "source", "question", "images", "image_hash", "finish_reason", "sampling", "answer", "rule",
    "verifier_version", "guess_chance", "milliseconds", "seconds", "worker", "opinions",
}  # fmt: skip


def problem(id="p", **fields):
    return Problem(id, "How many?", "7", **fields)


def judged(id="p", index=0, status=Status.CORRECT, text="7", num_tokens=3, **fields):
    rollout = Rollout(problem(id), index, text, tuple(range(num_tokens)), "stop", 1)
    return Judged(rollout, Verdict(status, answer="7", **fields))


def fill(buffer, round, statuses):
    """`{"a": "cw"}`: problem a, sample 0 correct, sample 1 wrong (t: timeout, e: error)."""
    names = {"c": Status.CORRECT, "w": Status.WRONG, "t": Status.TIMEOUT, "e": Status.ERROR}
    for id, letters in statuses.items():
        for index, letter in enumerate(letters):
            buffer.add(round, judged(id, index, names[letter], text=f"{id}{index}"))
    buffer.flush()


def keys(buffer, rounds):
    return sorted((r, o.problem_id, o.sample_index) for r in rounds for o in buffer.rows(r))


def missing(buffer, round, problems, num_samples, seed=0):
    wanted = [(problem, index) for problem in problems for index in range(num_samples)]
    return buffer.still_missing(round, wanted, seed)


# -- what is stored --------------------------------------------------------------------------------


def test_everything_of_a_judged_rollout_comes_back(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(image)
    full = Judged(
        Rollout(
            Problem(
                "p/ü'1", "Wie viele?", "7", (str(image),), "zoo", AnswerType.NUMBER,
                ("6", "7"), "Zwei Katzen.",
            ),
            3, "Es sind \\boxed{7} 🐈", (5, 0, 2**31 - 1), "stop", 4,
            {"temperature": 0.7, "top_k": 5}, 1.25, 2, logprobs=(-0.1, -2.5, 0.0),
        ),
        Verdict(
            Status.CORRECT, "7", "boxed", AnswerType.NUMBER, "v1", 0.5, "why", 0.25,
            {
                "steps": SecondOpinion(Opinion.DOUBTS, "3 + 4 = 8"),
                "judge": SecondOpinion(Opinion.AGREES),
            },
        ),
    )  # fmt: skip
    empty = Judged(Rollout(problem("q"), 0, "", (), "length", 0), Verdict(Status.TRUNCATED))
    buffer = ReplayBuffer.open(tmp_path)
    for item in (full, empty):
        buffer.add(2, item)
    assert list(buffer.judged([2])) == [full, empty]
    assert list(ReplayBuffer.open(tmp_path).judged([0, 1, 2])) == [full, empty]
    assert buffer.traces(buffer.candidates([2]), [full.rollout.problem])[0].token_ids == (
        5,
        0,
        2**31 - 1,
    )


def test_the_file_has_the_promised_columns_and_a_schema_number(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    buffer.add(1, judged())
    buffer.flush()
    dataset = lance.dataset(str(tmp_path / "buffer.lance"))
    assert set(dataset.schema.names) >= NAMES
    assert dataset.schema.metadata[b"virgo_ray_schema"] == b"5"


def test_a_store_of_another_schema_is_refused(tmp_path):
    lance.write_dataset(pa.table({"round": [1]}), str(tmp_path / "buffer.lance"))
    with pytest.raises(TraceStoreError, match=r"has schema 'none' with columns \['round'\]"):
        ReplayBuffer.open(tmp_path)


def test_a_store_whose_making_was_interrupted_is_made_again(tmp_path):
    (tmp_path / "buffer.lance" / "data").mkdir(parents=True)
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "c"})
    assert keys(buffer, [1]) == [(1, "a", 0)]


# -- keys and durability ---------------------------------------------------------------------------


@pytest.mark.parametrize("reopened", [False, True])
def test_a_key_is_never_stored_twice(tmp_path, reopened):
    buffer = ReplayBuffer.open(tmp_path)
    buffer.add(1, judged("a", 1))
    if reopened:
        buffer.flush()
        buffer = ReplayBuffer.open(tmp_path)
    with pytest.raises(TraceStoreError, match=r"\(1, 'a', 1\) is in the replay buffer already"):
        buffer.add(1, judged("a", 1))
    buffer.add(2, judged("a", 1))
    assert keys(buffer, [1, 2]) == [(1, "a", 1), (2, "a", 1)]


def test_a_chunk_is_durable_when_it_is_full(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    for index in range(CHUNK_ROWS + 1):
        buffer.add(1, judged("a", index))
    assert len(keys(ReplayBuffer.open(tmp_path), [1])) == CHUNK_ROWS
    buffer.flush()
    assert len(keys(ReplayBuffer.open(tmp_path), [1])) == CHUNK_ROWS + 1


def test_a_chunk_is_durable_two_seconds_after_its_first_row(tmp_path):
    now = [0.0]
    buffer = ReplayBuffer.open(tmp_path, clock=lambda: now[0])
    for index, time in enumerate((10.0, 11.9, 12.0, 12.1)):
        now[0] = time
        buffer.add(1, judged("a", index))
    assert len(keys(ReplayBuffer.open(tmp_path), [1])) == 3


def test_the_version_grows_with_every_append_and_flushing_nothing_changes_nothing(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    versions = [buffer.version]
    for index in range(3):
        fill(buffer, index, {"a": "c"})
        buffer.flush()
        versions.append(buffer.version)
    assert versions == sorted(set(versions))
    assert ReplayBuffer.open(tmp_path).version == versions[-1]


def test_many_small_chunks_are_merged_without_losing_a_row(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    for index in range(130):
        buffer.add(1, judged("a", index, num_tokens=index))
        buffer.flush()
    assert len(buffer._dataset.get_fragments()) < 70
    assert keys(buffer, [1]) == [(1, "a", i) for i in range(130)]
    stored = {j.rollout.sample_index: j for j in buffer.judged([1])}
    assert all(stored[i] == judged("a", i, num_tokens=i) for i in range(130))


def test_a_store_older_than_the_ledger_says_is_refused(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "c"})
    ReplayBuffer.open(tmp_path, committed_version=buffer.version)
    with pytest.raises(TraceStoreError, match="is at version 2, the ledger relies on 9"):
        ReplayBuffer.open(tmp_path, committed_version=9)


def test_a_full_disk_is_an_error_and_nothing_is_lost_once_there_is_space(tmp_path, monkeypatch):
    buffer = ReplayBuffer.open(tmp_path)
    buffer.add(1, judged("a", 0))

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("virgo_ray.store.writes.write_fragments", fail)
        with pytest.raises(TraceStoreError, match=r"1 judged rollouts.*No space left"):
            buffer.flush()
    buffer.flush()
    assert keys(ReplayBuffer.open(tmp_path), [1]) == [(1, "a", 0)]


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_buffer import ReplayBuffer, judged
buffer = ReplayBuffer.open(sys.argv[1])
for index in range(10**6):
    buffer.add(1, judged("a", index, num_tokens=500))
    if index % 16 == 15:
        buffer.flush()
        print(index + 1, flush=True)
"""


def test_what_was_flushed_survives_sigkill(tmp_path):
    here = Path(__file__).parent
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(here)]
    root = here.parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
        flushed = [int(next(writer.stdout)) for _ in range(5)]
        writer.send_signal(signal.SIGKILL)
        flushed += map(int, writer.stdout)
    found = [index for _, _, index in keys(ReplayBuffer.open(tmp_path), [1])]
    assert found == list(range(len(found))) and len(found) >= flushed[-1]


# -- what is missing -------------------------------------------------------------------------------


def test_only_what_is_missing_is_asked_again(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "ct", "b": "e"})
    asked = [problem(id) for id in "abc"]
    keys_left = [r.key for r in missing(buffer, 1, asked, 3)]
    assert keys_left == [("a", 2), ("b", 1), ("b", 2), *(("c", i) for i in range(3))]
    assert len(missing(buffer, 2, asked, 3)) == 9


def test_a_request_has_the_same_seed_in_every_process_and_no_two_share_one(tmp_path):
    assert request_seed(0, 1, "a", 2) == 1485165473
    buffer = ReplayBuffer.open(tmp_path)
    asked = [problem(str(i)) for i in range(100)]
    seeds = [r.seed for s in (0, 1) for t in (1, 2) for r in missing(buffer, t, asked, 4, s)]
    assert len(set(seeds)) == len(seeds) == 1600
    assert all(0 <= seed < 2**31 for seed in seeds)


# -- what is asked of it ---------------------------------------------------------------------------


def test_solve_rates_do_not_count_failures_to_judge(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "ccwt", "b": "te"})
    fill(buffer, 2, {"a": "cw", "b": "we"})
    assert buffer.judged_counts([1]) == {"a": (2, 3)}
    assert buffer.judged_counts([1, 2]) == {"a": (3, 5), "b": (0, 1)}
    assert buffer.judged_counts([]) == buffer.judged_counts(range(5, 9)) == {}
    assert buffer.solved(1) == {"a"} and buffer.solved(0) == frozenset()


def test_reads_see_what_was_added_a_moment_ago(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    buffer.add(1, judged("a"))
    assert tally(buffer.rows(1)).accepted == 1
    buffer.add(1, judged("b"))
    assert len(buffer.candidates([1])) == 2


def test_candidates_are_the_correct_rollouts_with_their_counts(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    buffer.add(1, judged("a", 0, text="<think>Wait. 7", num_tokens=4, guess_chance=0.25))
    buffer.add(1, judged("a", 1, Status.WRONG))
    buffer.add(1, judged("a", 2, Status.ERROR))
    buffer.add(3, judged("a", 0))
    first, second = sorted(buffer.candidates([1, 3]), key=lambda c: c.round)
    assert first.key == (1, "a", 0) and second.key == (3, "a", 0)
    assert (first.num_correct, first.num_judged, first.guess_chance) == (1, 2, 0.25)
    assert (first.num_tokens, first.num_reflections, first.is_complete) == (4, 1, False)
    assert first.fingerprint == fingerprint("<think>Wait. 7")
    assert (second.num_correct, second.num_judged) == (1, 1)
    assert buffer.candidates([2]) == []


def test_candidates_are_compared_by_their_words_only_where_asked_for(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    text = "one two three four one two three four"
    buffer.add(1, judged("a", 0, text=text))
    (plain,), (compared,) = buffer.candidates([1]), buffer.candidates([1], with_words=True)
    assert (plain.signature, plain.repetition) == (b"", 0.0)
    assert (compared.signature, compared.repetition) == (signature(text), repetition(text))
    assert compared.repetition == 1 / 5 and len(compared.signature) == 4 * 4


def test_probes_are_kept_and_counted_apart(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cw", "b": "cc", "a#blank": "c", "b#blank": "w"})
    fill(buffer, 2, {"a": "c"})
    assert buffer.judged_counts([1]) == {"a": (1, 2), "b": (2, 2)}
    assert buffer.blank_solved([1]) == {"a": True, "b": False} and buffer.blank_solved([2]) == {}
    assert buffer.solved(1) == {"a", "b"} and len(keys(buffer, [1, 2])) == 5
    assert tally(buffer.rows(1)).asked == 4 and len(list(buffer.judged([1]))) == 6
    blank = {c.key: c.is_blank_solved for c in buffer.candidates([1, 2])}
    assert blank == {(1, "a", 0): True, (1, "b", 0): False, (1, "b", 1): False, (2, "a", 0): True}
    assert not any(c.is_blank_solved for c in buffer.candidates([2]))
    assert {j.rollout.problem.id for j in buffer.examples(1, 9)} == {"a", "b"}
    assert len(buffer.find(1, "a#blank")) == 1
    asked = [problem(id) for id in ("a", "a#blank", "c#blank")]
    assert [r.key for r in missing(buffer, 1, asked, 1)] == [("c#blank", 0)]


def test_candidates_know_doubts_and_the_tags_of_the_config(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    said = {
        "steps": SecondOpinion(Opinion.DOUBTS, "3 + 4 = 8"),
        "judge": SecondOpinion(Opinion.AGREES),
    }
    buffer.add(1, judged("a", 0, text="<plan>3 + 4", opinions=said))
    buffer.add(1, judged("a", 1, opinions={"steps": SecondOpinion(Opinion.UNKNOWN)}))
    buffer.add(1, judged("a", 2, Status.WRONG))
    assert [c.is_doubted for c in buffer.candidates([1])] == [True, False]
    assert [c.is_complete for c in buffer.candidates([1])] == [True, True]
    own = buffer.candidates([1], [Format("<plan>", "</plan>")])
    assert [c.is_complete for c in own] == [False, True]
    counts = tally(buffer.rows(1))
    assert (counts.accepted, counts.doubted) == (2, 1)
    assert counts.opinions == {
        "judge": {"agrees": 1, "doubts": 0, "unknown": 0},
        "steps": {"agrees": 0, "doubts": 1, "unknown": 1},
    }


def test_traces_come_in_the_order_asked_for_with_the_problems_of_today(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cc", "b": "c"})
    moved = [problem(id, images=("elsewhere.png",)) for id in "ab"]
    chosen = sorted(buffer.candidates([1]), key=lambda c: c.key, reverse=True)
    traces = buffer.traces(chosen, moved)
    assert [(t.problem, t.sample_index, t.text) for t in traces] == [
        (moved[1], 0, "b0"), (moved[0], 1, "a1"), (moved[0], 0, "a0"),
    ]  # fmt: skip
    assert {t.weights_version for t in traces} == {1} and traces[0].token_ids == (0, 1, 2)
    with pytest.raises(TraceStoreError, match=r"1 selected traces .* \(1, 'b', 0\)"):
        buffer.traces(chosen, moved[:1])


def test_traces_of_any_verdict_come_with_what_the_sampler_said_of_them(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    right, wrong = judged("a", 0), judged("a", 1, Status.WRONG)
    said = replace(wrong.rollout, logprobs=(-0.1, -0.2, -3), sampling={"temperature": 0.8})
    for item in (right, Judged(said, wrong.verdict)):
        buffer.add(1, item)
    members = buffer.groups(1)["a"]
    first, second = buffer.traces(members, [problem("a")])
    assert (first.logprobs, first.temperature) == ((), 1.0)
    assert second.logprobs == said.logprobs and isinstance(second.logprobs, LogProbs)
    assert second.temperature == 0.8 and second.token_ids == (0, 1, 2)


def test_members_of_a_group_know_whether_their_tags_are_closed(tmp_path):
    buffer = ReplayBuffer.open(tmp_path, measuring=Measuring())
    texts = ("<think>7", "<think>7</think> 7", "<think></think> 7", "7")
    for index, text in enumerate(texts):
        buffer.add(1, judged("a", index, text=text))
    assert [m.has_form for m in buffer.groups(1)["a"]] == [False, True, False, False]


def test_a_group_is_all_that_was_sampled_of_a_problem_in_a_round(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    doubts = {"steps": SecondOpinion(Opinion.DOUBTS)}
    warm = {"temperature": 0.5, "seed": 3}
    items = [
        judged("b", 2, Status.TIMEOUT, num_tokens=5),
        judged("b", 0, Status.CORRECT, guess_chance=0.25, opinions=doubts),
        judged("b", 1, Status.TRUNCATED),
        judged("a", 0, Status.WRONG),
        judged("a" + BLANK, 0, Status.CORRECT),
    ]
    for item in items:
        logprobs = (-1.0,) * 3 if item.rollout.key == ("b", 1) else ()
        rollout = replace(item.rollout, sampling=warm, logprobs=logprobs)
        buffer.add(2, Judged(rollout, item.verdict))
    greedy = replace(judged("c").rollout, sampling={"temperature": 0.0})
    buffer.add(2, Judged(greedy, Verdict(Status.CORRECT)))
    buffer.add(1, judged("b", 0))
    for i, key in enumerate(("top_p", "top_k", "repetition_penalty")):
        rollout = replace(judged("c", i).rollout, sampling={"temperature": 1.0, key: 0.5})
        buffer.add(3, Judged(rollout, Verdict(Status.CORRECT)))
    assert not any(m.is_plain for m in buffer.groups(3)["c"])
    found = buffer.groups(2)
    assert list(found) == ["a", "b"] and [m.sample_index for m in found["b"]] == [0, 1, 2]
    assert found["b"] == (
        Member(2, "b", 0, Status.CORRECT, "stop", 3, 1, 0.25, True, 0.5),
        Member(2, "b", 1, Status.TRUNCATED, "stop", 3, 1, 0.0, False, 0.5, True),
        Member(2, "b", 2, Status.TIMEOUT, "stop", 5, 1, 0.0, False, 0.5),
    )
    buffer.set_aside(["b"])
    assert list(buffer.groups(2)) == ["a"] and buffer.groups(7) == {}


class AgainstAModel(RuleBasedStateMachine):
    """Adds, flushes, kills and reopens in any order; a plain dict says what must be there."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.buffer = ReplayBuffer.open(self.folder.name)
        self.durable, self.pending = {}, {}

    @rule(round=st.integers(0, 2), id=st.sampled_from("ab"), index=st.integers(0, 3))
    def add(self, round, id, index):
        item = judged(id, index, random.Random(f"{round}{id}{index}").choice(list(Status)))
        key = (round, id, index)
        if key in self.durable or key in self.pending:
            with pytest.raises(TraceStoreError):
                self.buffer.add(round, item)
        else:
            self.buffer.add(round, item)
            self.pending[key] = item

    @rule()
    def flush(self):
        self.buffer.flush()
        self.durable |= self.pending
        self.pending = {}

    @rule()
    def kill(self):
        stored = self.stored(ReplayBuffer.open(self.folder.name))
        assert self.durable.items() <= stored.items() <= (self.durable | self.pending).items()
        self.buffer = ReplayBuffer.open(self.folder.name)
        self.durable, self.pending = stored, {}

    @rule(round=st.integers(0, 2))
    def missing(self, round):
        asked = [problem(id) for id in "ab"]
        found = {(round, *r.key) for r in missing(self.buffer, round, asked, 4)}
        everything = {(round, id, i) for id in "ab" for i in range(4)}
        assert found == everything - self.durable.keys() - self.pending.keys()

    @invariant()
    def nothing_durable_is_ever_lost(self):
        if hasattr(self, "durable"):
            stored = self.stored(ReplayBuffer.open(self.folder.name))
            assert self.durable.items() <= stored.items()

    def stored(self, buffer):
        found = [((r, *j.rollout.key), j) for r in range(3) for j in buffer.judged([r])]
        assert len(found) == len(dict(found))
        return dict(found)

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)


nats = st.floats(max_value=0, width=32, allow_nan=False, allow_infinity=False)


@given(st.text(max_size=50), st.lists(st.tuples(st.integers(0, 2**31 - 1), nats), max_size=20))
def test_any_text_and_tokens_survive_the_trip_through_a_row(text, tokens):
    ids, logprobs = tuple(t[0] for t in tokens), tuple(t[1] for t in tokens)
    item = Judged(
        Rollout(problem(text), 0, text, ids, "stop", 0, logprobs=logprobs),
        Verdict(Status.WRONG, answer=text),
    )
    (row,) = pa.Table.from_pylist([to_row(1, item)], schema=SCHEMA).to_pylist()
    assert to_judged(row) == item
