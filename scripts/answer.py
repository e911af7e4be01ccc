"""Asks a checkpoint one question, in plain transformers or plain vLLM: no run is needed.

    python scripts/answer.py runs/tiny/weights/v0004                      # a held-out tiny puzzle
    python scripts/answer.py CHECKPOINT --engine vllm --image cat.png --question "How many cats?"

Prints the question and what the model says. Greedy.
"""

from __future__ import annotations

import argparse
from typing import Any

from PIL import Image

from virgo_ray.config import PromptConfig
from virgo_ray.tiny.draw import draw
from virgo_ray.tiny.puzzles import make_puzzles

MAX_TOKENS = 192


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", help="a directory or a Hugging Face id")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="transformers")
    parser.add_argument("--image", help="a picture; without it a held-out tiny puzzle is asked")
    parser.add_argument("--question")
    parser.add_argument("--seed", type=int, default=0, help="of the puzzle")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    args = parser.parse_args()
    if bool(args.image) != bool(args.question):
        parser.error("--image and --question belong together; give both or neither")

    puzzle = make_puzzles("heldout", 1, seed=args.seed)[0]
    image = Image.open(args.image).convert("RGB") if args.image else draw(puzzle)
    question = args.question or puzzle.question
    print(f"question: {question}" + ("" if args.image else f"   (gold answer: {puzzle.answer})"))
    print(ENGINES[args.engine](args.checkpoint, image, question, args.max_tokens))


def with_transformers(path: str, image: Image.Image, question: str, max_tokens: int) -> str:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path)
    text = processor.apply_chat_template(
        messages({"type": "image"}, question), add_generation_prompt=True
    )
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    reply = output[0, inputs["input_ids"].shape[1] :]
    return processor.decode(reply, skip_special_tokens=True)


def with_vllm(path: str, image: Image.Image, question: str, max_tokens: int) -> str:
    import torch
    from vllm import LLM, SamplingParams

    engine = LLM(
        path,
        max_num_seqs=1,
        enforce_eager=True,
        limit_mm_per_prompt={"video": 0},
        gpu_memory_utilization=0.9 if torch.cuda.is_available() else 0.3,  # CPU: of main memory
    )
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
    part = {"type": "image_pil", "image_pil": image}
    return engine.chat(messages(part, question), sampling)[0].outputs[0].text


def messages(image: dict[str, Any], question: str) -> Any:
    """The conversation as a run with the default prompt has it."""
    prompt = PromptConfig()
    text = {"type": "text", "text": f"{prompt.instruction} {question}"}
    return [
        {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
        {"role": "user", "content": [image, text]},
    ]


ENGINES = {"transformers": with_transformers, "vllm": with_vllm}

if __name__ == "__main__":
    main()
