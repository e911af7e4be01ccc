"""Draws the tutorial's data: pictures of coloured shapes, questions about them, long thoughts.

    python docs/tutorial/draw.py my_data

writes `train.jsonl` and `heldout.jsonl` (a picture, a question, an answer), `thoughts.jsonl` (the
same kind of question about pictures in words, answered by a long thought) and `images/`. Needs
Pillow only, and knows nothing of virgo_ray: it stands for data of your own. The same command always
writes the same files, and no picture is in two of them.
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

CELL = 16  # pixels of a side; what the bundled tiny model sees as one token
COLOURS = {
    "red": (225, 25, 25),
    "green": (25, 200, 40),
    "blue": (30, 45, 225),
    "yellow": (240, 225, 25),
    "black": (12, 12, 12),
    "teal": (15, 130, 130),
}
CORNERS = {"circle": 0, "triangle": 3, "rectangle": 4}
ROWS, COLUMNS = 2, 3


def make_scene(rng):
    """(six shapes as (colour, shape), the colour that is asked for)."""
    asked = rng.choice(list(COLOURS))
    others = [colour for colour in COLOURS if colour != asked]
    colours = [asked if rng.random() < 0.4 else rng.choice(others) for _ in range(ROWS * COLUMNS)]
    colours[rng.randrange(len(colours))] = asked  # at least one
    return tuple((colour, rng.choice(list(CORNERS))) for colour in colours), asked


def question(asked):
    return f"How many corners do the {asked} shapes have in all?"


def answer(shapes, asked):
    return sum(CORNERS[shape] for colour, shape in shapes if colour == asked)


def draw(shapes, rng):
    """A picture of COLUMNS x ROWS cells, one shape in each; size, place and shade vary."""
    ground = tuple(rng.randint(230, 255) for _ in range(3))
    image = Image.new("RGB", (CELL * COLUMNS, CELL * ROWS), ground)
    pen = ImageDraw.Draw(image)
    for number, (colour, shape) in enumerate(shapes):
        side = rng.randint(10, 13)
        left = CELL * (number % COLUMNS) + rng.randint(1, CELL - side - 1)
        top = CELL * (number // COLUMNS) + rng.randint(1, CELL - side - 1)
        fill = tuple(min(255, max(0, part + rng.randint(-12, 12))) for part in COLOURS[colour])
        draw_shape(pen, shape, (left, top, left + side, top + side), fill)
    return image


def draw_shape(pen, shape, box, fill):
    left, top, right, bottom = box
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "rectangle":
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], fill=fill)


def thought(shapes, asked):
    """Read, look again, go through the shapes one by one, answer: in words only."""
    seen = " ".join(f"{colour} {shape}" for colour, shape in shapes)
    total, steps = 0, []
    for colour, shape in shapes:
        if colour != asked:
            steps.append(f"{colour} {shape} no.")
            continue
        after = total + CORNERS[shape]
        steps.append(f"{colour} {shape}, {total} + {CORNERS[shape]} = {after}.")
        total = after
    body = f"Let me look closely. I see {seen}. Look again: {seen}. Same. Now step by step. "
    return (
        f"<|begin_of_thought|>\n\n{body}{' '.join(steps)}\n\n<|end_of_thought|>\n\n"
        f"<|begin_of_solution|>\n\nThe answer is \\boxed{{{total}}}.\n\n<|end_of_solution|>"
    )


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def picture_row(folder, name, scene):
    shapes, asked = scene
    file = f"images/{name}.png"
    draw(shapes, random.Random(name)).save(folder / file)
    return {
        "id": name, "question": question(asked), "image": file,
        "answer": str(answer(shapes, asked)), "source": f"shapes/{asked}",
    }  # fmt: skip


def thought_row(name, scene):
    shapes, asked = scene
    seen = " ".join(f"{colour} {shape}" for colour, shape in shapes)
    return {
        "id": name, "context": f"Picture: {seen}.", "question": question(asked),
        "thought": thought(shapes, asked), "answer": str(answer(shapes, asked)),
        "source": "shapes in words",
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description="Draw the tutorial's data.")
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    parser.add_argument("--train", type=int, default=600, help="problems to explore")
    parser.add_argument("--heldout", type=int, default=100, help="problems to evaluate on")
    parser.add_argument("--thoughts", type=int, default=400, help="long thoughts in words")
    args = parser.parse_args()
    (args.folder / "images").mkdir(parents=True, exist_ok=True)
    rng, seen = random.Random(0), set()

    def new_scenes(num):
        while num:
            if (scene := make_scene(rng)) not in seen:
                seen.add(scene)
                num -= 1
                yield scene

    for split in ("heldout", "train"):
        scenes = enumerate(new_scenes(getattr(args, split)))
        rows = [picture_row(args.folder, f"{split}-{i}", scene) for i, scene in scenes]
        write_lines(args.folder / f"{split}.jsonl", rows)
    scenes = enumerate(new_scenes(args.thoughts))
    write_lines(
        args.folder / "thoughts.jsonl", [thought_row(f"thought-{i}", scene) for i, scene in scenes]
    )


if __name__ == "__main__":
    main()
