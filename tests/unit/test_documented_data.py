"""Every example of data in README.md and docs/ is read, from small made-up files at its paths.

YAML blocks that name sources and README's records go through `virgo-ray inspect`; what a table says
of a reader is read by that reader. Only numbers are made small: how many rows, how long.
"""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, Image, List
from PIL import Image as Pillow

from virgo_ray import cli
from virgo_ray.config import SourceConfig, parse_section
from virgo_ray.config.data import PartConfig
from virgo_ray.data.problems import read_problems

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
THOUGHT = "<|begin_of_thought|>\n\n{}\n\n<|end_of_thought|>\n\n\\boxed{{7}}"
SMALL = {"num": 2, "min_tokens": 2, "max_tokens": 200}
NUM_BLOCKS = 6  # of YAML, with sources; fewer means that they are not found any more
NUM_READERS = 29  # lines of the table, with the paths beside them


# --- the made-up files ---


def png(colour):
    buffer = io.BytesIO()
    Pillow.effect_noise((20, 10), 60).convert("RGB").save(buffer, "PNG", comment=colour)
    return buffer.getvalue()


def save(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, content)))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def hub(path, rows, split="train", subset=None):
    """A local copy of a set on the hub; columns of pictures are found by what is in them."""
    data = Dataset.from_list(rows)
    for name, value in rows[0].items():
        first = value[0] if isinstance(value, list) else value
        if isinstance(first, dict) and "bytes" in first:
            data = data.cast_column(name, List(Image()) if isinstance(value, list) else Image())
    folder = Path(path) / (subset or "data")
    folder.mkdir(parents=True)
    data.to_parquet(folder / f"{split}-0.parquet")
    config = f"- config_name: {subset or 'default'}\n  data_files:\n  - split: {split}\n"
    save(Path(path) / "README.md", f"---\nconfigs:\n{config}    path: {folder.name}/*\n---\n")


def picture(i=0):
    return {"bytes": png(str(i)), "path": None}


def problems(**names):
    """Four canonical problems, under other names of the fields."""
    rows = [{"question": f"How many {i}?", "answer": str(i), "image": f"{i}.png"} for i in range(4)]
    return [{names.get(k, k): v for k, v in row.items()} for row in rows]


def containers():
    for folder in (".", "data", "data/png", "saved"):
        for i in range(4):
            save(f"{folder}/{i}.png", png("red"))
    save("img/g1.png", png("g")), save("img/c7.png", png("c"))
    for name in ("d.jsonl", "d.json", "data/mine.jsonl", "data/image_problems.jsonl"):
        save(name, problems())
    save(
        "data/heldout.jsonl", [{**p, "question": f"{p['question']} Held out."} for p in problems()]
    )
    own = [{**p, "image": "../0.png"} for p in problems()]
    save("my_data/train.jsonl", own)
    save("my_data/heldout.jsonl", [{**p, "question": f"{p['question']} Held out."} for p in own])
    save("my_data/thoughts.jsonl", [{"question": "Think?", "thought": THOUGHT.format("so " * 5)}])
    figures = problems(question="query", answer="label", image="figures")
    save("data/figures.jsonl", [{**row, "meta": {"origin": "here"}} for row in figures])
    domains = ("math", "physics", "chemistry", "code", "puzzle")
    thoughts = [{"question": f"Think {d} {i}?", "combined_text": THOUGHT.format(f"{d} " * 5),
                 "domain": d} for d in domains for i in range(3)]  # fmt: skip
    save("data/long_form_thought_data_5k.jsonl", thoughts)
    with open("d.csv", "w") as file:
        table = csv.DictWriter(file, ["question", "answer", "image"])
        table.writeheader(), table.writerows(problems())
    Dataset.from_list(problems()).to_parquet("d.parquet")
    charts = [{**row, "grade": "easy"} for row in problems(question="query", answer="label")]
    Dataset.from_list(charts).to_parquet("data/charts.parquet")
    Dataset.from_list(problems()).save_to_disk("saved")
    rows = [{"question": "How many?", "answer": "1", "image": picture()}]
    hub("owner/name", rows)
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}]
    save("chat.jsonl", [{"conversations": turns, "images": ["0.png"]}])
    columns = {"messages": "conversations", "images": "images"}
    demo = {"file_name": "demo.json", "formatting": "sharegpt", "columns": columns}
    save("LLaMA-Factory/data/dataset_info.json", {"mllm_demo": demo})
    save("LLaMA-Factory/data/demo.json", [{"conversations": turns, "images": ["1.jpg"]}])
    save("LLaMA-Factory/data/1.jpg", png("red"))
    save("MathVista_MINI.tsv", "index\timage_path\tquestion\tA\tB\tanswer\tsplit\n"
         "1\t0.png\tWhich?\tred\tblue\tB\ttestmini\n")  # fmt: skip


def training_sets():
    choice = {"choices": ["30", "60"], "label": 1, "id": 1, "image": "0.png"}
    for i in range(3):
        folder = f"geometry3k/train/{i}"
        save(f"{folder}/img_diagram.png", png("red"))
        save(f"{folder}/data.json", {"problem_text": f"Find x{i}.", "choices": list("1234"),
                                     "answer": "C"})  # fmt: skip
    pairs = [{"problem": f"Find y{i}.", "answer": "3", "images": [picture(i)]} for i in range(3)]
    hub("hiyouga/geometry3k", pairs)
    save("geoqa.jsonl", [{**choice, "subject": "Angle B?"}])
    hub("leonardPKU/GEOQA_R1V_Train_8K",
        [{"image": picture(), "problem": "B?", "solution": "<answer> 4 </answer>"}])  # fmt: skip
    save("unigeo.jsonl", [{**choice, "English_problem": "Angle B?"}])
    for folder in ("tabmwp", "data/tabmwp"):
        listing = {str(i): {"question": f"Cost {i}?", "answer": "2", "split": "train",
                            "ans_type": "integer_number"} for i in range(3)}  # fmt: skip
        save(f"{folder}/problems_train.json", listing)
        for i in range(3):
            save(f"{folder}/tables/{i}.png", png("red"))
    save("ChartQA/train/train_human.json", [{"imgname": "a.png", "query": "Sum?", "label": "4"}])
    save("ChartQA/train/png/a.png", png("red"))
    hub("HuggingFaceM4/ChartQA", [{"image": picture(), "query": "Sum?", "label": ["4"]}])
    pair = {"question_string": "Is red the minimum?", "answer": 0, "image_index": 0}
    save("train1/qa_pairs.json", {"qa_pairs": [pair]}), save("train1/png/0.png", png("red"))
    scene = {"image_filename": "a.png", "split": "train", "question": "How many?", "answer": "3"}
    save("CLEVR_v1.0/questions/CLEVR_train_questions.json", {"questions": [scene]})
    save("CLEVR_v1.0/images/train/a.png", png("red"))
    icon = "iconqa_data/iconqa/train/fill_in_blank/7"
    save(f"{icon}/image.png", png("red"))
    save(f"{icon}/data.json", {"question": "?", "ques_type": "fill_in_blank", "answer": "12"})
    hub("lmms-lab/ICON-QA", [{"question_id": "5", "question": "Which?", "choices": "3,9",
                              "answer": "9", "query_image": picture()}])  # fmt: skip
    science = {"question": "Cold?", "choices": ["ice", "fire"], "answer": 0, "split": "train"}
    save("scienceqa/problems.json", {"4": {**science, "image": None}})
    hub("derek-thomas/ScienceQA", [{**science, "image": picture()}])


def benchmarks():
    hub("AI4Math/MathVista", [
        {"pid": str(i), "question": f"How many {i}?", "answer": "3", "answer_type": "integer",
         "decoded_image": picture(i), "choices": None} for i in range(3)], "testmini")  # fmt: skip
    hub("AI4Math/MathVerse", [{"sample_index": "1", "question": "x?\nChoices:\nA:2\nB:3",
        "answer": "B", "question_type": "multi-choice", "problem_version": "Vision Only",
        "image": picture()}], "testmini", "testmini")  # fmt: skip
    hub("MathLLMs/MathVision", [{"id": "1", "question": "<image1>x?", "options": ["2", "3"],
        "answer": "B", "decoded_image": picture()}], "testmini")  # fmt: skip
    hub("Hothan/OlympiadBench", [{"id": 1, "question": "x?", "final_answer": ["3"],
        "answer_type": "Numerical", "question_type": "Open-ended", "image_1": picture()}],
        subset="OE_MM_maths_en_COMP")  # fmt: skip
    hub("MMMU/MMMU", [{"id": "1", "question": "<image 1>x?", "options": "['2', '3']",
        "answer": "B", "image_1": picture()}], "validation", "Accounting")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with a file at every path that an example names."""
    place = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        containers(), training_sets(), benchmarks()
    (place / "configs").symlink_to(ROOT / "configs")
    return place


# --- the examples ---


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def has_sources(block):
    """Whether it names readers of ours; a user's own are those of test_own_functions.py."""
    return "reader:" in block and "own:" not in block


def examples():
    """(page, number, YAML) of every block that names sources."""
    for page in PAGES:
        for number, block in enumerate(filter(has_sources, blocks(page, "yaml"))):
            yield pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")


def shrunk(value):
    """A section with small numbers in place of large ones."""
    if isinstance(value, list):
        return [shrunk(item) for item in value]
    if not isinstance(value, dict):
        return value
    few = {key: SMALL[key] if key in SMALL else shrunk(inner) for key, inner in value.items()}
    if shares := few.get("shares"):
        few["num"] = len(shares)  # one of each domain
        few["shares"] = dict.fromkeys(shares, 1.0)
    return few


def as_config(block):
    """The sources of a block in the tiny config; a benchmark stands where held-out problems do."""
    said = shrunk(yaml.safe_load(block))
    own = [said.get("data", {})]
    own += [{"heldout": source} for source in said.get("benchmarks", {}).values()]
    few = {"train": {"num": 4}, "heldout": {"num": 4}, "seed_thoughts": {"num": 4}}
    tiny = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())["data"]
    base = {key: {**source, **few[key]} for key, source in tiny.items()}
    return [{"include": "configs/tiny.yaml", "data": {**base, **data}} for data in own if data]


def inspect(config, capsys):
    Path("example.yaml").write_text(yaml.safe_dump(config))
    code = cli.main(["inspect", "example.yaml", "run_dir=run"])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("block", examples())
def test_an_example_of_sources_is_read(world, monkeypatch, capsys, block):
    monkeypatch.chdir(world)
    for config in as_config(block):
        code, page = inspect(config, capsys)
        assert code == 0, page


def test_the_records_of_the_readme_are_read(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    (records,) = blocks(ROOT / "README.md", "json")
    save("records.jsonl", [json.loads(line) for line in records.splitlines()])
    source = "data: {train: {reader: jsonl, path: records.jsonl}}"
    code, page = inspect(as_config(source)[0], capsys)
    assert code == 0 and "answer:   B (auto)" in page and "2 rows with 1" in page


def test_the_thought_of_the_readme_is_read(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    (row,) = re.findall(r'`({"question".*})`', (ROOT / "README.md").read_text())
    save("thought.jsonl", [json.loads(row)])
    source = "data: {seed_thoughts: {reader: jsonl, path: thought.jsonl}}"
    code, page = inspect(as_config(source)[0], capsys)
    assert code == 0 and "wait, ..." in page, page


def readers_of(page):
    """Every `{reader: ...}` that a sentence or a table names, and other paths that stand beside."""
    for line in page.read_text().splitlines():
        spans = re.findall(r"`([^`]+)`", line)
        sources = [span for span in spans if re.fullmatch(r"\{reader: .*\}", span)]
        yield from sources
        for place in re.findall(r"or `path: ([^`]+)`", line):
            yield re.sub(r"path: [^,}]+", f"path: {place}", sources[0])


READERS = [source for page in PAGES for source in readers_of(page)]


@pytest.mark.parametrize("source", READERS)
def test_a_reader_reads_what_its_line_in_the_table_says(world, monkeypatch, source):
    monkeypatch.chdir(world)
    said = yaml.safe_load(source) | ({"num": 4} if "num" in source else {})
    keys = [f"{key}={json.dumps(value)}" for key, value in said.items()]
    part = parse_section(PartConfig, keys, source)
    if said["reader"] == "easyvqa":
        return  # the whole package, which test_problems.py reads
    (reading,) = read_problems(SourceConfig(**part.model_dump()), 0, world / "cache", {})
    assert reading.taken and not reading.faults


def test_the_examples_are_found():
    assert len(list(examples())) >= NUM_BLOCKS
    assert len(READERS) >= NUM_READERS, READERS


def test_an_example_that_is_wrong_is_found(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    block = blocks(ROOT / "docs/data.md", "yaml")[0]
    for wrong in (block.replace("figures.jsonl", "none.jsonl"), block.replace("label", "lable"),
                  block.replace("image_dir", "img_dir")):  # fmt: skip
        assert wrong != block and inspect(as_config(wrong)[0], capsys)[0]
