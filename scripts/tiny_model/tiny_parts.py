"""The untrained parts of the tiny model: tokenizer, processor, configuration.

Everything is made from nothing with fixed seeds: a byte-level BPE over the words of the puzzles and
a page of plain English, Qwen2.5-VL's special tokens and chat template, and a
`Qwen2_5_VLForConditionalGeneration` of two million parameters. Patches are 8 pixels and merged 2 x
2, so a 16-pixel cell of a puzzle is one visual token.
"""

from __future__ import annotations

import random

from tiny_words import ENGLISH
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from virgo_ray.tiny.puzzles import COLORS, CORNERS, FAMILIES, LETTERS, sample_puzzle
from virgo_ray.tiny.thoughts import THOUGHT_TAGS, long_thought, short_steps

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
SYSTEM = "You are a helpful assistant."
INSTRUCTION = (
    "Please first think deeply about the question, and then put the final answer in \\boxed{}."
)
VOCAB_SIZE = 1280
MAX_POSITIONS = 1024
# A digit, a sign or a word with the space before it is one token, so reading a cell is writing one
# token.
SPLIT = r" ?\\boxed\{| ?\p{L}+| ?\p{N}|[\r\n]+| ?[^\s\p{L}\p{N}]|\s+"
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)


def corpus() -> list[str]:
    """What the BPE is trained on: puzzle prose, all of the puzzles' words, and plain English."""
    rng = random.Random("corpus")
    lines = [SYSTEM, INSTRUCTION, "system", "user", "assistant", *ENGLISH] * 20
    lines += [
        f" {word}" for word in (*COLORS, *CORNERS, *LETTERS, *"0123456789+-") for _ in range(50)
    ]
    for _ in range(200):
        for family in FAMILIES:
            puzzle = sample_puzzle(family, rng)
            lines += [puzzle.text, puzzle.question, long_thought(puzzle), short_steps(puzzle)]
    return lines


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE; the thought tags are single tokens that still decode as text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    num_added = len(SPECIAL_TOKENS) + len(THOUGHT_TAGS)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - num_added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THOUGHT_TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """Pictures of 1 to 36 cells pass unchanged; larger ones are scaled down."""
    sizes = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    limits = {"shortest_edge": 16 * 16, "longest_edge": 36 * 16 * 16}
    image = Qwen2VLImageProcessor(**sizes, size=limits)
    video = Qwen2VLVideoProcessor(**sizes, size=limits)
    return Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=CHAT_TEMPLATE)


def make_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS}
    text = {
        "dtype": "float32",
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "dtype": "float32",
        "depth": 2,
        "hidden_size": 96,
        "out_hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 3,
        "patch_size": 8,
        "spatial_patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 128,
        "fullatt_block_indexes": [0, 1],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    model = Qwen2_5_VLForConditionalGeneration(make_config(tokenizer))
    end = tokenizer.eos_token_id
    model.generation_config.update(
        do_sample=False,
        eos_token_id=[end, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model.float()
