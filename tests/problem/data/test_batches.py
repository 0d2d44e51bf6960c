import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.errors import InputError, MismatchError, NumericalError, UnsafeError, UsageError
from fromage_cli.problem.data.batches import as_batch, load_batches


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def nest() -> dict[str, Any]:
    return {
        "x": torch.arange(12.0).reshape(4, 3),
        "pair": Pair(torch.arange(4), torch.ones(4, 1)),
        "more": [{"z": torch.zeros(4, dtype=torch.bool)}, "text", None, 3],
    }


def test_rows_slice_every_tensor_and_keep_the_rest() -> None:
    rows = as_batch(nest(), "here").rows(1, 3)
    assert rows.size == 2
    assert torch.equal(rows.data["x"], torch.arange(3.0, 9.0).reshape(2, 3))
    assert isinstance(rows.data["pair"], Pair)
    assert rows.data["pair"].first.tolist() == [1, 2]
    assert rows.data["more"][1:] == ["text", None, 3]
    assert as_batch(nest(), "here").rows(3, 9).size == 1


def test_only_floating_tensors_are_cast() -> None:
    moved = as_batch(nest(), "here").to("cpu", torch.float64)
    assert moved.data["x"].dtype is torch.float64
    assert moved.data["pair"].first.dtype is torch.int64
    assert moved.data["more"][0]["z"].dtype is torch.bool


def test_arrays_become_tensors_and_graphs_are_cut() -> None:
    weight = torch.ones(2, requires_grad=True)
    batch = as_batch({"a": np.ones((2, 3), dtype=">f4"), "b": np.array([1, 2], dtype=np.uint16), "c": weight * 2}, "s")
    assert batch.data["a"].dtype is torch.float32
    assert batch.data["b"].dtype is torch.int64
    assert not batch.data["c"].requires_grad


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({"a": "text"}, InputError, "holds no tensors"),
        (
            {"x": torch.ones(3, 2), "y": torch.ones(2)},
            MismatchError,
            r"differ in their first .*x float32\[3, 2\], y float32\[2\]",
        ),
        ({"x": torch.ones(0, 2)}, InputError, "has no rows"),
        ({"x": torch.ones(2), "t": torch.tensor(1.0)}, MismatchError, "t in the batch from there has no dimension"),
        ({"x": torch.tensor([1.0, torch.nan, torch.inf])}, NumericalError, "2 of 3 values"),
        ({"x": torch.eye(2).to_sparse()}, InputError, "not a dense tensor"),
        ({"x": np.array(["a", "b"])}, InputError, "expected numbers"),
    ],
)
def test_what_is_no_batch_is_refused(data: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        as_batch(data, "there")


def test_a_mask_may_hold_minus_infinity() -> None:
    assert as_batch({"mask": torch.tensor([0.0, -torch.inf])}, "here").size == 2


def test_files_of_named_tensors(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 2), "y": torch.tensor([0, 1, 1])}
    save_file(tensors, tmp_path / "b.safetensors")
    torch.save(tensors, tmp_path / "b.pt")
    np.savez(tmp_path / "b.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    for name in ("b.safetensors", "b.pt", "b.npz"):
        batch = load_batches(str(tmp_path / name), allow_code=False)[0]
        assert batch.size == 3
        assert batch.source == str(tmp_path / name)
        assert all(torch.equal(batch.data[key], tensor) for key, tensor in tensors.items())


def test_parts_know_their_first_row_and_draw_from_a_seed_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("import torch\ndef several():\n    yield from torch.ones(20, 2).split(8)\n")
    batches = load_batches(f"{tmp_path / 'data.py'}:several", count=2, spare=1)
    assert [batch.first for batch in batches] == [0, 8, 16]
    part = batches[1].rows(2, 6).rows(1, 3).to("cpu", torch.float64)
    assert (part.first, part.size) == (11, 2)
    assert 7 != batches[0].seed(7) == batches[0].rows(0, 3).seed(7)  # rows are often drawn from the seed itself
    assert len({batch.seed(seed) for batch in (*batches, part) for seed in (0, 1)}) == 8


def test_a_function_returns_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.py").write_text(
        "import torch, numpy\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "def nested(scale=1):\n    print('loading')\n    return {'x': numpy.ones((2, 3)), 'more': [torch.ones(2)]}\n"
        "def drawn():\n    return torch.randn(3, 2)\n"
        "def loader():\n    return DataLoader(TensorDataset(torch.arange(6.), torch.arange(6)), batch_size=4)\n"
        "def generator():\n    yield torch.zeros(2)\n    raise RuntimeError('the second is not asked for')\n"
        "ready = (torch.ones(5, 1), torch.ones(5))\n"
    )
    spec = f"{tmp_path / 'data.py'}:"
    assert load_batches(spec + "nested")[0].data["x"].shape == (2, 3)
    assert capsys.readouterr().out == ""
    assert load_batches(spec + "loader")[0].data[0].tolist() == [0, 1, 2, 3]
    assert load_batches(spec + "generator")[0].size == 2
    assert load_batches(spec + "ready")[0].size == 5
    first, again, other = (load_batches(spec + "drawn", seed=seed)[0].data for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (
            "def f():\n    raise OSError('no disk')\n",
            MismatchError,
            r"OSError while calling --batch .*data.py:2\): no disk",
        ),
        ("def f(path):\n    return path\n", MismatchError, r"missing a required argument: 'path'.*f\(path\)"),
        ("def f():\n    return 3\n", MismatchError, "gave a int; expected a batch or an iterator"),
        ("def f():\n    return iter([])\n", InputError, "without a batch"),
        ("def f():\n    yield 1 / 0\n", MismatchError, "ZeroDivisionError while taking the first batch"),
        ("class f:\n    def __getitem__(self, i): ...\n", MismatchError, "expected a batch or an iterator"),
        (
            "import torch\ndef f():\n    return {'x': torch.ones(2), 'y': torch.ones(3)}\n",
            MismatchError,
            "differ in their first",
        ),
    ],
)
def test_what_a_function_gets_wrong_is_said(tmp_path: Path, body: str, error: type[Exception], words: str) -> None:
    (tmp_path / "data.py").write_text(body)
    with pytest.raises(error, match=words):
        load_batches(f"{tmp_path / 'data.py'}:f")


def test_a_data_set_is_sent_to_a_loader(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("class f:\n    def __getitem__(self, i): ...\n")
    with pytest.raises(MismatchError) as caught:
        load_batches(f"{tmp_path / 'data.py'}:f")
    assert "DataLoader" in caught.value.hint


def test_code_that_may_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="--batch"):
        load_batches("data.py:f", allow_code=False)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("gone.npz", InputError, "does not exist"),
        ("folder.npz", InputError, "is a directory"),
        ("pipe.npz", InputError, "is not a regular file"),
        ("table.csv", InputError, "'.csv', which is not supported"),
        ("file.py", UsageError, "does not name a function"),
        ("digits", UsageError, "neither a file nor code"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[Exception], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "table.csv").touch()
    with pytest.raises(error, match=words):
        load_batches(spec)


@pytest.mark.parametrize(("count", "spare", "found"), [(1, 0, 1), (1, 2, 3), (2, 9, 4), (4, 1, 4)])
def test_spare_batches_are_as_many_as_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, spare: int, found: int
) -> None:
    (tmp_path / "data.py").write_text(
        "import torch\ndef several():\n    for _ in range(4):\n        yield torch.ones(2)\n"
        "def one():\n    return torch.ones(2)\n"
    )
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    monkeypatch.chdir(tmp_path)
    assert len(load_batches("data.py:several", count=count, spare=spare)) == found
    assert len(load_batches("data.py:one", spare=spare)) == 1
    drawn = load_batches("tokens.bin", count=count, spare=spare, sequence_length=4, sequences=2)
    assert len(drawn) == count + spare


def test_tensors_of_inference_mode_can_be_part_of_a_graph_and_complex_ones_are_cast() -> None:
    with torch.inference_mode():
        data = torch.ones(2, 3), torch.ones(2, dtype=torch.complex64)
    batch = as_batch(data, "here").to("cpu", torch.float64)
    assert [tensor.dtype for tensor in batch.data] == [torch.float64, torch.complex128]
    assert not any(tensor.is_inference() for tensor in as_batch(data, "here").data)


def test_numbers_of_eight_bits_are_widened() -> None:
    batch = as_batch({"x": torch.ones(2, 3).to(torch.float8_e4m3fn)}, "here")
    assert batch.data["x"].dtype is torch.float32


def test_a_batch_that_holds_itself_is_refused() -> None:
    data: list[Any] = [torch.ones(2, 3)]
    data.append(data)
    with pytest.raises(MismatchError, match="nested too deep"):
        as_batch(data, "here")


def test_batches_that_come_in_one_and_the_same_memory_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "reusing.py").write_text(
        "import numpy\n\ndef draw():\n    held = numpy.zeros((2, 3))\n    for number in range(3):\n"
        "        held[:] = number\n        yield held\n"
    )
    found = load_batches(f"{tmp_path / 'reusing.py'}:draw", count=2, spare=1)
    assert [float(batch.data.mean()) for batch in found] == [0.0, 1.0, 2.0]
