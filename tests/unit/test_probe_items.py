"""The items of a run's parity probe: chosen once, kept, moved, and asked of every version."""

from pathlib import Path

import pytest
from PIL import Image

from virgo_ray.config import load_config
from virgo_ray.errors import WeightsError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Problem, SeedThought
from virgo_ray.train.probing import choose_from_plan, choose_rollouts, choose_start
from virgo_ray.weights.probe import Probe, ProbeItem, probe_path
from virgo_ray.weights.probe_items import add_rollouts, items_path, keep_items


def draw(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (56, 56), colour).save(path)
    return str(path)


@pytest.fixture
def items(tmp_path):
    return [ProbeItem((1,), (2, 3)), ProbeItem((9,), (4,), draw(tmp_path / "data" / "a.png"))]


def test_items_are_chosen_once_and_rollouts_added_once(tmp_path, items):
    root = tmp_path / "weights"
    assert add_rollouts(root, lambda: items) == ()  # nothing chosen yet: the trainer is on its own
    kept = keep_items(root, lambda: items)
    assert [i.target_ids for i in kept] == [(2, 3), (4,)]
    assert kept == keep_items(root, lambda: pytest.fail("chosen twice"))
    assert add_rollouts(root, lambda: []) == kept  # round 0 has none
    more = ProbeItem((9, 9), (5,), draw(tmp_path / "data" / "b.png", "blue"))
    grown = add_rollouts(root, lambda: [more])
    assert grown[:2] == kept and grown[2].target_ids == (5,)
    assert grown == add_rollouts(root, lambda: pytest.fail("chosen twice"))
    assert kept == keep_items(root, lambda: pytest.fail("chosen twice"))


def test_a_moved_run_asks_the_same_and_a_probe_copies_no_picture(tmp_path, items):
    root = tmp_path / "run" / "weights"
    kept = keep_items(root, lambda: items)
    probe = Probe(kept, ((-1.0, -2.0), (-3.0,)))
    probe.save(probe_path(root, 1))
    assert [p.name for p in (root / "v0001").iterdir()] == ["probe.json"]
    (tmp_path / "data" / "a.png").unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "weights"
    found = Probe.load(probe_path(moved, 1))
    assert found.items == keep_items(moved, lambda: pytest.fail("chosen twice"))
    assert all(item.has_picture for item in found.items)
    (moved / "probe" / "probe_pictures").rename(tmp_path / "gone")
    assert len(keep_items(moved, lambda: pytest.fail("chosen twice"))) == 1


def test_the_values_before_are_joined_item_by_item(tmp_path, items):
    old = Probe(tuple(items[:1]), ((-1.0, -2.0),))
    new = Probe(tuple(items), ((-1.5, -2.5), (-3.0,))).after(old)
    assert new.before == ((-1.0, -2.0), ())
    new.save(tmp_path / "v0001" / "probe.json")
    assert Probe.load(tmp_path / "v0001" / "probe.json").before == new.before
    assert new.after(Probe((), ())).before == ()
    with pytest.raises(WeightsError, match="of the weights before"):
        Probe(tuple(items), new.logprobs, ((-1.0,), ()))


def test_a_malformed_file_of_items_is_named(tmp_path):
    items_path(tmp_path).parent.mkdir()
    items_path(tmp_path).write_text('{"start": [{}]}')
    with pytest.raises(WeightsError, match=r"items\.json is malformed.*delete it"):
        keep_items(tmp_path, list)


@pytest.fixture(scope="module")
def prompter():
    cfg = load_config("configs/tiny.yaml")
    return Prompter(cfg.model, cfg.prompt)


def num_targets(items, has_image):
    return sum(len(i.target_ids) for i in items if (i.image is not None) == has_image)


def test_about_a_thousand_tokens_are_chosen_of_text_and_of_pictures(tmp_path, prompter):
    picture = draw(tmp_path / "a.png")
    heldout = [Problem(f"p{i}", "how many squares are there ?", "3", (picture,)) for i in range(90)]
    text = " ".join(["so there are 3 squares and 4 circles ."] * 8)
    thoughts = [SeedThought(Problem(f"t{i}", f"what is {i} + 1 ?", "2"), text) for i in range(500)]
    items = choose_start(1000, 320, prompter, heldout, thoughts, tmp_path)
    assert 400 <= num_targets(items, False) < 400 + 224
    assert 300 <= num_targets(items, True) < 300 + 224
    assert len({item.prompt_ids for item in items}) > 2
    beside = [i for i in items if i.image][1:]  # of the long one, which is there for the cache
    assert sum(len(i.target_ids) for i in beside) >= 300 - 128
    assert all(item.num_ids + prompter.num_image_tokens(picture) < 320 for item in items)
    assert items == choose_start(1000, 320, prompter, heldout, thoughts, tmp_path)
    for long in (max(i.num_ids for i in items if (i.image is not None) == k) for k in (0, 1)):
        assert long > 144  # more than a block of the prefix cache on CPU


@pytest.mark.parametrize("has_problems", [True, False])
def test_without_thoughts_or_pictures_there_is_still_something_to_ask(
    tmp_path, prompter, has_problems
):
    heldout = [Problem(str(i), "how many ?", str(i)) for i in range(3)] if has_problems else []
    items = choose_start(100, 320, prompter, heldout, [], tmp_path)
    assert num_targets(items, False) and num_targets(items, True)
    assert {i.image for i in items if i.image} == {str(tmp_path / "picture.png")}
    assert choose_from_plan(100, 320, prompter, (), tmp_path)


def test_rollouts_fill_the_rest_and_leave_an_engine_room_for_its_token():
    def example(i, num_targets, num_tokens):
        return Example(str(i), (9, i), (5,) * num_targets, ("a.png",), num_tokens)

    examples = [example(i, 40, 100) for i in range(100)]
    items = choose_rollouts(1000, 320, examples)
    assert 300 <= num_targets(items, True) < 340
    assert items[1].prompt_ids[1] > 0  # not all from one source
    assert choose_rollouts(1000, 320, [example(0, 40, 320)]) == ()
    assert len(choose_rollouts(1000, 320, [example(0, 300, 320)])[0].target_ids) == 128
    assert choose_rollouts(1000, 320, [Example("t", (1,), (2,))]) == ()
    assert Path("a.png").name == items[0].image
