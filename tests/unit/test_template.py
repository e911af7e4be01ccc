"""A chat template is tried before anything else, and a thought that it opens is opened once."""

import json
import shutil

import pytest

from virgo_ray.config import ModelConfig, PromptConfig
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.evaluate.figures import is_long_format
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem
from virgo_ray.selection import has_thought, is_complete
from virgo_ray.verify.answers.extract import solution_part

TEMPLATE = (TINY_DIRECTORY / "chat_template.jinja").read_text()
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
TEXT_ONLY = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] if 'text' in c %}{{ c['text'] }}{% endfor %}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def model(tmp_path, template, **tokenizer):
    directory = tmp_path / "model"
    shutil.copytree(TINY_DIRECTORY, directory)
    if template is None:
        (directory / "chat_template.jinja").unlink()
    else:
        (directory / "chat_template.jinja").write_text(template)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **tokenizer}))
    return ModelConfig(path=str(directory), max_length=1024)


def prompter(tmp_path, template, prompt="paper", **tokenizer):
    return Prompter(model(tmp_path, template, **tokenizer), PromptConfig(template=prompt))


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "cannot be rendered"), ("{% for", "cannot be rendered"),
     ("{{ nothing.at.all }}", "cannot be rendered"), (REFUSES + TEMPLATE, "prompt.system: ''"),
     (TEXT_ONLY, "takes no pictures"), ("<|image_pad|>{{ bos_token }}", "user's text out"),
     (TEMPLATE.replace("{% if add_generation_prompt %}", "{% if true %}"), "ignores add_gen"),
     (TEMPLATE.replace("{% if add_generation_prompt %}", "{% if false %}"), "ignores add_gen")],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_told_at_once(tmp_path, template, message):
    with pytest.raises(ConfigError, match=message):
        prompter(tmp_path, template).check_model()


def test_a_template_without_system_is_used_without_one(tmp_path):
    used = prompter(tmp_path, REFUSES + TEMPLATE, "plain")
    used.check_model()
    assert used.prompt_ids(Problem("p", "?", "1"))


def test_a_tokenizer_without_an_end_token_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match="no end token"):
        prompter(tmp_path, TEMPLATE, eos_token=None).check_model()


@pytest.mark.parametrize(
    ("prompt", "tag"), [("think", "<think>"), ("paper", "<|begin_of_thought|>")]
)
def test_a_thought_that_the_template_opens_is_opened_once(tmp_path, prompt, tag):
    opens = TEMPLATE.replace("assistant\n{% endif %}", f"assistant\n{tag}\n{{% endif %}}")
    assert opens != TEMPLATE
    used = prompter(tmp_path, opens, prompt)
    used.check_model()
    end = tag.replace("<think", "</think").replace("begin", "end")
    thought = f"{tag}\n3 + 4 is 7.\n{end}\n\n\\boxed{{7}}"
    example = used.example("e", Problem("p", "3 + 4?", "7"), thought)
    whole = used._processor.tokenizer.decode([*example.prompt_ids, *example.target_ids])
    assert whole.partition("assistant\n")[2].startswith(f"{tag}\n3 + 4 is 7.\n{end}")
    sampled = used.decode(example.target_ids)  # what is stored: the tag once, as a reader sees it
    assert sampled.startswith(tag) and sampled.count(tag) == 1
    assert solution_part(sampled).text.strip() == "\\boxed{7}"
    assert is_long_format(sampled) and is_complete(sampled) and has_thought(sampled)
    endless = used.decode(example.target_ids[:6])  # the thought was never closed
    assert solution_part(endless).is_truncated and not is_complete(endless)
    assert used.response_ids(thought) == example.target_ids[:-1]  # as a teacher wrote it
    other = prompter(tmp_path / "plain", TEMPLATE, prompt)
    plain = other.example("e", Problem("p", "?", "7"), thought)
    assert used._processor.tokenizer.decode(plain.target_ids).startswith(tag)


def test_a_seed_thought_in_other_tags_than_the_template_opens_is_refused(tmp_path):
    opens = TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    thought = "<|begin_of_thought|>\n7.\n<|end_of_thought|>\n\n\\boxed{7}"
    with pytest.raises(DataError, match="opens every thought with <think>"):
        prompter(tmp_path, opens).example("e", Problem("p", "?", "7"), thought)
    own = "My thought is 7.\n</think>\n\\boxed{7}"  # goes on in the thought that is open
    assert prompter(tmp_path / "b", opens).example("e", Problem("p", "?", "7"), own)
