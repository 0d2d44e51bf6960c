from itertools import combinations

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import match_parameters, open_checkpoint
from fromage_cli.errors import InputError, UsageError
from tests.checkpoints.formats.save_zero import save_zero


@pytest.fixture
def trained():
    """Matrices and vectors in groups of their own, a buffer, and a frozen tensor of 5 numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3), nn.Linear(3, 5))
    model[3].bias.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(2):
        model(torch.randn(6, 5)).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture(
    params=[(1, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 4)], ids=lambda pair: "stage{}-ranks{}".format(*pair)
)
def saved(request, tmp_path, trained):
    stage, ranks = request.param
    save_zero(tmp_path / "run" / "global_step40", *trained, stage=stage, ranks=ranks, step=40)
    return tmp_path / "run" / "global_step40"


def test_the_float32_weights_are_put_together_bit_for_bit(saved, trained):
    model, _ = trained
    for path in (saved, saved.parent):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format.startswith("deepspeed-zero")
        assert (checkpoint.step, list(checkpoint.entries)) == (40, list(model.state_dict()))
        assert "float32 master weights" in checkpoint.notes[-1]
        assert checkpoint.also_holds["global_steps"] == 40 and "param_shapes" not in checkpoint.also_holds
        for name, tensor in checkpoint.items():
            trained_one = name.endswith(("weight", "bias")) and name != "3.bias"
            expected = model.state_dict()[name]
            assert checkpoint.entries[name].shape == tuple(expected.shape)
            assert torch.equal(tensor, expected if trained_one else expected.to(tensor.dtype))
            assert not trained_one or tensor.dtype is torch.float32
            for begin, end in combinations(range(len(tensor) + 1 if tensor.dim() else 0), 2):
                assert torch.equal(checkpoint.rows(name, begin, end), tensor[begin:end])


def test_the_optimizers_state_is_put_together_too(saved, trained):
    model, optimizer = trained
    state = open_checkpoint(saved).optimizer
    assert [group.settings["weight_decay"] for group in state.groups] == [0.1, 0.0]
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    numbers = match_parameters(state, shapes)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            slot = state.slots[numbers[name]]
            assert all(torch.equal(slot[key], value) for key, value in optimizer.state[parameter].items())


def write(tmp_path, trained, stage=2, ranks=2):
    save_zero(tmp_path / "global_step40", *trained, stage=stage, ranks=ranks, step=40)
    return tmp_path / "global_step40"


def test_the_16_bit_copy_is_there_for_those_who_name_it(tmp_path, trained):
    directory = write(tmp_path, trained)
    checkpoint = open_checkpoint(directory, "module")
    assert {entry.dtype for entry in checkpoint.entries.values()} == {"float16", "int64"}
    with pytest.raises(UsageError, match="--ema"):
        open_checkpoint(directory, ema=True)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_missing_rank_is_told(tmp_path, trained, stage):
    directory = write(tmp_path, trained, stage)
    (directory / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(InputError, match="1 of 2 optim_states files are there"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["mp_rank_01_model_states.pt", "zero_pp_rank_0_mp_rank_01_optim_states.pt"])
def test_parallel_shards_are_refused_with_a_hint(tmp_path, trained, name):
    directory = write(tmp_path, trained)
    (directory / name).write_bytes((directory / "mp_rank_00_model_states.pt").read_bytes())
    with pytest.raises(InputError, match="tensor- or pipeline-parallel shards") as caught:
        open_checkpoint(directory)
    assert "ds_to_universal" in caught.value.hint


def rewrite(path, change):
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        (2, lambda c: c["optimizer_state_dict"]["single_partition_of_fp32_groups"].pop(), "2 groups of parameters"),
        (2, lambda c: c["optimizer_state_dict"].pop("single_partition_of_fp32_groups"), "no float32 weights"),
        (2, lambda c: c.clear(), "no float32 weights"),
        (2, lambda c: c["optimizer_state_dict"].clear(), "no float32 weights"),
        (2, lambda c: c["optimizer_state_dict"].update(single_partition_of_fp32_groups=[torch.ones(9)] * 2), "needs"),
        (3, lambda c: c["optimizer_state_dict"].update(fp32_flat_groups=[torch.ones(9)] * 2), "each rank needs"),
        (3, lambda c: c["optimizer_state_dict"].update(fp32_flat_groups=[torch.ones(3, 3)]), "no float32 weights"),
    ],
)
def test_parts_that_do_not_add_up_are_refused(tmp_path, trained, stage, change, words):
    directory = write(tmp_path, trained, stage)
    rewrite(directory / "zero_pp_rank_1_mp_rank_00_optim_states.pt", change)
    with pytest.raises(InputError, match=words):
        open_checkpoint(directory)


def test_parts_of_a_frozen_parameter_are_vectors(tmp_path, trained):
    directory = write(tmp_path, trained, 3)
    path = directory / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    rewrite(path, lambda c: c["frozen_param_fragments"].update({"3.bias": torch.ones(3, 3)}))
    with pytest.raises(InputError, match="not complete"):
        open_checkpoint(directory)


def test_a_count_of_ranks_that_is_none(tmp_path, trained):
    directory = write(tmp_path, trained)
    rewrite(
        directory / "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        lambda c: c["optimizer_state_dict"].update(partition_count=["x", None, 9]),
    )
    with pytest.raises(InputError, match="of 9 optim_states files are there"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(param_shapes=None), "does not list"),
        (lambda c: c["param_shapes"][0].update({"0.weight": (2**62, 2**62)}), "has the shape"),
        (lambda c: c["param_shapes"][0].update({"0.weight": (-1, 2)}), "has the shape"),
        (lambda c: c["frozen_param_fragments"].clear(), "not complete"),
    ],
)
def test_descriptions_that_lie_are_refused(tmp_path, trained, change, words):
    directory = write(tmp_path, trained)
    rewrite(directory / "mp_rank_00_model_states.pt", change)
    with pytest.raises(InputError, match=words):
        open_checkpoint(directory)


def test_shared_parameters_are_one(tmp_path, trained):
    directory = write(tmp_path, trained)
    rewrite(directory / "mp_rank_00_model_states.pt", lambda c: c.update(shared_params={"head.weight": "2.weight"}))
    checkpoint = open_checkpoint(directory)
    assert checkpoint.tied == (("2.weight", "head.weight"),)
    assert torch.equal(checkpoint.tensor("head.weight"), checkpoint.tensor("2.weight"))


def test_without_zero_the_models_own_weights_are_taken(tmp_path):
    torch.save({"module": {"w": torch.ones(2)}, "global_steps": 3}, tmp_path / "mp_rank_00_model_states.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.key, checkpoint.step) == ("torch", "module", 3)
