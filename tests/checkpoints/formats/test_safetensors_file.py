import os

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import TensorEntry, open_checkpoint
from fromage_cli.errors import InputError, UsageError

DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
]


def content_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1,)])
def test_round_trips_bit_exactly(tmp_path, name, shape):
    dtype = getattr(torch, name)
    raw = torch.randint(0, 2 if name == "bool" else 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    original = raw.reshape(-1).view(dtype).reshape(shape)
    save_file({"w": original, "other": torch.ones(3)}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.entries["w"] == TensorEntry("w", name, shape)
    read = checkpoint.tensor("w")
    assert (read.dtype, tuple(read.shape)) == (dtype, shape)
    assert content_of(read) == content_of(original)


def test_each_tensor_has_memory_of_its_own(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4)}, path)
    checkpoint = open_checkpoint(path)
    checkpoint.tensor("w").zero_()
    assert checkpoint.tensor("w").tolist() == [1.0] * 4


def test_metadata_step_and_parameters(tmp_path):
    path = tmp_path / "step-5.safetensors"
    save_file({"w": torch.ones(4, 2), "n": torch.tensor(3)}, path, metadata={"global_step": "120", "lr": "0.1"})
    checkpoint = open_checkpoint(path)
    assert (checkpoint.step, checkpoint.parameters, checkpoint.format) == (120, 8, "safetensors")
    assert checkpoint.metadata == {"global_step": "120", "lr": "0.1"}
    assert (checkpoint.key, checkpoint.tied, checkpoint.stripped, checkpoint.notes) == (None, (), (), ())


def test_a_file_that_changes_after_it_was_opened_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4)}, path)
    checkpoint = open_checkpoint(path)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(InputError, match="changed while"):
        checkpoint.tensor("w")


def test_an_unknown_name_gets_the_nearest(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"layer.weight": torch.ones(4), "layer.bias": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"no tensor 'layer\.wieght'") as caught:
        open_checkpoint(path).tensor("layer.wieght")
    assert "'layer.weight'" in caught.value.hint


def test_a_key_has_no_meaning(tmp_path):
    save_file({"w": torch.ones(4)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="--key 'model'"):
        open_checkpoint(tmp_path / "x.safetensors", key="model")


def test_names_are_kept_as_they_are(tmp_path):
    name = "a\x1b[31m [red]\n.weight"
    save_file({name: torch.ones(1)}, tmp_path / "x.safetensors")
    assert list(open_checkpoint(tmp_path / "x.safetensors").entries) == [name]
