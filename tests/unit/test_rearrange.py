"""A checkpoint of some ranks as others read it: made by hand, without DeepSpeed.

The files have its layout (`tests/engine/test_train_engine.py` has the real ones): every element of
a parameter is a number of its own, so one that lands elsewhere is seen.
"""

import math
import re

import pytest
import torch

from virgo_ray.errors import TrainingError
from virgo_ray.train.rearrange import Cut, Rearranged, optimizer_files

SHAPES = [
    {"a": torch.Size([3, 5]), "b": torch.Size([1])},
    {"c": torch.Size([7]), "d": torch.Size([2, 2]), "e": torch.Size([31])},
]
NAMES = [[*named] for named in SHAPES]
KINDS = {"fp32": 0.0, "exp_avg": 1000.0, "exp_avg_sq": 2000.0}
TOTALS = [sum(shape.numel() for shape in named.values()) for named in SHAPES]


def whole(kind, group):
    """The elements of a group, all different, also from those of other groups and kinds."""
    return torch.arange(TOTALS[group]) + KINDS[kind] + 100.0 * group


def write(directory, rank, optimizer):
    name = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": optimizer}, directory / name)


def part2(kind, group, rank, num_ranks):
    """Equal parts of a group in a row, padded to twice the ranks."""
    size = math.ceil(TOTALS[group] / (2 * num_ranks)) * 2
    padded = torch.zeros(size * num_ranks)
    padded[: TOTALS[group]] = whole(kind, group)
    return padded[size * rank : size * (rank + 1)]


def save_stage2(directory, num_ranks):
    torch.save(
        {"param_shapes": SHAPES, "dp_world_size": num_ranks}, directory / "x_model_states.pt"
    )
    for rank in range(num_ranks):
        masters = [part2("fp32", g, rank, num_ranks) for g in range(2)]
        for g in range(2):  # DeepSpeed takes the padding off the end
            end = min(masters[g].numel(), TOTALS[g] - masters[g].numel() * rank)
            masters[g] = masters[g][: max(end, 0)].clone()
        state = {
            g: {"step": torch.tensor(4.0)}
            | {key: part2(key, g, rank, num_ranks).clone() for key in KINDS if key != "fp32"}
            for g in range(2)
        }
        base = {"state": state, "param_groups": [{"params": [0]}, {"params": [1]}]}
        write(
            directory,
            rank,
            {"base_optimizer_state": base, "single_partition_of_fp32_groups": masters},
        )


def part3(kind, names, rank, num_ranks):
    """Every parameter in equal parts, padded to the ranks."""
    made = []
    for name in names:
        (group,) = [g for g in range(2) if name in SHAPES[g]]
        before = [shape.numel() for shape in SHAPES[group].values()][: NAMES[group].index(name)]
        own = whole(kind, group)[sum(before) :][: SHAPES[group][name].numel()]
        size = math.ceil(own.numel() / num_ranks)
        padded = torch.zeros(size * num_ranks)
        padded[: own.numel()] = own
        made.append(padded[size * rank : size * (rank + 1)])
    return torch.cat(made)


def save_stage3(directory, num_ranks, groups):
    torch.save(
        {"param_shapes": SHAPES, "dp_world_size": num_ranks}, directory / "x_model_states.pt"
    )
    for rank in range(num_ranks):
        state = {
            g: {"step": torch.tensor(4.0)}
            | {key: part3(key, names, rank, num_ranks) for key in KINDS if key != "fp32"}
            for g, names in enumerate(groups)
        }
        optimizer = {"state": state, "param_groups": [{"params": [*range(len(groups))]}]}
        flat = [part3("fp32", names, rank, num_ranks) for names in groups]
        write(directory, rank, {"optimizer_state_dict": optimizer, "fp32_flat_groups": flat})


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_saved", [1, 2, 4, 11])
def test_every_element_lands_where_the_new_ranks_look_for_it(tmp_path, num_saved, num_ranks):
    save_stage2(tmp_path, num_saved)
    assert len(optimizer_files(tmp_path)) == num_saved
    for rank in range(num_ranks):
        sizes = [part2("fp32", g, rank, num_ranks).numel() for g in range(2)]
        files = Rearranged(tmp_path, load, Cut(rank, num_ranks, sizes))
        assert files.load("any/mp_rank_00_model_states.pt")["dp_world_size"] == num_ranks
        made = files.load("any/zero_pp_rank_7_optim_states.pt")["optimizer_state_dict"]
        for g in range(2):
            state = made["base_optimizer_state"]["state"][g]
            found = {"fp32": made["single_partition_of_fp32_groups"][g], **state}
            assert found.pop("step") == 4.0
            for kind, tensor in found.items():
                assert torch.equal(tensor, part2(kind, g, rank, num_ranks)), (kind, g, rank)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_saved", [1, 2, 4, 11])
def test_so_it_does_in_zero3_in_other_groups_too(tmp_path, num_saved, num_ranks):
    save_stage3(tmp_path, num_saved, [["a"], ["b", "c"], ["d", "e"]])
    groups = [["a", "b", "c", "d"], ["e"]]
    for rank in range(num_ranks):
        sizes = [part3("fp32", names, rank, num_ranks).numel() for names in groups]
        files = Rearranged(tmp_path, load, Cut(rank, num_ranks, sizes, groups))
        made = files.load("any/zero_pp_rank_7_optim_states.pt")["optimizer_state_dict"]
        state = made["optimizer_state_dict"]["state"]
        assert made["optimizer_state_dict"]["param_groups"] == [{"params": [0, 1]}]
        assert state[0]["step"] is not state[1]["step"]  # an optimizer adds to them in place
        for g, names in enumerate(groups):
            found = {"fp32": made["fp32_flat_groups"][g], **state[g]}
            assert found.pop("step") == 4.0
            for kind, tensor in found.items():
                assert torch.equal(tensor, part3(kind, names, rank, num_ranks)), (kind, g, rank)


def break_sizes(directory):
    (directory / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()


def break_layout(directory):
    write(directory, 1, {"clip_grad": 1.0})


@pytest.mark.parametrize("damage", [break_sizes, break_layout])
def test_a_layout_that_does_not_fit_is_refused_and_says_the_way_out(tmp_path, damage):
    save_stage2(tmp_path, 2)
    damage(tmp_path)
    files = Rearranged(tmp_path, load, Cut(0, 3, [10, 20]))
    with pytest.raises(TrainingError, match=rf"{re.escape(str(tmp_path))} cannot be re-arranged"):
        files.load("zero_pp_rank_0_optim_states.pt")
