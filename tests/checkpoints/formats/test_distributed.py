import os
import pickle
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from fromage_cli.checkpoints import find_series, match_parameters, open_checkpoint
from fromage_cli.checkpoints.finding.trainer_files import load_optimizer
from fromage_cli.errors import InputError, UnsafeError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What two processes saved together, and the whole of it."""
    directory = tmp_path_factory.mktemp("two-processes")
    script = Path(__file__).with_name("save_sharded.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, directory], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return directory


@pytest.fixture(scope="module")
def whole(saved):
    return torch.load(saved / "whole.pt")


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved / "distributed", tmp_path / "step-300"))


def alone(directory, content, **settings):
    dcp.save(content, checkpoint_id=directory, no_dist=True, **settings)
    return open_checkpoint(directory)


def test_settings_and_counters_beside_the_weights_are_told(tmp_path):
    content = {"model": {"w": torch.ones(3, 3)}, "step": torch.tensor(7), "args": {"width": 3, "name": "x"}}
    assert alone(tmp_path, content).also_holds == {"step": 7, "args": {"width": 3, "name": "x"}}


@pytest.mark.parametrize(
    ("name", "form", "step", "key"),
    [
        ("distributed", "torch-distributed", 7, "model"),
        ("flattened", "torch-distributed", 7, None),
        ("safetensors", "safetensors-distributed", None, None),
    ],
)
def test_uneven_shards_of_two_processes_are_read_bit_for_bit(saved, whole, name, form, step, key):
    checkpoint = open_checkpoint(saved / name)
    assert (checkpoint.format, checkpoint.step, checkpoint.key) == (form, step, key)
    assert set(checkpoint.entries) == set(whole["model"])
    for parameter, tensor in checkpoint.items():
        assert checkpoint.entries[parameter].shape == tuple(tensor.shape)
        assert torch.equal(tensor, whole["model"][parameter])
        for begin, end in combinations(range(len(tensor) + 1), 2):
            assert torch.equal(checkpoint.rows(parameter, begin, end), tensor[begin:end])
    assert not torch.distributed.is_initialized()
    assert checkpoint.replicas == ()  # torch writes what ranks share once
    assert find_series(saved / name).paths == (saved / name,)


def test_rows_of_columns_that_two_processes_saved(saved, whole):
    checkpoint = open_checkpoint(saved / "columns")
    assert checkpoint.entries["wide"].dtype == "bfloat16"
    for begin, end in combinations(range(5), 2):
        assert torch.equal(checkpoint.rows("wide", begin, end), whole["wide"][begin:end])


def test_shards_without_the_rows_are_not_opened(copy, whole):
    checkpoint = open_checkpoint(copy)
    (copy / "__1_0.distcp").unlink()
    assert torch.equal(checkpoint.rows("0.weight", 1, 4), whole["model"]["0.weight"][1:4])
    with pytest.raises(InputError, match=r"__1_0.distcp' does not exist"):
        checkpoint.rows("0.weight", 3, 5)


@pytest.mark.parametrize("name", ["distributed", "flattened"])
def test_the_optimizers_state_and_settings_are_found(saved, whole, name):
    checkpoint = open_checkpoint(saved / name)
    state = checkpoint.optimizer
    assert [group.settings["weight_decay"] for group in state.groups] == [0.1, 0.0]
    assert state.groups[0].settings["betas"] == (0.9, 0.999)
    numbers = match_parameters(state, {key: entry.shape for key, entry in checkpoint.entries.items()})
    for parameter, slot in whole["optimizer"]["state"].items():
        assert all(torch.equal(state.slots[numbers[parameter]][key], value) for key, value in slot.items())
    assert load_optimizer(saved / name).groups == state.groups


def test_the_highest_complete_step_of_a_run(copy):
    later = Path(shutil.copytree(copy, copy.with_name("step-400")))
    (later / "__1_0.distcp").unlink()
    checkpoint = open_checkpoint(copy.parent)
    assert checkpoint.weights == copy / ".metadata"
    assert "1 of 2 shards are missing" in checkpoint.notes[0]
    assert open_checkpoint(copy / ".metadata").parameters == checkpoint.parameters


def test_what_accelerate_writes(saved, whole, tmp_path):
    run = tmp_path / "checkpoint-20"
    model, optimizer = whole["model"], whole["optimizer"]
    dcp.save({"model": model}, checkpoint_id=run / "pytorch_model_fsdp_0", no_dist=True)
    dcp.save({"optimizer": optimizer}, checkpoint_id=run / "optimizer_0", no_dist=True)
    (run / "trainer_state.json").write_text('{"global_step": 20}')
    checkpoint = open_checkpoint(run)
    assert (checkpoint.step, set(checkpoint.entries)) == (20, set(model))
    assert len(checkpoint.optimizer.slots) == len(model)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64, torch.float64]
)
def test_every_dtype_scalars_and_empty_tensors(tmp_path, dtype):
    content = {
        "w": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.ones(()).to(dtype),
        "none": torch.empty(0, 4),
    }
    checkpoint = alone(tmp_path / "c", content)
    for name, tensor in checkpoint.items():
        assert (tensor.dtype, tensor.shape) == (content[name].dtype, content[name].shape)
        assert tensor.reshape(-1).view(torch.uint8).tolist() == content[name].reshape(-1).view(torch.uint8).tolist()


def test_a_key_and_a_copy_are_picked_as_in_a_file(tmp_path):
    content = {"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(3)}, "cfg": {"lr": 0.1}}
    alone(tmp_path / "c", content)
    assert open_checkpoint(tmp_path / "c").key == "model"
    assert open_checkpoint(tmp_path / "c", ema=True).key == "ema"
    assert open_checkpoint(tmp_path / "c", "ema").parameters == 3
    with pytest.raises(UsageError, match="names no dictionary"):
        open_checkpoint(tmp_path / "c", "cfg")


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp"])
def test_a_missing_or_shortened_shard_is_named(copy, name):
    shard = copy / name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{name}' is incomplete: it should have"):
        open_checkpoint(copy)
    shard.unlink()
    with pytest.raises(InputError, match=f"1 of 2 shards are missing: '{name}'"):
        open_checkpoint(copy)


def test_a_save_that_never_ended(copy):
    (copy / ".metadata").unlink()
    with pytest.raises(
        InputError, match=r"incomplete: it holds 2 shards of a torch.distributed.checkpoint but no \.metadata"
    ):
        open_checkpoint(copy)


def test_a_shard_is_refused_alone(copy):
    with pytest.raises(InputError, match=r"one shard of a torch\.distributed"):
        open_checkpoint(copy / "__0_0.distcp")


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def rewritten(directory, change):
    """The same metadata, as PyTorch's own classes write it, after a change."""
    metadata = pickle.loads((directory / ".metadata").read_bytes())
    change(metadata)
    (directory / ".metadata").write_bytes(pickle.dumps(metadata))


def test_metadata_run_nothing(copy, tmp_path, whole):
    marker = tmp_path / "marker"
    rewritten(copy, lambda metadata: setattr(metadata, "storage_meta", Payload(marker)))
    assert torch.equal(open_checkpoint(copy).tensor("0.weight"), whole["model"]["0.weight"])
    assert not marker.exists()


def first_tensor(metadata):
    return metadata.state_dict_metadata["model.0.weight"]


def first_place(metadata):
    """Where the piece of four rows of five lies."""
    keys = {(index.fqn, index.offset): index for index in metadata.storage_data}
    return vars(metadata.storage_data[keys["model.0.weight", torch.Size((0, 0))]])


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda m: vars(next(iter(m.storage_data.values()))).update(relative_path="../x"), UnsafeError, "outside its"),
        (lambda m: m.storage_data.clear(), InputError, "does not say where"),
        (lambda m: first_tensor(m).chunks.pop(), InputError, "not have its number of elements"),
        (
            lambda m: setattr(first_tensor(m).chunks[0], "offsets", torch.Size((6, 0))),
            InputError,
            "lies outside the tensor",
        ),
        (lambda m: setattr(first_tensor(m).chunks[1], "offsets", torch.Size((0, 0))), InputError, "use the same bytes"),
        (lambda m: first_place(m).update(length=79), InputError, "more elements than the bytes"),
        (lambda m: setattr(first_tensor(m), "size", (-1, 5)), InputError, "has the shape"),
        (lambda m: setattr(first_tensor(m), "size", (2**61, 2**61)), InputError, "has the shape"),
        (lambda m: m.planner_data.update({"step": ("model", "0.weight")}), InputError, "occurs twice"),
        (lambda m: m.planner_data.update({"step": ("model", "0.weight", "x")}), InputError, "inside a tensor"),
        (lambda m: m.planner_data.update({"step": tuple("abcdefgh" * 9)}), InputError, "dictionaries deep"),
        (lambda m: setattr(m, "state_dict_metadata", None), InputError, "not the metadata of a"),
        (lambda m: m.state_dict_metadata.update(step=5), InputError, "neither a tensor nor an object"),
    ],
)
def test_metadata_that_contradict_themselves(copy, change, kind, words):
    rewritten(copy, change)
    with pytest.raises(kind, match=words):
        open_checkpoint(copy).tensor("0.weight")


def test_a_piece_of_another_shape_than_said(copy):
    def swap(metadata):
        by_name = {(index.fqn, index.offset): info for index, info in metadata.storage_data.items()}
        places = [by_name["model.0.weight", torch.Size(offsets)] for offsets in ((0, 0), (4, 0))]
        first, second = [dict(vars(place)) for place in places]
        vars(places[0]).update(second)
        vars(places[1]).update(first)

    rewritten(copy, swap)
    with pytest.raises(InputError, match=r"a piece of \[4, 5\] is \[3, 5\]"):
        open_checkpoint(copy).tensor("0.weight")
