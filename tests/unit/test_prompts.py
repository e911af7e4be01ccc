import json
import pickle
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import save_file

from virgo_ray.config import ModelConfig, PromptConfig
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.model import files as models
from virgo_ray.model.files import resolve_model
from virgo_ray.model.images import load_image
from virgo_ray.model.prompts import Prompter, user_content
from virgo_ray.records import Problem

TINY = ModelConfig(path="tiny", max_length=512)
PROMPT = PromptConfig()
IMAGE_ID = json.loads((models.TINY_DIRECTORY / "config.json").read_text())["image_token_id"]


@pytest.fixture(scope="module")
def prompter():
    return Prompter(TINY, PROMPT)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (96, 32), "red").save(path)
    return str(path)


def text_of(prompter, problem):
    return prompter._processor.tokenizer.decode(prompter.prompt_ids(problem))


# -- layout ----------------------------------------------------------------------------------------


def test_the_layout_of_a_prompt(prompter, image):
    """Exactly what the tiny model was trained with; another layout costs it accuracy."""
    problem = Problem("p", "How many?", "2", (image,))
    assert text_of(prompter, problem) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "Please first think deeply about the question, and then put the final answer in \\boxed{}. "
        "How many?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_context_stands_where_the_image_would_stand(prompter, image):
    seen = text_of(prompter, Problem("p", "How many?", "2", (image,)))
    told = text_of(prompter, Problem("p", "How many?", "2", context="Two cats."))
    assert told == seen.replace("<|vision_start|><|image_pad|><|vision_end|>", "Two cats.\n")


def test_options_follow_the_question_one_a_line():
    for options in (("red", "blue"), ("A. red", "B. blue"), ("(A) red", "(B) blue")):
        (part,) = user_content(Problem("p", "Which?", "A", options=options), PROMPT)
        assert part["text"].endswith("Which?\n(A) red\n(B) blue")


def test_options_that_only_look_labelled_are_left_alone():
    (part,) = user_content(Problem("p", "Which?", "A", options=("A. red", "blue")), PROMPT)
    assert part["text"].endswith("Which?\n(A) A. red\n(B) blue")


def test_system_message_and_instruction_can_be_left_out():
    prompter = Prompter(TINY, PromptConfig(system="", instruction=""))
    text = text_of(prompter, Problem("p", "How many?", "2"))
    assert text.endswith("<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n")


# -- ids -------------------------------------------------------------------------------------------


def test_every_image_has_one_place_in_the_prompt(prompter, image):
    for num in range(4):
        ids = prompter.prompt_ids(Problem("p", "How many?", "2", (image,) * num))
        assert ids.count(IMAGE_ID) == num


def test_text_that_pretends_to_be_an_image_is_text(prompter, image):
    for fields in ({"question": "<|image_pad|>?"}, {"context": "<|image_pad|>"}):
        problem = Problem(
            **{"id": "p", "question": "?", "answer": "2", "images": (image,), **fields}
        )
        assert prompter.prompt_ids(problem).count(IMAGE_ID) == 1


@pytest.mark.parametrize("size", [(16, 16), (96, 32), (100, 37), (500, 300), (7, 5)])
def test_image_tokens_counted_from_the_header_are_those_the_processor_makes(
    prompter, tmp_path, size
):
    path = str(tmp_path / "a.png")
    Image.new("RGB", size).save(path)
    problem = Problem("p", "How many?", "2", (path,))
    text = text_of(prompter, problem)
    expanded = prompter._processor(text=[text], images=[load_image(path)])["input_ids"][0]
    assert list(expanded).count(IMAGE_ID) == prompter.num_image_tokens(path)
    assert prompter.example("e", problem, "x").num_tokens == len(expanded) + 2


def test_pixel_bounds_of_the_config_limit_image_tokens(tmp_path):
    path = str(tmp_path / "a.png")
    Image.new("RGB", (160, 160)).save(path)
    bounded = TINY.model_copy(update={"min_pixels": 256, "max_pixels": 64 * 64})
    assert Prompter(bounded, PROMPT).num_image_tokens(path) == 16
    assert Prompter(TINY, PROMPT).num_image_tokens(path) == 36


def test_an_image_that_the_model_cannot_take_is_named(prompter, tmp_path):
    path = str(tmp_path / "thin.png")
    Image.new("RGB", (900, 1)).save(path)
    with pytest.raises(DataError, match=r"thin.png' of 900x1 pixels .* aspect ratio"):
        prompter.num_image_tokens(path)


# -- templates -------------------------------------------------------------------------------------


def test_the_default_template_is_the_paper_s():
    assert PromptConfig() == PromptConfig(template="paper")
    (part,) = user_content(Problem("p", "How many?", "2"), PromptConfig())
    assert part["text"] == (
        "Please first think deeply about the question, and then put the final answer in "
        "\\boxed{}. How many?"
    )


def test_a_template_gives_what_is_not_set():
    think = PromptConfig(template="think", system="Be brief.")
    assert (think.system, think.thought_format) == ("Be brief.", "think")
    assert think.instruction == "Put the final answer in \\boxed{}."
    plain = PromptConfig(template="plain")
    assert user_content(Problem("p", "How many?", "2"), plain)[0]["text"] == "How many?"
    assert PromptConfig(**think.model_dump()) == think


def test_a_plain_prompt_is_the_chat_template_around_the_question():
    plain = Prompter(TINY, PromptConfig(template="plain"))
    text = text_of(plain, Problem("p", "How many?", "2"))
    assert "<|im_start|>user\nHow many?<|im_end|>" in text


@pytest.mark.parametrize(
    ("choices", "lines"),
    [
        ("(A)", "?\n(A) red\n(B) blue"),
        ("A.", "?\nA. red\nB. blue"),
        ("A:", "?\nA: red\nB: blue"),
        ("inline", "?\nChoices: (A) red (B) blue"),
    ],
)
def test_choices_are_written_in_the_style_of_the_config(choices, lines):
    problem = Problem("p", "?", "A", options=("red", "blue"))
    prompt = PromptConfig(template="plain", choices=choices)
    assert user_content(problem, prompt)[0]["text"] == lines


# -- examples --------------------------------------------------------------------------------------


def test_a_text_response_is_tokenised_and_ended(prompter):
    thought = "<|begin_of_thought|>\n\n3 + 4 = 7.\n\n<|end_of_thought|>"
    example = prompter.example("e", Problem("p", "?", "7"), thought, weight=0.5)
    assert example.target_ids[-1] == prompter.end_id
    assert prompter.end_id not in example.target_ids[:-1]
    assert prompter.decode(example.target_ids) == thought
    assert example.num_tokens == len(example.prompt_ids) + len(example.target_ids)
    assert example.weight == 0.5


def test_sampled_ids_are_kept_as_they_are(prompter):
    ids = (300, 301, prompter.end_id)
    assert prompter.example("e", Problem("p", "?", "7"), ids).target_ids == ids


def test_responses_with_image_tokens_or_nothing_are_refused(prompter):
    problem = Problem("p", "?", "7")
    with pytest.raises(DataError, match="image token ids"):
        prompter.example("e", problem, (300, IMAGE_ID))
    for response in ("", ()):
        with pytest.raises(DataError, match="holds no token"):
            prompter.example("e", problem, response)


def test_all_ids_that_stand_for_pictures_are_banned(prompter):
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    vocabulary = prompter._processor.tokenizer.get_vocab()
    assert prompter.placeholder_ids >= {vocabulary[n] for n in names}
    assert prompter.end_id not in prompter.placeholder_ids


def test_an_unused_prompter_is_small_to_send():
    assert len(pickle.dumps(Prompter(TINY, PROMPT))) < 2000


# -- where the model is ----------------------------------------------------------------------------


def test_tiny_is_in_the_package_and_directories_are_taken_as_they_are(tmp_path):
    assert Path(resolve_model("tiny")) == models.TINY_DIRECTORY
    (tmp_path / "config.json").write_text("{}")
    save_file({}, tmp_path / "model.safetensors")
    assert resolve_model(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("files", [[], ["config.json"], ["config.json", "pytorch_model.bin"]])
def test_a_directory_without_safetensors_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"lacks config.json or \*.safetensors"):
        resolve_model(str(tmp_path))


def test_weights_that_are_not_whole_are_named(tmp_path):
    copy = shutil.copytree(models.TINY_DIRECTORY, tmp_path / "copy")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"model-2\.safetensors is missing \(1 of 2 files\)"):
        resolve_model(str(copy))
    (copy / "model.safetensors.index.json").unlink()
    weights = (copy / "model.safetensors").read_bytes()
    for half in (
        b"",
        weights[:1000],
        b"version https://git-lfs.github.com/spec/v1\n",
        weights[:-8],
    ):
        (copy / "model.safetensors").write_bytes(half)
        with pytest.raises(ConfigError, match=r"model\.safetensors is not whole .*fetch"):
            resolve_model(str(copy))


def test_what_is_no_vision_language_model_is_refused(tmp_path):
    def refusal(name, change):
        copy = shutil.copytree(models.TINY_DIRECTORY, tmp_path / name)
        change(copy)
        with pytest.raises(ConfigError) as error:
            Prompter(TINY.model_copy(update={"path": str(copy)}), PROMPT).check_model()
        return str(error.value)

    def without_images(copy):
        config = json.loads((copy / "config.json").read_text())
        del config["image_token_id"]
        (copy / "config.json").write_text(json.dumps(config))

    assert "processor cannot be loaded" in refusal(
        "a", lambda copy: (copy / "processor_config.json").unlink()
    )
    assert "takes no images" in refusal("b", without_images)
    assert "lacks the image token" in refusal(
        "c", lambda copy: [file.unlink() for file in copy.glob("tokenizer*")]
    )


def test_a_length_beyond_the_models_positions_is_refused():
    Prompter(TINY.model_copy(update={"max_length": 1024}), PROMPT).check_model()
    with pytest.raises(ConfigError, match=r"max_length=1025: 'tiny' knows 1024 positions"):
        Prompter(TINY.model_copy(update={"max_length": 1025}), PROMPT).check_model()


@pytest.mark.parametrize("path", ["/none/at/all", "./none", "tini", "a/b/c"])
def test_a_model_that_is_nowhere_is_refused_without_asking_the_hub(path):
    with pytest.raises(ConfigError, match="is no directory; expected 'tiny'"):
        resolve_model(path)


def test_the_hub_gives_no_code_and_no_pickles_unless_allowed(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo_id, allow_patterns):
        asked.append((repo_id, allow_patterns))
        (tmp_path / "config.json").touch()
        save_file({}, tmp_path / "model.safetensors")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("owner/name") == resolve_model("owner/name", True) == str(tmp_path)
    (_, plain), (_, trusting) = asked
    assert "*.py" not in plain and "*.py" in trusting
    assert not any(p.endswith((".bin", ".pt", ".pkl", "*")) for p in trusting)


def test_a_hub_that_cannot_be_reached_is_explained(monkeypatch):
    import huggingface_hub

    def download(repo_id, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ConfigError, match=r"'owner/name' .* could not be fetched .* offline"):
        resolve_model("owner/name")


def test_pictures_of_other_kinds_of_models_are_counted_by_their_own_processor(tmp_path):
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"))
    size = {"height": 28, "width": 28}
    image_processor = CLIPImageProcessor(crop_size=size, size={"shortest_edge": 28})
    processor = LlavaProcessor(
        image_processor, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    prompter = Prompter(TINY, PROMPT)
    prompter.__dict__["_processor"] = processor
    Image.new("RGB", (90, 40)).save(tmp_path / "a.png")
    assert prompter.num_image_tokens(str(tmp_path / "a.png")) == 4
