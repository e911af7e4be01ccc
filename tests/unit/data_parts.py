"""Small sources of data for tests: a picture that is no flat colour, a config of JSONL files."""

import json

from PIL import Image

from virgo_ray.config import load_config

THOUGHT = "<|begin_of_thought|>\n\n1\n\n<|end_of_thought|>\n\n\\boxed{1}"


def noise(path):
    Image.effect_noise((40, 40), 80).save(path)
    return path


def config(tmp_path, train, *more):
    for name in "abc":
        noise(tmp_path / f"{name}.png")
    lines = {"train": train, "heldout": [{"question": "h?", "answer": "1", "image": "c.png"}],
             "seed_thoughts": [{"question": "3 + 4?", "thought": THOUGHT}]}  # fmt: skip
    keys = []
    for key, rows in lines.items():
        path = tmp_path / f"{key}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        keys.append(f"data.{key}={{reader: jsonl, num: null, path: {path}}}")
    return load_config("configs/tiny.yaml", [*keys, f"run_dir={tmp_path}/run", *more])
