import math

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS
from fromage_cli.diagnostics.inspect.measure import measure
from fromage_cli.diagnostics.inspect.result import NO_SPECTRUM, NOT_READ, UNKNOWN_DTYPE, DtypeTotal


def measured(tmp_path, tensors, **options):
    save_file(tensors, tmp_path / "step-7.safetensors")
    return measure(open_checkpoint(tmp_path / "step-7.safetensors"), **options)


def test_a_closed_form(tmp_path):
    result = measured(tmp_path, {"w": torch.tensor([[3.0, 0.0], [0.0, -4.0]]), "n": torch.tensor(5)})
    by_name = {tensor.name: tensor for tensor in result.tensors}
    w = by_name["w"]
    assert (w.dtype, w.shape, w.elements, w.norm, w.rms, w.max_abs, w.zeros) == ("float32", (2, 2), 4, 5.0, 2.5, 4.0, 2)
    assert (w.nonfinite, w.nan, w.spectral_norm) == (0, 0, NO_SPECTRUM)
    assert by_name["n"].norm == 5.0
    assert (result.format, result.step, result.optimizer, result.duplicates) == ("safetensors", 7, None, ())
    assert "nothing in it could run" in result.reading


def test_totals_by_dtype(tmp_path):
    tensors = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(5), "i": torch.zeros(2, dtype=torch.int64)}
    totals = measured(tmp_path, tensors).totals
    assert (totals.tensors, totals.parameters, totals.bytes, totals.zeros) == (3, 8, 42, 2)
    assert set(totals.dtypes) == {
        DtypeTotal("bfloat16", 1, 3, 6),
        DtypeTotal("float32", 1, 5, 20),
        DtypeTotal("int64", 1, 2, 16),
    }


def test_tied_tensors_count_once(tmp_path):
    shared = torch.randn(4, 3)
    torch.save({"a": shared, "b": shared, "c": torch.randn(2)}, tmp_path / "c.pt")
    result = measure(open_checkpoint(tmp_path / "c.pt"))
    assert result.tied == (("a", "b"),)
    assert (result.totals.parameters, result.totals.bytes) == (14, 56)
    assert "nothing in them was executed" in result.reading


def test_what_is_not_finite(tmp_path):
    (tensor,) = measured(tmp_path, {"w": torch.tensor([1.0, math.nan, math.inf])}).tensors
    assert (tensor.nonfinite, tensor.nan) == (2, 1)
    assert math.isnan(tensor.norm or 0.0)


def test_it_says_what_is_at_work(tmp_path):
    said = {}

    def advance(elements, doing):
        said[doing] = said.get(doing, 0.0) + elements

    measured(tmp_path, {"w": torch.eye(3), "b": torch.ones(2)}, spectrum=True, advance=advance)
    assert said == {
        "reading the optimizer's state": 0.0,
        "reading step-7.safetensors": 11,
        "comparing tensors that look alike": 0.0,
        "singular values of b, 1 of 2": 0.0,
        "singular values of w, 2 of 2": 27,
    }


def test_headers_read_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr("os.preadv", None)
    result = measured(tmp_path, {"w": torch.ones(2, 3)}, headers=True)
    (tensor,) = result.tensors
    assert (tensor.shape, tensor.elements, tensor.norm, tensor.zeros) == ((2, 3), 6, NOT_READ, NOT_READ)
    assert (result.duplicates, result.totals.zeros, result.totals.bytes) == (NOT_READ, NOT_READ, 24)


def test_dtypes_without_plain_numbers_are_listed_and_not_measured(tmp_path, monkeypatch):
    monkeypatch.delitem(WIDTHS, "int16")  # as for a dtype that is newer than the table
    torch.save({"odd": torch.ones(4, dtype=torch.int16), "w": torch.ones(2)}, tmp_path / "c.pt")
    result = measure(open_checkpoint(tmp_path / "c.pt"))
    by_name = {tensor.name: tensor for tensor in result.tensors}
    assert by_name["odd"].norm == UNKNOWN_DTYPE
    assert by_name["w"].norm == pytest.approx(math.sqrt(2))
    assert DtypeTotal("int16", 1, 4, UNKNOWN_DTYPE) in result.totals.dtypes
