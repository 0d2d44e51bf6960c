import numpy as np
import pytest
import torch

from fromage_cli.checkpoints.formats.safetensors_file import DTYPES
from fromage_cli.checkpoints.reading.widening import FLOAT8, Widening
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS

EVERY_BYTE = torch.arange(256, dtype=torch.uint8)


def widened(tensor: torch.Tensor) -> np.ndarray:
    stored = tensor.reshape(-1).view(torch.uint8).numpy()
    return Widening(max(tensor.numel(), 1)).widened(stored, str(tensor.dtype).removeprefix("torch.")).astype(np.float64)


@pytest.mark.parametrize("name", [*FLOAT8, "float8_e8m0fnu"])
def test_every_float8_is_torchs(name):
    tensor = EVERY_BYTE.view(getattr(torch, name))
    np.testing.assert_array_equal(widened(tensor), tensor.to(torch.float32).double().numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [65536, 65535, 1, 0])
def test_every_half_is_torchs(dtype, size):
    tensor = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)[:size].clone()
    np.testing.assert_array_equal(widened(tensor), tensor.double().numpy())


@pytest.mark.parametrize("name", [n for n in WIDTHS if n[0] in "iub" and n != "bfloat16"])
def test_whole_numbers(name):
    tensor = torch.tensor([0, 1, 1, 0, 1], dtype=torch.uint8).to(getattr(torch, name))
    np.testing.assert_array_equal(widened(tensor), [0, 1, 1, 0, 1])


def test_the_ends_of_signed_numbers():
    np.testing.assert_array_equal(widened(torch.tensor([-128, 127], dtype=torch.int8)), [-128, 127])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_by_their_absolute_values(dtype):
    np.testing.assert_array_equal(widened(torch.tensor([3 + 4j, 0], dtype=dtype)), [5, 0])


def test_every_dtype_of_safetensors_has_its_width():
    assert set(DTYPES.values()) <= WIDTHS.keys()
    assert {name: getattr(torch, name).itemsize for name in WIDTHS} == WIDTHS
