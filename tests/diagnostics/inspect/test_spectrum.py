import math

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.inspect.measure import measure
from fromage_cli.diagnostics.inspect.spectrum import COPIES, spectrum_cost
from fromage_cli.missing import Why
from fromage_cli.theory import spectra


def found(tmp_path, tensor):
    save_file({"w": tensor}, tmp_path / "c.safetensors")
    return measure(open_checkpoint(tmp_path / "c.safetensors"), spectrum=True).tensors[0]


def orthogonal(rows, columns):
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64))[0]


def test_known_singular_values(tmp_path):
    values = torch.tensor([6.0, 3.0, 2.0], dtype=torch.float64)
    tensor = found(tmp_path, orthogonal(8, 3) * values @ orthogonal(3, 3))
    assert tensor.spectral_norm == pytest.approx(6.0)
    assert tensor.stable_rank == pytest.approx(49 / 36)
    assert tensor.condition_number == pytest.approx(3.0)


def test_a_convolution_is_a_matrix_of_its_outputs(tmp_path):
    tensor = torch.randn(4, 3, 2, 2, dtype=torch.bfloat16)
    exact = torch.linalg.svdvals(tensor.double().reshape(4, 12))
    assert found(tmp_path, tensor).condition_number == pytest.approx(float(exact[0] / exact[-1]))


def test_without_full_rank_the_condition_number_is_infinite(tmp_path):
    assert found(tmp_path, torch.outer(torch.arange(1.0, 6.0), torch.arange(1.0, 5.0))).condition_number == math.inf
    zeros = found(tmp_path, torch.zeros(3, 3))
    assert (zeros.spectral_norm, zeros.stable_rank, zeros.condition_number) == (0.0, 1.0, math.inf)


def test_large_matrices_have_a_spectral_norm_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(spectra, "DENSE", 4)
    tensor = torch.randn(130, 120)
    large = found(tmp_path, tensor)
    assert large.spectral_norm == pytest.approx(float(torch.linalg.svdvals(tensor)[0]), rel=1e-3)
    assert large.condition_number.code == Why.TOO_LARGE


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.full((2, 2), math.nan)])
def test_what_has_no_spectrum(tmp_path, tensor):
    assert found(tmp_path, tensor).spectral_norm.code in (Why.NOT_DEFINED, Why.ZERO_OR_NOT_FINITE)
    assert found(tmp_path, torch.ones(0, 3)).spectral_norm.code == Why.NOT_DEFINED


def test_the_cost_of_large_matrices_is_more(tmp_path):
    save_file({"w": torch.ones(30, 20), "v": torch.ones(9)}, tmp_path / "small.safetensors")
    save_file({"w": torch.ones(300, 200)}, tmp_path / "large.safetensors")
    small, large = (spectrum_cost(open_checkpoint(tmp_path / f"{name}.safetensors")) for name in ("small", "large"))
    assert large[1] - small[1] == COPIES * 8 * (60_000 - 600)
    assert 0.0 < small[0] < large[0]
