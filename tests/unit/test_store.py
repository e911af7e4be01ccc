"""The Lance dataset behind the replay buffer: schema versions, old versions, damage, other runs."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from test_buffer import fill, judged, keys

from virgo_ray.config import StoreConfig, load_config
from virgo_ray.errors import ConfigError, TraceStoreError
from virgo_ray.records import Judged, Status
from virgo_ray.store import rows as rows_module
from virgo_ray.store import sums
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.dataset import StoreLocation, open_for_writing
from virgo_ray.store.migrations import STEPS, no_old_verdicts, steps_after
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.schema import MEASURES, SCHEMA, SCHEMA_VERSION

DATA = Path(__file__).parents[1] / "data"
NOW = timedelta(0)


@pytest.fixture
def old_store(tmp_path):
    """A store of schema version 1, as the version of virgo_ray of that time wrote it."""
    shutil.copytree(DATA / "store_v1", tmp_path / "run")
    return tmp_path / "run"


def path_of(run_dir):
    return str(run_dir / "buffer.lance")


def versions(run_dir):
    return [v["version"] for v in lance.dataset(path_of(run_dir)).versions()]


# -- schema versions -------------------------------------------------------------------------------


def test_a_store_of_version_1_is_migrated_and_the_old_version_stays(old_store):
    before = lance.dataset(path_of(old_store))
    assert before.schema.metadata[b"virgo_ray_schema"] == b"1"
    rows = before.to_table().to_pylist()
    buffer = ReplayBuffer.open(old_store, committed_version=before.version)
    after = lance.dataset(path_of(old_store))
    assert after.schema.metadata[b"virgo_ray_schema"] == str(SCHEMA_VERSION).encode()
    assert after.schema.names == SCHEMA.names and after.version > before.version
    absent = (*MEASURES.names, "logprobs")
    added = {"old_verdicts": "[]", "opinions": "{}"} | dict.fromkeys(absent)
    assert [row | added for row in rows] == after.to_table().to_pylist()
    buffer.add(1, judged("b", 1))
    buffer.seal()
    buffer.clean([], NOW)
    assert keys(buffer, [1]) == [(1, "a", 0), (1, "a", 1), (1, "b", 0), (1, "b", 1)]
    kept = lance.dataset(path_of(old_store), version="schema-1")
    assert kept.version == before.version and kept.to_table().to_pylist() == rows


def test_a_store_of_version_4_gives_groups_before_and_after_its_migration(tmp_path):
    shutil.copytree(DATA / "store_v4", tmp_path / "run")
    reader = TraceReader.open(StoreLocation(path_of(tmp_path / "run")))
    before, rollouts = reader.groups(1), list(reader.judged([1]))
    assert {id: [m.status for m in group] for id, group in before.items()} == {
        "a": [Status.CORRECT, Status.WRONG], "b": [Status.TIMEOUT],
    }  # fmt: skip
    assert {(m.temperature, m.has_logprobs) for m in before["a"]} == {(0.8, False)}
    asked = [j.rollout.problem for j in rollouts[:1]]
    traces = reader.traces(before["a"], asked)
    assert [(t.sample_index, t.logprobs, t.temperature) for t in traces] == [
        (0, (), 0.8), (1, (), 0.8),
    ]  # fmt: skip
    buffer = ReplayBuffer.open(tmp_path / "run", committed_version=2)
    assert buffer.groups(1) == before and list(buffer.judged([1])) == rollouts
    assert buffer.traces(before["a"], asked) == traces
    new = judged("a", 2)
    sampled = Judged(replace(new.rollout, logprobs=(-1.0, -2.0, -0.5)), new.verdict)
    buffer.add(1, sampled)
    assert [m.has_logprobs for m in buffer.groups(1)["a"]] == [False, False, True]
    assert [*buffer.judged([1])][3] == sampled


@pytest.mark.parametrize(
    ("columns", "is_small"),
    [(["text"], True), ({"has": "text IS NOT NULL"}, True), (["round"], False)],
)
def test_batches_are_small_where_a_long_column_is_read(tmp_path, monkeypatch, columns, is_small):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 1)
    shutil.copytree(DATA / "store_v4", tmp_path / "run")
    reader = TraceReader.open(StoreLocation(path_of(tmp_path / "run")))
    sizes = [batch.num_rows for batch in reader.scan(columns)]
    assert sum(sizes) == 3 and (max(sizes) == 1) is is_small


def test_a_migration_that_was_interrupted_is_finished(old_store):
    dataset = lance.dataset(path_of(old_store))
    udf = lance.batch_udf(output_schema=STEPS[2].adds)(no_old_verdicts)
    dataset.add_columns(udf, read_columns=["round"])  # killed before the number was written
    buffer = ReplayBuffer.open(old_store)
    assert buffer.columns == SCHEMA.names and len(list(buffer.judged([1]))) == 3


def test_an_empty_store_of_version_1_is_migrated_too(tmp_path):
    added = {name for step in STEPS.values() for name in step.adds.names}
    fields = [SCHEMA.field(n) for n in SCHEMA.names if n not in added]
    old = pa.schema(fields, metadata={"virgo_ray_schema": "1"})
    lance.write_dataset(old.empty_table(), path_of(tmp_path))
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "c"})
    assert keys(ReplayBuffer.open(tmp_path), [1]) == [(1, "a", 0)]


def test_looking_at_an_old_store_changes_nothing(old_store):
    before = versions(old_store)
    reader = TraceReader.open(StoreLocation(path_of(old_store)))
    ((found, old),) = reader.find(1, "a", 1)
    assert (found.verdict.status, old) == (Status.WRONG, [])
    assert reader.rounds() == [1] and reader.judged_counts([1]) == {"a": (1, 2), "b": (1, 1)}
    assert versions(old_store) == before


def test_a_store_of_a_newer_version_is_refused_untouched(tmp_path):
    ReplayBuffer.open(tmp_path)
    lance.dataset(path_of(tmp_path)).update_schema_metadata({"virgo_ray_schema": "99"})
    before = versions(tmp_path)
    for opened in (
        lambda: ReplayBuffer.open(tmp_path),
        lambda: TraceReader.open(StoreLocation(path_of(tmp_path))),
    ):
        with pytest.raises(TraceStoreError, match=r"schema version 99.*reads up to"):
            opened()
    assert versions(tmp_path) == before


def test_the_chain_of_steps_has_no_gap_and_ends_at_the_present_schema():
    assert [number for number, _ in steps_after(1)] == list(range(2, SCHEMA_VERSION + 1))
    added = [name for _, step in steps_after(1) for name in step.adds.names]
    assert SCHEMA.names[-len(added) :] == added
    for step in STEPS.values():
        columns = [pa.nulls(3, SCHEMA.field(name).type) for name in step.reads]
        result = step.compute(pa.record_batch(columns, names=list(step.reads)))
        assert result.schema == step.adds and result.num_rows == 3


# -- old versions ----------------------------------------------------------------------------------


def test_cleaning_never_removes_a_version_the_ledger_names(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    named, expected = [], {}
    for round in range(1, 5):
        for index in range(10):
            fill(buffer, round, {f"p{index}": "cw"})
        named.append(buffer.seal())
        expected[named[-1]] = keys(buffer, range(5))
    num_before = len(versions(tmp_path))
    assert buffer.clean(named, NOW) > 0
    left = versions(tmp_path)
    assert set(named) <= set(left) and len(left) <= len(named) + 1 < num_before
    for version, found in expected.items():
        old = lance.dataset(path_of(tmp_path), version=version).to_table().to_pylist()
        assert sorted((r["round"], r["problem_id"], r["sample_index"]) for r in old) == found


def test_a_reader_of_a_moment_ago_can_go_on_after_cleaning(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cw"})
    reader = TraceReader.open(StoreLocation(path_of(tmp_path)))
    for index in range(5):
        fill(buffer, 2, {f"p{index}": "c"})
    buffer.clean([buffer.seal()])
    assert reader.judged_counts([1]) == {"a": (1, 2)}


def test_nothing_is_removed_where_a_named_version_is_not_there(tmp_path, caplog):
    buffer = ReplayBuffer.open(tmp_path)
    for index in range(3):
        fill(buffer, 1, {f"p{index}": "c"})
    before = versions(tmp_path)
    assert buffer.clean([99], NOW) == 0
    assert versions(tmp_path) == before and "version 99" in caplog.text


def test_a_sealed_round_lies_in_few_files(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    for index in range(20):
        fill(buffer, 1, {f"p{index}": "c"})
    buffer.seal()
    assert len(lance.dataset(path_of(tmp_path)).get_fragments()) == 1


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_buffer import ReplayBuffer, judged
from virgo_ray.errors import TraceStoreError
buffer = ReplayBuffer.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
buffer.add(1, judged("b", 0, num_tokens=500))
try:
    buffer.flush()
except TraceStoreError as error:
    print(error)
"""


def test_an_append_whose_last_bytes_find_no_room_is_not_committed(tmp_path):
    """Lance itself commits it, and the store can then not be read."""
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cw"})
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(here)],
        capture_output=True, text=True, cwd=here.parents[1], timeout=300, check=False,
    )  # fmt: skip
    assert "could not be appended" in done.stdout and "has 3000 bytes" in done.stdout, done.stderr
    again = ReplayBuffer.open(tmp_path)
    assert again.version == buffer.version and keys(again, [1]) == [(1, "a", 0), (1, "a", 1)]


# -- damage, and other runs ------------------------------------------------------------------------


def test_a_damaged_newest_version_says_what_can_still_be_read(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cw"})
    committed = buffer.seal()
    fill(buffer, 1, {"b": "c"})
    newest = tmp_path / "buffer.lance/_versions" / f"{2**64 - 1 - buffer.version}.manifest"
    newest.write_bytes(newest.read_bytes()[:100])
    size = newest.stat().st_size
    with pytest.raises(TraceStoreError, match=f"version {committed}.*still be read.* 2 rollouts"):
        ReplayBuffer.open(tmp_path, committed_version=committed)
    assert newest.stat().st_size == size
    newest.rename(tmp_path / "aside")
    assert keys(ReplayBuffer.open(tmp_path, committed), [1]) == [(1, "a", 0), (1, "a", 1)]


def test_a_truncated_data_file_is_a_named_error(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cw"})
    (file,) = (tmp_path / "buffer.lance/data").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(TraceStoreError, match="cannot be read at version 2"):
        TraceReader.open(StoreLocation(path_of(tmp_path))).judged_counts([1])
    with pytest.raises(TraceStoreError, match=r"has 50 bytes, expected \d+"):
        ReplayBuffer.open(tmp_path)


def test_a_store_that_vanished_is_not_begun_anew(tmp_path):
    buffer = ReplayBuffer.open(tmp_path / "run")
    fill(buffer, 1, {"a": "c"})
    (tmp_path / "run").rename(tmp_path / "lost")  # as when a network file system goes away
    buffer.add(1, judged("b"))
    with pytest.raises(TraceStoreError, match="vanished"):
        buffer.flush()
    assert not (tmp_path / "run").exists()
    (tmp_path / "lost").rename(tmp_path / "run")
    buffer.flush()
    assert keys(ReplayBuffer.open(tmp_path / "run"), [1]) == [(1, "a", 0), (1, "b", 0)]


def test_a_store_the_ledger_relies_on_is_never_made_anew(tmp_path):
    with pytest.raises(TraceStoreError, match="is gone, the ledger relies on its version 3"):
        ReplayBuffer.open(tmp_path, committed_version=3)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_cannot_share_a_store(tmp_path):
    store = StoreConfig(path=str(tmp_path / "shared.lance"))
    buffer = ReplayBuffer.open(tmp_path / "a", store=store, owner="tiny-1")
    fill(buffer, 1, {"a": "c"})
    assert keys(ReplayBuffer.open(tmp_path / "a", store=store, owner="tiny-1"), [1])
    with pytest.raises(TraceStoreError, match="belongs to run 'tiny-1', this is run 'tiny-2'"):
        ReplayBuffer.open(tmp_path / "b", store=store, owner="tiny-2")


def test_credentials_are_refused_in_a_config_and_named_by_their_variable(tmp_path):
    with pytest.raises(ConfigError, match="aws_secret_access_key is a credential"):
        load_config("configs/tiny.yaml", ["store.storage_options.aws_secret_access_key=x"])
    cfg = load_config(
        "configs/tiny.yaml",
        ["store.path=s3://b/x.lance", "store.storage_options={allow_http: true, region: eu}"],
    )
    assert cfg.store.storage_options == {"allow_http": "true", "region": "eu"}


def test_an_address_out_of_reach_is_a_named_error():
    location = StoreLocation(
        "s3://no-such-bucket/x.lance",
        {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "region": "eu",
         "aws_access_key_id": "a", "aws_secret_access_key": "b", "client_max_retries": "0",
         "retry_timeout": "1"},
    )  # fmt: skip
    with pytest.raises(TraceStoreError, match=r"store\.storage_options"):
        open_for_writing(location, None, "")


def test_what_a_ledger_may_name_was_forced_to_the_disk(tmp_path, monkeypatch):
    """Every file of the sealed version is synced, and none twice."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))
    )
    buffer = ReplayBuffer.open(tmp_path)
    for round in (1, 2):
        fill(buffer, round, {"a": "cw"})
        buffer.seal()
    dataset = lance.dataset(path_of(tmp_path))
    files = [f.path for fragment in dataset.get_fragments() for f in fragment.metadata.files]
    names = [Path(path).name for path in synced]
    assert set(files) <= set(names) and f"{2**64 - 1 - buffer.version}.manifest" in names
    data = [name for name in names if name.endswith(".lance") and name != "buffer.lance"]
    assert len(data) == len(set(data))


# -- checksums -------------------------------------------------------------------------------------


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_single_bit_that_flips_in_a_sealed_file_is_found(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "cw", "b": "c"})
    committed = buffer.seal()
    (file,) = files_of(tmp_path)
    size = file.stat().st_size
    for at in range(0, size, max(1, size // 50)):
        flip(file, at)
        with pytest.raises(TraceStoreError, match=r"checksum differs \(3 rollouts\).* repair RUN"):
            ReplayBuffer.open(tmp_path, committed)
        flip(file, at)
    assert len(keys(ReplayBuffer.open(tmp_path, committed), [1])) == 3


def files_of(run_dir):
    """The data files of the newest version."""
    found = lance.dataset(path_of(run_dir)).get_fragments()
    return [run_dir / "buffer.lance/data" / f.path for x in found for f in x.metadata.files]


def test_files_are_hashed_once_and_those_that_are_gone_are_forgotten(tmp_path, monkeypatch):
    buffer = ReplayBuffer.open(tmp_path)
    hashed = []
    monkeypatch.setattr(sums, "sha256_of", lambda path: hashed.append(path) or "0")
    for round in (1, 2):
        fill(buffer, round, {"a": "c"})
        buffer.seal()
    assert len(hashed) == len(set(hashed)) == 2
    buffer.clean([], older_than=NOW)
    fill(buffer, 3, {"a": "c"})
    buffer.seal()
    known = sums.read_sums(tmp_path / "buffer.lance")
    assert all((tmp_path / "buffer.lance" / name).is_file() for name in known)


def test_checksums_that_are_damaged_themselves_are_named(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    fill(buffer, 1, {"a": "c"})
    buffer.seal()
    path = tmp_path / "buffer.lance" / sums.SUMS_NAME
    path.write_text("{")
    with pytest.raises(TraceStoreError, match=r"checksums\.json is damaged.* delete it"):
        ReplayBuffer.open(tmp_path)
    path.unlink()
    ReplayBuffer.open(tmp_path).seal()
    assert path.exists()


def test_a_damaged_fragment_is_dropped_and_the_others_stay(tmp_path):
    buffer = ReplayBuffer.open(tmp_path)
    for round in (1, 2):
        fill(buffer, round, {"a": "cw"})
    location = StoreLocation(path_of(tmp_path))
    dataset = open_for_writing(location, None, "")
    first, _ = files_of(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])
    (damage,) = sums.find_damage(dataset, location)
    assert (damage.num_rows, "bytes, expected" in damage.why) == (2, True)
    sums.drop_fragments(dataset, [damage])
    assert keys(ReplayBuffer.open(tmp_path), [1, 2]) == [(2, "a", 0), (2, "a", 1)]


def with_deletion_files(run_dir, *ids):
    """A store from which these problems went one by one; returns its deletion files, in order."""
    buffer = ReplayBuffer.open(run_dir)
    fill(buffer, 1, dict.fromkeys((*ids, "kept"), "cw"))
    found = []
    for id in ids:
        buffer.set_aside([id])
        buffer.seal()
        (fragment,) = lance.dataset(path_of(run_dir)).get_fragments()
        found.append(run_dir / "buffer.lance" / fragment.deletion_file())
    assert len(set(found)) == len(ids)
    return found


def test_damage_of_a_deletion_file_counts_while_it_is_read_and_not_later(tmp_path):
    old, live = with_deletion_files(tmp_path, "a", "b")
    flip(old, old.stat().st_size // 2)
    assert keys(ReplayBuffer.open(tmp_path), [1]) == [(1, "kept", 0), (1, "kept", 1)]
    flip(live, live.stat().st_size // 2)
    with pytest.raises(TraceStoreError, match=r"_deletions/.* checksum differs"):
        ReplayBuffer.open(tmp_path)


def test_a_deletion_file_that_is_gone_is_damage(tmp_path):
    (live,) = with_deletion_files(tmp_path, "a")
    live.unlink()
    with pytest.raises(TraceStoreError, match=r"_deletions/.* is gone"):
        ReplayBuffer.open(tmp_path)
