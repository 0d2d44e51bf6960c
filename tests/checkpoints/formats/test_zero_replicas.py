"""Copies in ZeRO's files: none differs in a sound checkpoint, and one flipped value is found where it lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.checkpoints.reading.replicas import ComparedReplica, comparable, compare_replicas
from tests.checkpoints.formats.save_zero import save_zero

RANK = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
MODEL = "mp_rank_00_model_states.pt"


def save(directory: Path, stage: int, ranks: int, narrow: torch.dtype = torch.bfloat16) -> Path:
    """Two groups, one frozen vector, BatchNorm's statistics and a mask, after two steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3), nn.Linear(3, 5))
    model.register_buffer("mask", torch.ones(3))
    model[3].bias.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if (p.dim() > 1) == flag]} for flag in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(2):
        model(torch.randn(6, 5)).square().mean().backward()
        optimizer.step()
    save_zero(directory, model, optimizer, stage=stage, ranks=ranks, step=40, narrow=narrow)
    return directory


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def compared(directory: Path) -> tuple[Checkpoint, dict[str, ComparedReplica]]:
    checkpoint = open_checkpoint(directory)
    found = compare_replicas(comparable(checkpoint.replicas))
    return checkpoint, {one.replica.name: one for one in found}


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 4)])
def test_a_sound_checkpoint_has_copies_that_agree(tmp_path: Path, stage: int, ranks: int, narrow: torch.dtype) -> None:
    _, found = compared(save(tmp_path / "c", stage, ranks, narrow))
    assert all(one.difference is not None and not one.difference.differ for one in found.values())
    kinds = {name: one.replica.kind for name, one in found.items()}
    if stage < 3:  # the frozen vector is one tensor under two names where nothing is narrower
        assert {name for name, kind in kinds.items() if kind == "tensor"} == {
            *("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "3.weight"),
            *(["3.bias"] if narrow != torch.float32 else []),
        }
    else:
        buffers = {"mask", "1.num_batches_tracked"} if ranks > 1 else set()
        assert {name for name, kind in kinds.items() if kind != "setting"} == buffers
    settings = {"lr of group 0", "betas of group 1", "weight_decay of group 0", "step of state 0", "step of state 1"}
    assert settings <= set(kinds) if ranks > 1 else "lr of group 0" not in kinds


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_flipped_value_in_the_16_bit_copy(tmp_path: Path, ranks: int) -> None:
    directory = save(tmp_path / "c", 2, ranks)
    rewrite(directory / MODEL, lambda c: c["module"]["2.weight"].view(-1)[4].mul_(2.0))
    _, found = compared(directory)
    (one,) = [each for each in found.values() if each.apart]
    assert (one.replica.name, one.difference.differ, one.difference.largest) == ("2.weight", 1, 0.5)
    names = [file.name for file in one.files]
    assert names[-1] == MODEL and set(names[:-1]) <= {RANK.format(rank) for rank in range(ranks)} and len(names) > 1


def test_a_master_that_went_on_alone_names_its_ranks(tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 2, 2)
    rewrite(
        directory / RANK.format(1),
        lambda c: [part.mul_(4.0) for part in c["optimizer_state_dict"]["single_partition_of_fp32_groups"]],
    )
    checkpoint, found = compared(directory)
    apart = {name: one for name, one in found.items() if one.apart}
    assert apart and all(one.difference.largest == 0.75 for one in apart.values())
    assert all(RANK.format(1) in [file.name for file in one.files] for one in apart.values())
    narrow = torch.load(directory / MODEL, weights_only=False)["module"]
    for name, one in apart.items():
        read = checkpoint.tensor(name).to(torch.bfloat16)
        assert one.difference.differ == int((read != narrow[name]).sum())


@pytest.mark.parametrize("stage", [2, 3])
def test_settings_and_counts_of_one_rank(tmp_path: Path, stage: int) -> None:
    directory = save(tmp_path / "c", stage, 2)
    kept = "optimizer_state_dict" if stage == 3 else "base_optimizer_state"

    def change(content: dict[str, Any]) -> None:
        base = content["optimizer_state_dict"][kept]
        base["param_groups"][1]["lr"] = 0.005
        base["state"][0]["step"] = torch.tensor(1.0)

    rewrite(directory / RANK.format(1), change)
    _, found = compared(directory)
    apart = {name: (one.difference.differ, one.difference.largest) for name, one in found.items() if one.apart}
    assert apart == {"lr of group 1": (1, 0.5), "step of state 0": (1, 0.5)}
    assert [file.name for file in found["lr of group 1"].files] == [RANK.format(0), RANK.format(1)]


def test_a_buffer_of_one_rank_in_stage_3(tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 3, 2)
    rewrite(
        directory / f"zero_pp_rank_1_{MODEL}",
        lambda c: c["module"].update({"mask": torch.zeros(3).bfloat16(), "1.running_mean": torch.ones(7).bfloat16()}),
    )
    _, found = compared(directory)
    assert [(name, one.replica.kind) for name, one in found.items() if one.apart] == [("mask", "buffer")]


def test_hostile_copies_are_ignored_or_said_to_differ(tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 2, 2)

    def change(content: dict[str, Any]) -> None:
        content["module"].update({"0.weight": torch.ones(2, 2), "0.bias": "text", "2.bias": torch.ones(3).cfloat()})
        content["module"].update({"2.weight": content["module"]["2.weight"].t().contiguous().t(), "x": torch.ones(2)})

    rewrite(directory / MODEL, change)
    _, found = compared(directory)
    assert found["0.weight"].difference is None and not {"0.bias", "2.bias", "x"} & set(found)
    assert found["2.weight"].difference.differ == 0  # transposed in its file

    def odd(content: dict[str, Any]) -> None:
        base = content["optimizer_state_dict"]["base_optimizer_state"]
        base["param_groups"][0].update({"huge": 2**70, "betas": [0.9] * 9, "text": "x", "eps": None})
        base["param_groups"].append("no group")

    rewrite(directory / RANK.format(1), odd)
    assert "betas of group 1" in compared(directory)[1]
    rewrite(directory / MODEL, lambda c: c.update(module=None))
    assert all(one.replica.kind == "setting" for one in compared(directory)[1].values())
    rewrite(directory / RANK.format(0), lambda c: c["optimizer_state_dict"].update(base_optimizer_state=5))
    assert compared(directory)[1] == {}


def test_shared_parameters_are_compared_once(tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 2, 2)
    rewrite(
        directory / MODEL,
        lambda c: (
            c.update(shared_params={"head.weight": "2.weight"}),
            c["module"].update({"head.weight": c["module"]["2.weight"]}),
        ),
    )
    assert "head.weight" not in compared(directory)[1]
