"""`traces export`: what other programs read is what was trained, and nothing is lost unsaid."""

import json
import re
import shutil
import sys

import datasets
import pytest
from PIL import Image
from test_traces import commit_round, error, output

from virgo_ray.config import load_config
from virgo_ray.data.contents import CheckedContents, contents_of
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.control import SafeEncoder
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.processor import load_processor
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import (
    AnswerType,
    FitReport,
    Judged,
    Problem,
    Rollout,
    Status,
    Tally,
    Verdict,
    Weights,
)
from virgo_ray.selection.training_set import add_seeds
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.schema import to_problem
from virgo_ray.traces.__main__ import main
from virgo_ray.train.pack import count_portions
from virgo_ray.verify.answers.extract import solution_part

TEMPLATE = (TINY_DIRECTORY / "chat_template.jinja").read_text()
OPENS = TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
STATUS = {"c": Status.CORRECT, "w": Status.WRONG, "n": Status.NO_ANSWER}


def text_of(id, index, letter, more=0):
    said = {"c": "7", "w": "6", "n": ""}[letter]
    thought = f"{'Wait. ' * (1 + more)}I count {id}, {index} times."
    return f"<think>\n{thought}\n</think>\n\nIt is \\boxed{{{said}}}."


class MadeRun:
    """A run whose rollouts are sampled ids of the model itself."""

    def __init__(self, folder, template=TEMPLATE, overrides=()):
        self.folder, self.opened = folder, template != TEMPLATE
        model = folder / "model"
        shutil.copytree(TINY_DIRECTORY, model)
        (model / "chat_template.jinja").write_text(template)
        Image.new("RGB", (8, 4), "red").save(folder / "cat.png")
        self.dir = folder / "run"
        self.cfg = load_config(
            "configs/tiny.yaml",
            [f"run_dir={self.dir}", f"model.path={model}", "prompt.template=think",
             "data.seed_thoughts.num=6", *overrides],
        )  # fmt: skip
        self.prompter = Prompter(self.cfg.model, self.cfg.prompt)
        self.processor = load_processor(self.cfg.model, str(model))
        self.examples = {}
        self.sampling = {"top_p": 1.0, "seed": 3}
        ledger = Ledger.open(self.cfg, Weights(0, "base"))
        self._buffer = ReplayBuffer.open(self.dir, owner=ledger.wandb_id)
        commit_round(ledger, 0, self._buffer.seal())
        ledger.close()

    def add(self, round, id, letters, question=None, text=None, finish="stop", more=(0,) * 9):
        for index, letter in reversed(list(enumerate(letters))):  # as they may finish
            said = text or text_of(id, index, letter, more[index])
            problem = Problem(
                id, question or f"How many {id}?", "7", (str(self.folder / "cat.png"),),
                f"zoo/{id[0]}", AnswerType.NUMBER,
            )  # fmt: skip
            sampled = said.removeprefix("<think>\n") if self.opened else said
            ids = (*SafeEncoder(self.processor.tokenizer).encode(sampled), self.prompter.end_id)
            stored = self.prompter.decode(ids)
            rollout = Rollout(problem, index, stored, ids, finish, 1, self.sampling)
            verdict = Verdict(STATUS[letter], "7", "boxed", AnswerType.NUMBER, "9", 0.5)
            self._buffer.add(round, Judged(rollout, verdict))
            self.examples[round, id, index] = self.prompter.example("e", problem, ids)
        self._buffer.flush()

    def export(self, capsys, format, *options, out="out"):
        out = self.folder / out
        return output(capsys, "export", self.dir, "--format", format, "--out", out, *options)

    def trained(self):
        return sorted([*e.prompt_ids, *e.target_ids] for e in self.examples.values())

    def rendered(self, prompt, completion):
        """The ids before and after where a program like TRL begins its loss."""
        template = self.processor.apply_chat_template
        before = template(clean(prompt), add_generation_prompt=True, tokenize=False)
        whole = template(clean([*prompt, *completion]), tokenize=False)
        assert whole.startswith(before)
        encode = self.processor.tokenizer.encode
        return encode(before), encode(whole[len(before) :])


def clean(messages):
    """Without the nulls of a table, as TRL removes them too."""
    return [
        {"role": m["role"], "content": [{k: v for k, v in p.items() if v} for p in m["content"]]}
        for m in messages
    ]


@pytest.fixture
def made(tmp_path):
    run = MadeRun(tmp_path)
    run.add(1, "a", "cc")
    run.add(1, "b", "cwwn")
    run.add(2, "a", "wc")
    return run


def load(folder):
    return datasets.load_dataset(
        "parquet", data_files=str(folder / "data/*.parquet"), split="train", cache_dir=folder / "c"
    )


# -- Parquet ---------------------------------------------------------------------------------------


def test_parquet_opens_with_its_pictures_and_without_directories(made, capsys):
    said = made.export(capsys, "parquet")
    (made.folder / "cat.png").unlink()
    assert "4 rollouts written" in said
    assert "3 are not accepted (wrong)" in said and "1 are not accepted (no_answer)" in said
    found = load(made.folder / "out")
    assert isinstance(found.features["images"].feature, datasets.Image) and len(found) == 4
    assert found[0]["images"][0].size == (8, 4) and found[0]["gold"] == "7"
    raw = found.cast_column("images", datasets.List(datasets.Image(decode=False)))
    assert raw[0]["images"][0]["path"] == "cat.png" and raw[0]["images"][0]["bytes"]
    for file in (made.folder / "out").rglob("*"):
        assert file.is_dir() or str(made.folder).encode() not in file.read_bytes()
    shutil.rmtree(made.folder / "out/c")
    assert len(datasets.load_dataset(str(made.folder / "out"), split="train")) == 4


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_neither_the_place_of_a_teacher_nor_what_an_endpoint_said_is_exported(
    tmp_path, capsys, format
):
    made = MadeRun(tmp_path)
    made.sampling = {"teacher": "/models/ann/qvq", "declined": "HTTP 400: org-7, request 9"}
    made.add(1, "a", "cn")
    made.export(capsys, format, "--all")
    if format == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
        assert [r["sampling"] for r in rows] == [{"teacher": "qvq"}] * 2
        return
    assert [json.loads(r["sampling"]) for r in load(tmp_path / "out")] == [{"teacher": "qvq"}] * 2
    card = (tmp_path / "out/README.md").read_text()
    assert "| teacher qvq | 2 |" in card and "/models" not in card and "org-7" not in card


def test_many_rows_become_several_files(made, capsys, monkeypatch):
    monkeypatch.setattr("virgo_ray.traces.parquet.GROUP_ROWS", 1)
    monkeypatch.setattr("virgo_ray.traces.parquet.SHARD_BYTES", 1)
    made.export(capsys, "parquet")
    names = sorted(p.name for p in (made.folder / "out/data").iterdir())
    assert names == [f"train-{i:05}-of-00004.parquet" for i in range(4)]
    assert len(load(made.folder / "out")) == 4


@pytest.mark.parametrize("format", ["parquet", "trl"])
def test_one_file_is_written_where_its_name_says_so(made, capsys, format):
    made.export(capsys, format, out="a.parquet")
    file = str(made.folder / "a.parquet")
    found = datasets.load_dataset("parquet", data_files=file, cache_dir=made.folder / "c")
    assert found["train"].num_rows == 4 and found["train"][0]["images"][0].size == (8, 4)
    made.export(capsys, format, "--round", 2, "--overwrite", out="a.parquet")


# -- chats: the ids that other programs train on are those that were trained -----------------------


@pytest.mark.parametrize("template", [TEMPLATE, OPENS], ids=["plain", "opens a thought"])
def test_every_format_gives_the_ids_that_were_trained(tmp_path, capsys, template):
    made = MadeRun(tmp_path, template)
    made.add(1, "a", "cc")
    made.add(1, "b", "cw")
    prompts = {example.prompt_ids for example in made.examples.values()}
    assert all(
        made.processor.tokenizer.decode(ids).endswith("<think>\n") == made.opened for ids in prompts
    )
    for judged in ReplayBuffer.open(made.dir).judged([1]):
        assert judged.rollout.text.count("<think>") == 1
        assert solution_part(judged.rollout.text).text.strip().startswith("It is \\boxed{")
    trained = made.trained()

    assert "3 rollouts" in made.export(capsys, "trl", out="trl")
    correct = {k: e for k, e in made.examples.items() if k != (1, "b", 1)}
    pairs = [made.rendered(r["prompt"], r["completion"]) for r in load(tmp_path / "trl")]
    tail = made.processor.tokenizer.encode("\n")
    assert sorted(pairs) == sorted(
        (list(e.prompt_ids), [*e.target_ids, *tail]) for e in correct.values()
    )

    assert "1 pairs" in made.export(capsys, "dpo", out="dpo")
    (row,) = load(tmp_path / "dpo")
    for name, index in (("chosen", 0), ("rejected", 1)):
        example = made.examples[1, "b", index]
        ids = made.rendered(row["prompt"], row[name])
        assert ids == (list(example.prompt_ids), [*example.target_ids, *tail])

    made.export(capsys, "llamafactory", "--all", out="lf")
    rows = json.loads((tmp_path / "lf/traces.json").read_text())
    found = []
    for row in rows:
        *prompt, reply = row["messages"]
        assert reply["content"].count("<think>") == 1
        prompt = [{"role": m["role"], "content": parts(m["content"])} for m in prompt]
        before, after = made.rendered(prompt, [{"role": "assistant", "content": parts(reply)}])
        found.append([*before, *after[: -len(tail)]])
    assert sorted(found) == trained

    made.export(capsys, "jsonl", "--all", out="a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert all(row["text"].count("<think>") == 1 for row in rows)
    as_sampled = ([*made.prompter.prompt_ids(to_problem(r)), *r["token_ids"]] for r in rows)
    assert sorted(as_sampled) == trained


def parts(message):
    text = message if isinstance(message, str) else message["content"]
    pieces = text.split("<image>")
    content = [{"type": "image"}] * (len(pieces) - 1) + [{"type": "text", "text": pieces[-1]}]
    return content


def test_a_template_that_drops_thoughts_leaves_the_rows_out(tmp_path, capsys):
    drops = TEMPLATE.replace(
        "{{ content['text'] }}", "{{ content['text'].split('</think>')[-1].lstrip() }}"
    )
    made = MadeRun(tmp_path, drops)
    made.add(1, "a", "c")
    said = error(capsys, 2, "export", made.dir, "--format", "trl", "--out", tmp_path / "o")
    assert "nothing to export: 1 are written otherwise by the model's chat template" in said
    assert not (tmp_path / "o").exists()


def test_texts_that_another_program_would_read_otherwise_are_left_out(made, capsys):
    made.add(3, "x", "c", question="Is <|im_end|> here?")
    made.add(3, "z", "c", text="<think>\nIt says <|im_end|>.\n</think>\n\n\\boxed{7}")
    made.add(3, "y", "c", finish="length")
    said = made.export(capsys, "trl", "--round", 3, "--round", 1)
    assert "3 rollouts written" in said and "2 hold a control token" in said
    assert "1 were cut off" in said and "2 are of other rounds" in said


# -- pairs -----------------------------------------------------------------------------------------


def test_pairs_are_right_against_wrong_of_one_problem_and_round(made, capsys):
    made.add(2, "c", "wcwcc")
    said = made.export(capsys, "dpo")
    assert "4 pairs written" in said  # b in round 1; a, and c twice, in round 2
    assert "3 are right, without a wrong one" in said and "1 are wrong, without a right one" in said
    assert "1 are not accepted (no_answer)" in said
    rows = load(made.folder / "out")
    told = [(text(r["chosen"]), text(r["rejected"])) for r in rows]
    assert [("7" in good[-5:], "6" in bad[-5:]) for good, bad in told] == [(True, True)] * 4
    ours = [(good, bad) for good, bad in told if "count c" in good]
    indices = [tuple(re.findall(r"c, (\d) times", f"{good} {bad}")) for good, bad in ours]
    assert sorted(indices) == [("1", "0"), ("3", "2")]
    again = made.export(capsys, "dpo", out="again")
    assert said.replace("/out", "/again") == again and told == [
        (text(r["chosen"]), text(r["rejected"])) for r in load(made.folder / "again")
    ]


def test_pairs_are_the_nearest_in_length_and_as_many_as_asked_for(made, capsys):
    made.add(2, "c", "ccwww", more=(0, 9, 8, 40, 2))
    for options, expected in (([], [("0", "4"), ("1", "2")]), (["--pairs", 1], [("1", "2")])):
        out = f"out{len(options)}"
        said = made.export(capsys, "dpo", *options, out=out)
        texts = [text(r["chosen"]) + text(r["rejected"]) for r in load(made.folder / out)]
        found = [re.findall(r"count c, (\d) times", t) for t in texts if "count c" in t]
        assert sorted(map(tuple, found)) == expected
        beyond = "2 are right or wrong, beyond 1 pairs of a problem and round"
        assert (beyond in said) == bool(options)
    for options in (["--format", "trl", "--pairs", "1"], ["--format", "dpo", "--pairs", "0"]):
        with pytest.raises(SystemExit, match="2"):
            sys.exit(main(["export", str(made.dir), "--out", str(made.folder / "o"), *options]))


def test_pairs_of_what_was_not_accepted_are_refused(made, capsys):
    for option in (["--all"], ["--chosen", 1, "--seed-thoughts"]):
        command = ["export", made.dir, "--format", "dpo", "--out", made.folder / "o", *option]
        assert "expected neither --all nor" in error(capsys, 2, *command)


def text(messages):
    ((part,),) = (m["content"] for m in messages)
    return part["text"]


# -- LLaMA-Factory ---------------------------------------------------------------------------------


def test_llamafactory_gets_sharegpt_with_as_many_marks_as_pictures(made, capsys):
    made.add(3, "m", "c", text="<think>\nAn <audio> it is.\n</think>\n\n\\boxed{7}")
    made.add(3, "v", "c", question="Is <video> a tag?")
    made.add(3, "i", "c", question="Where is <image> put?")
    said = made.export(capsys, "llamafactory")
    assert "4 rollouts" in said and "3 hold <image>, <video>, <audio>" in said
    info = json.loads((made.folder / "out/dataset_info.json").read_text())["virgo_traces"]
    rows = json.loads((made.folder / "out" / info["file_name"]).read_text())
    assert info["formatting"] == "sharegpt" and len(rows) == 4
    row = rows[0]
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][1]["content"].startswith("<image>Put the final answer")
    assert row["messages"][1]["content"].endswith("How many a?")
    assert row["images"] == [str(made.folder / "cat.png")]
    for row in rows:
        whole = "".join(m["content"] for m in row["messages"])
        assert whole.count("<image>") == len(row["images"]) == 1
        assert "<video>" not in whole and "<audio>" not in whole


# -- seed thoughts ---------------------------------------------------------------------------------


def keep_seeds(made):
    """What a run keeps of the seed thoughts that it read."""
    (reading,) = read_seed_thoughts(made.cfg.data.seed_thoughts, made.cfg.seed, "think")
    thoughts = list(reading.records)
    CheckedContents(contents_of({"data.seed_thoughts": thoughts}, str.encode)).keep(made.dir)
    return thoughts


def test_an_export_of_a_training_set_says_or_includes_its_seed_thoughts(tmp_path, capsys):
    made = MadeRun(tmp_path, overrides=["train.seed_share=0.6", "train.seed_floor=0"])
    made.add(1, "a", "c")
    made.add(1, "b", "c")
    (made.dir / "data").mkdir()
    assert "an unknown number of seed thoughts" in made.export(capsys, "jsonl", "--chosen", 1)
    (made.dir / "ledger.json").rename(tmp_path / "ledger.json")
    thoughts = keep_seeds(made)
    (tmp_path / "ledger.json").rename(made.dir / "ledger.json")
    said = made.export(capsys, "jsonl", "--chosen", 1, out="b.jsonl")
    assert "3 seed thoughts belong to the training set of round 1 too and are not in" in said
    said = made.export(capsys, "trl", "--chosen", 1, "--seed-thoughts", out="c")
    assert "5 rollouts" in said and "belong" not in said
    rows = list(load(tmp_path / "c"))
    assert [len(r["images"]) for r in rows] == [0, 0, 0, 1, 1]
    known = {t.thought: t.problem for t in thoughts}
    for row in rows[:3]:
        thought = text(row["completion"])
        example = made.prompter.example("e", known[thought], thought)
        before, after = made.rendered(row["prompt"], row["completion"])
        assert (before, after[:-1]) == (list(example.prompt_ids), list(example.target_ids))
    command = ["export", made.dir, "--format", "jsonl", "--out", tmp_path / "d", "--seed-thoughts"]
    assert "expected --chosen ROUND" in error(capsys, 2, *command)


def test_seed_thoughts_that_a_floor_put_back_are_exported_too(tmp_path, capsys):
    made = MadeRun(tmp_path, overrides=["train.seed_share=0", "train.seed_floor=0.5"])
    made.add(1, "a", "c")
    (made.dir / "data").mkdir()
    thoughts = keep_seeds(made)
    seeds = [made.prompter.example(s.problem.id, s.problem, s.thought) for s in thoughts]
    mixed = add_seeds(made.cfg, 1, seeds, list(made.examples.values()))
    command = ["export", made.dir, "--format", "jsonl", "--chosen", 1, "--seed-thoughts"]
    assert "round 1 is not trained yet" in error(capsys, 2, *command, "--out", tmp_path / "a")
    assert "an unknown number of seed thoughts" in made.export(capsys, "jsonl", "--chosen", 1)
    ledger = Ledger.reopen(made.dir)
    ledger.commit_tally(1, 1, Tally())
    report = FitReport(Weights(2, "w"), 1, 1, 1, 1, 2.0, 1.0, 1.0, 0, count_portions(mixed))
    ledger.commit_fit(1, report)
    ledger.close()
    said = made.export(capsys, "jsonl", "--chosen", 1, out="b")
    assert f"{len(mixed) - 1} seed thoughts belong" in said
    made.export(capsys, "jsonl", "--chosen", 1, "--seed-thoughts", out="c")
    rows = [json.loads(line) for line in (tmp_path / "c").read_text().splitlines()]
    assert [row["problem_id"] for row in rows] == [*(e.id for e in mixed[:-1]), "a"]
    assert 1 < len(mixed) < len(seeds)


def test_seed_thoughts_that_changed_are_refused(made, capsys):
    (made.dir / "data").mkdir()
    changed = {"data.seed_thoughts": {"gone": "0" * 16}}
    (made.dir / "data/contents.json").write_text(json.dumps(changed))
    command = ["export", made.dir, "--format", "jsonl", "--out", made.folder / "d"]
    said = error(capsys, 2, *command, "--chosen", 1, "--seed-thoughts")
    assert "1 seed thoughts are not what the run was trained on, the first is 'gone'" in said


# -- what is there already -------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "hf", "parquet", "llamafactory"])
def test_an_earlier_export_is_replaced_only_when_told(made, capsys, format):
    command = ["export", made.dir, "--format", format, "--out", made.folder / "out"]
    made.export(capsys, format)
    assert "replace it with --overwrite" in error(capsys, 2, *command)
    assert "1 rollouts" in made.export(capsys, format, "--round", 2, "--overwrite")
    assert sorted(p.name for p in made.folder.iterdir()) == ["cat.png", "model", "out", "run"]


def test_what_no_export_wrote_is_never_replaced(made, capsys):
    made.export(capsys, "parquet")
    (made.folder / "out/thesis.tex").write_text("mine")
    command = ["export", made.dir, "--format", "hf", "--out", made.folder / "out", "--overwrite"]
    assert "holds 'thesis.tex', which no export wrote" in error(capsys, 2, *command)
    assert (made.folder / "out/thesis.tex").read_text() == "mine"


def test_an_export_that_fails_leaves_the_one_before(made, capsys):
    made.export(capsys, "parquet")
    (made.folder / "cat.png").unlink()
    for format in ("hf", "parquet", "trl", "dpo", "llamafactory"):
        command = ["export", made.dir, "--format", format, "--out", made.folder / "out"]
        assert "is no file any more" in error(capsys, 2, *command, "--overwrite")
    assert sorted(p.name for p in made.folder.iterdir()) == ["model", "out", "run"]
    assert len(load(made.folder / "out")) == 4


# -- the card --------------------------------------------------------------------------------------


def test_the_card_says_what_is_in_it_and_no_paths(made, capsys):
    made.export(capsys, "trl")
    card = (made.folder / "out/README.md").read_text()
    assert "| zoo/a | 3 |" in card and "| 9 | 4 |" in card and "top_p 1.0" in card
    assert "Model: model, as taught" in card and "are not accepted (wrong) | 3 |" in card
    assert str(made.folder) not in card and "seed" not in card.split("configs")[1]


def test_what_a_round_of_reinforcement_was_trained_on_is_not_told_by_chosen(tmp_path, capsys):
    overrides = ["train.objective.name=grpo", "train.restart_from=previous"]
    made = MadeRun(tmp_path, overrides=overrides)
    made.add(1, "a", "c")
    command = ["export", made.dir, "--format", "jsonl", "--out", tmp_path / "o", "--chosen"]
    assert "train.objective.name=grpo: on whole groups" in error(capsys, 2, *command, 1)
