import json

import pytest
from datasets import Dataset
from strict_reading import load_seed_thoughts

from virgo_ray.config import SeedThoughtsConfig
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.errors import DataError

LONG = "<|begin_of_thought|>\n\n3 + 4 is 7.\n\n<|end_of_thought|>\n\n7"


def load(path, rows, seed=0, **fields):
    path = path / "thoughts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_seed_thoughts(SeedThoughtsConfig(reader="jsonl", path=str(path), **fields), seed)


def test_thoughts_are_read_in_both_schemas(tmp_path):
    rows = [
        {"question": "3 + 4?", "thought": LONG, "answer": 7, "source": "sums", "context": "3, 4"},
        {"question": "3 + 4?", "combined_text": LONG, "domain": "math"},
    ]
    ours, still2 = load(tmp_path, rows)
    assert ours.thought == still2.thought == LONG
    assert (ours.problem.answer, ours.problem.source, ours.problem.context) == ("7", "sums", "3, 4")
    assert (still2.problem.answer, still2.problem.source) == ("", "math")


def test_several_thoughts_of_one_question_are_different_records(tmp_path):
    rows = [{"question": "3 + 4?", "thought": LONG + str(i)} for i in range(3)]
    assert len({t.problem.id for t in load(tmp_path, rows)}) == 3


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"question": "", "thought": LONG}, "row 1: empty question"),
        ({"question": "3 + 4?"}, "row 1: empty thought: expected text in 'thought', 'comb"),
        ({"question": "?", "thought": LONG, "images": ["a.png"]}, "row 1: has an image"),
    ],
)
def test_a_thought_that_cannot_be_used_is_named(tmp_path, broken, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, [broken])


def test_puzzle_thoughts_have_no_image_and_come_long_or_short():
    long, short = (
        load_seed_thoughts(SeedThoughtsConfig(reader="tiny", split="seed", num=8, style=style), 0)
        for style in ("long", "short")
    )
    assert [t.problem for t in long] == [t.problem for t in short]
    assert all(t.problem.context and not t.problem.images for t in long)
    assert all(len(a.thought) > 5 * len(b.thought) for a, b in zip(long, short, strict=True))


def test_puzzle_thoughts_come_in_the_format_that_the_prompt_asks_for():
    source = SeedThoughtsConfig(reader="tiny", split="seed", num=4)
    (reading,) = read_seed_thoughts(source, 0, "think")
    assert all(
        t.thought.startswith("<think>\n") and "_of_" not in t.thought for _, t in reading.taken
    )
    bare = source.model_copy(update={"style": "short"})
    (reading,) = read_seed_thoughts(bare, 0, "think")
    assert not any("<" in thought.thought for _, thought in reading.taken)


def test_a_dataset_on_disk_is_read(tmp_path):
    rows = [{"question": f"{i}?", "thought": LONG} for i in range(9)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    source = SeedThoughtsConfig(reader="dataset", path=str(tmp_path / "saved"), num=4)
    chosen = load_seed_thoughts(source, 0)
    assert chosen == load_seed_thoughts(source, 0) != load_seed_thoughts(source, 1)


def test_pictures_only_readers_say_so():
    with pytest.raises(DataError, match="no textual long thoughts; expected one of tiny"):
        load_seed_thoughts(SeedThoughtsConfig(reader="easyvqa", num=1), 0)
