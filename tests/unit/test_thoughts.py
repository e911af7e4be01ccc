import json
from pathlib import Path

import pytest
from strict_reading import load_seed_thoughts

from virgo_ray.config import SeedThoughtsConfig, load_config
from virgo_ray.data.rows import RowError
from virgo_ray.data.seed_thoughts import proportions, read_seed_thoughts
from virgo_ray.data.thoughts import convert_thought, thought_text
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.verify.answers.extract import extract

DATA = Path(__file__).parents[1] / "data"
TAGS = (
    "<|begin_of_thought|>\n\n3 + 4 is 7.\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nIt is \\boxed{7}.\n\n<|end_of_solution|>"
)
THINK = "<think>\n3 + 4 is 7.\n</think>\n\nIt is \\boxed{7}."

# Schemas as published; the content is made up.
PUBLISHED = {
    "STILL-2": {"combined_text": TAGS, "domain": "math"},
    "R1": {"response": "<think>\n3 + 4 is 7.\n</think>\n\nIt is \\boxed{7}."},
    "R1 without its begin tag": {"output": "3 + 4 is 7.</think>It is \\boxed{7}."},
    "OpenR1-Math": {"generations": [THINK, "<think>other"], "answer": "7"},
    "s1K": {"thinking_trajectories": ["3 + 4 is 7."], "attempt": "It is \\boxed{7}.",
            "solution": "7", "cot_type": "math"},
    "s1K-1.1": {"deepseek_thinking_trajectory": "3 + 4 is 7.",
                "deepseek_attempt": "It is \\boxed{7}.", "solution": "7"},
    "LIMO": {"solution": "3 + 4 is 7.\n\n**Final Answer**\n\nIt is \\boxed{7}.", "answer": "7"},
    "LIMO without a heading": {"solution": "3 + 4 is 7.\n\nIt is \\boxed{7}.", "answer": "7"},
    "Sky-T1": {"thought": "3 + 4 is 7.", "solution": "It is \\boxed{7}."},
}  # fmt: skip


def load(path, rows, seed=0, count=None, **fields):
    path = path / "thoughts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = SeedThoughtsConfig(reader="jsonl", path=str(path), **fields)
    return load_seed_thoughts(source, seed, "tags", count)


@pytest.mark.parametrize("form", PUBLISHED)
def test_every_published_form_becomes_one_format(form):
    assert thought_text(PUBLISHED[form], "tags") == TAGS
    assert thought_text(PUBLISHED[form], "think") == THINK


def test_the_verifier_reads_the_answer_of_both_formats():
    assert extract(TAGS).answer == extract(THINK).answer == "7"


def test_a_text_in_the_wanted_format_is_not_touched():
    odd = "<|begin_of_thought|>a<|end_of_thought|>  <|begin_of_solution|>7<|end_of_solution|> "
    assert convert_thought(odd, "tags") == odd


def test_an_own_untagged_thought_stays_as_it_is():
    assert thought_text({"thought": "Just 7."}, "tags") == "Just 7."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response": "<think>3 + 4 is"}, "thought cut off"),
        ({"combined_text": TAGS.partition("<|end_of_thought|>")[0]}, "thought cut off"),
        ({"response": "<think></think>7"}, "nothing inside"),
        ({"response": "<think>3 + 4</think> "}, "no answer after"),
        ({"solution": "It is 7."}, "neither tags nor"),
        ({"solution": "It is \\boxed{7}."}, "neither tags nor"),
        ({"query": "3 + 4?"}, "the row has query"),
        ({"thought": 7}, "the row has thought"),
    ],
)
def test_thoughts_that_cannot_be_used_are_named(fields, message):
    with pytest.raises(RowError, match=message):
        thought_text(fields, "tags")


def test_real_long_thoughts_are_read():
    source = SeedThoughtsConfig(
        reader="jsonl",
        path=str(DATA / "longthought" / "skyt1_longthought.jsonl"),
        fields={"answer": "gold", "domain": "bench"},
    )
    thoughts = load_seed_thoughts(source, 0)
    assert len(thoughts) == 2 and {t.problem.source for t in thoughts} == {"amc23"}
    for thought in thoughts:
        assert thought.thought.startswith("<|begin_of_thought|>\n\n")
        assert extract(thought.thought).answer == thought.problem.answer


def test_chats_hold_thoughts_too(tmp_path):
    chat = {"messages": [{"role": "user", "content": "3 + 4?"},
                         {"role": "assistant", "content": THINK}]}  # fmt: skip
    parts = {"messages": [{"role": "user", "content": "3 + 4?"},
                          {"role": "assistant", "content": "It is \\boxed{7}.",
                           "reasoning_content": "3 + 4 is 7."}]}  # fmt: skip
    path = tmp_path / "chat.jsonl"
    for record in (chat, parts):
        path.write_text(json.dumps(record))
        source = SeedThoughtsConfig(reader="chat", path=str(path))
        (thought,) = load_seed_thoughts(source, 0)
        assert (thought.problem.question, thought.thought) == ("3 + 4?", TAGS)


# -- length and domains ----------------------------------------------------------------------------


def rows_of(**counts):
    return [
        {"question": f"{domain} {i}?", "combined_text": TAGS, "domain": domain}
        for domain, count in counts.items()
        for i in range(count)
    ]


def test_thoughts_outside_the_length_band_are_left_out_and_counted(tmp_path):
    rows = rows_of(math=3)
    rows[1]["combined_text"] = TAGS.replace("is 7", "is 7" * 50)
    rows[2]["combined_text"] = TAGS.replace("3 + 4 is 7.", "7")
    path = tmp_path / "thoughts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = SeedThoughtsConfig(reader="jsonl", path=str(path), min_tokens=14, max_tokens=20)
    (reading,) = read_seed_thoughts(source, 0, "tags", lambda text: len(text) // 8)
    assert [t.problem.question for t in reading.records] == ["math 0?"]
    assert sum(reading.left_out.values()) == 2 and not reading.faults
    with pytest.raises(DataError, match="need a tokenizer"):
        load_seed_thoughts(source, 0)


def test_domain_shares_are_met_and_do_not_depend_on_the_order_of_domains(tmp_path):
    rows = rows_of(math=20, science=10, code=10, chat=5)
    shares = {"math": 0.6, "science": 0.3, "code": 0.1}
    chosen = load(tmp_path, rows, num=10, shares=shares)
    domains = [t.problem.source for t in chosen]
    assert {d: domains.count(d) for d in shares} == {"math": 6, "science": 3, "code": 1}
    assert load(tmp_path, rows, num=10, shares=shares) == chosen
    assert load(tmp_path, rows, seed=1, num=10, shares=shares) != chosen
    with pytest.raises(DataError, match=r"holds 22 usable rows .* num=24"):
        load(tmp_path, rows, num=24, shares={"math": 1, "science": 1})


@pytest.mark.parametrize("num", range(1, 40))
def test_proportions_add_up(num):
    shares = {"math": 3.7, "science": 0.9, "code": 0.2, "puzzle": 0.1}
    counts = proportions(shares, num)
    assert sum(counts.values()) == num
    total = sum(shares.values())
    assert all(abs(counts[d] - s / total * num) < 1 for d, s in shares.items())


def test_shares_need_a_number():
    with pytest.raises(ConfigError, match="shares need `num`"):
        load_config(
            "configs/tiny.yaml", ["data.seed_thoughts={reader: tiny, num: null, shares: {a: 1}}"]
        )
