import math
import os
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import chunks
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.pairs import measure_pair
from fromage_cli.checkpoints.reading.reductions import measure_magnitudes, measure_norms, measure_rows
from fromage_cli.errors import InputError

LARGE = 45_000_000
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
MEMORY = """
import sys
from pathlib import Path
from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading.reductions import measure_magnitudes
assert measure_magnitudes(open_checkpoint(sys.argv[1]))["w"].zeros == int(sys.argv[2])
assert "torch" not in sys.modules
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
assert int(status["VmHWM"].split()[0]) < 100_000, status["VmHWM"]
"""


def reduced(tensors, tmp_path):
    save_file(tensors, tmp_path / "c.safetensors")
    return measure_magnitudes(open_checkpoint(tmp_path / "c.safetensors"))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int32, torch.int64, torch.uint8], ids=str)
def test_45_million_elements_to_six_digits(dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    part = (torch.randn(1_000_003, generator=generator) * (0.03 if dtype.is_floating_point else 20)).to(dtype)
    times, exactly = LARGE // len(part), part.double()
    tensor = part.repeat(times)
    exact = math.sqrt(times * math.fsum(exactly.square().tolist()))
    found = reduced({"w": tensor}, tmp_path)["w"]
    assert found.norm == pytest.approx(exact, rel=1e-6)
    assert found.largest == float(exactly.abs().max())
    assert found.zeros == times * int((exactly == 0).sum())
    assert (found.elements, found.nonfinite) == (tensor.numel(), 0)
    (norms,) = measure_norms([open_checkpoint(tmp_path / "c.safetensors")])
    assert norms == {"w": pytest.approx(exact, rel=1e-6)}


@pytest.mark.parametrize("size", [0, 1, 7, 100, 101])
def test_chunks_of_every_length(size, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 10)
    monkeypatch.setattr(chunks, "JOB", 30)
    tensor = torch.arange(size, dtype=torch.float32) - 3
    found = reduced({"w": tensor, "h": tensor.bfloat16(), "e": torch.zeros(0, 3)}, tmp_path)
    for name in ("w", "h"):
        assert found[name].norm == pytest.approx(float(tensor.double().norm()), rel=1e-12)
        assert (found[name].elements, found[name].zeros) == (size, int(size > 3))
    assert found["e"].elements == 0


@pytest.mark.parametrize("shape", [(7, 3), (4, 10), (3, 25), (2, 40), (5, 4, 2), (1, 100), (6,), (0, 3), (3, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8], ids=str)
def test_norms_of_rows(shape, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 10)
    monkeypatch.setattr(chunks, "JOB", 30)
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 20).to(dtype)
    save_file({"w": tensor}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    rows = measure_rows(checkpoint, ["w"])["w"]
    assert rows.norms == pytest.approx(
        tensor.double().reshape(shape[0], math.prod(shape[1:])).norm(dim=1).numpy(), rel=1e-6
    )
    whole = measure_magnitudes(checkpoint)["w"]
    assert rows.magnitudes.norm == pytest.approx(whole.norm, rel=1e-6)
    assert rows.magnitudes == whole


def test_norms_of_long_rows_to_six_digits(tmp_path):
    tensor = torch.randn(3, 300_001, generator=torch.Generator().manual_seed(0)) + 0.1
    save_file({"w": tensor}, tmp_path / "c.safetensors")
    rows = measure_rows(open_checkpoint(tmp_path / "c.safetensors"), ["w"])["w"]
    assert rows.norms == pytest.approx(tensor.double().norm(dim=1).numpy(), rel=1e-6)


@pytest.mark.parametrize(("value", "norm"), [(math.nan, math.nan), (-math.inf, math.inf)])
def test_rows_that_are_not_finite(value, norm, tmp_path):
    save_file({"w": torch.tensor([[3.0, 4.0], [1.0, value], [0.0, 0.0]])}, tmp_path / "c.safetensors")
    rows = measure_rows(open_checkpoint(tmp_path / "c.safetensors"), ["w"])["w"]
    assert (rows.magnitudes.norm, rows.magnitudes.largest) == pytest.approx((norm, norm), nan_ok=True)
    assert rows.norms.tolist() == pytest.approx([5.0, norm, 0.0], nan_ok=True)


@pytest.mark.parametrize("values", [(math.nan, math.inf), (math.inf, math.nan)])
def test_nan_in_one_part_and_infinity_in_another(values, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2)
    monkeypatch.setattr(chunks, "JOB", 4)
    save_file({"w": torch.tensor([[values[0], *[1.0] * 8, values[1]]])}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    rows = measure_rows(checkpoint, ["w"])["w"]
    found = (
        measure_norms([checkpoint])[0]["w"],
        measure_magnitudes(checkpoint)["w"].norm,
        rows.magnitudes.norm,
        *rows.norms,
    )
    assert len(found) == 4 and all(map(math.isnan, found))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_equal_bytes_have_equal_norms_wherever_they_lie(dtype, tmp_path):
    """Behind tensors of odd sizes, in another format, and by every command's own way of reading."""
    tensor = torch.randn(3, 100_003, generator=torch.Generator().manual_seed(0)).to(dtype)
    for index, before in enumerate((0, 1, 1023, 3 * chunks.CHUNK + 7)):
        save_file({"a": torch.ones(before, dtype=torch.uint8), "w": tensor}, tmp_path / f"{index}.safetensors")
    torch.save({"a": torch.ones(5, dtype=torch.uint8), "w": tensor}, tmp_path / "4.pt")
    torch.save({"w": tensor.T.contiguous().T}, tmp_path / "5.pt")
    series = [open_checkpoint(path) for path in sorted(tmp_path.iterdir())]
    found = {norms["w"] for norms in measure_norms(series, ["w"])}
    found |= {measure_magnitudes(one)["w"].norm for one in series}
    found |= {measure_rows(one, ["w"])["w"].magnitudes.norm for one in series}
    for one in series[1:]:
        pair = measure_pair(series[0], one, "w")
        assert (pair.difference, pair.angle) == (0.0, 0.0)
        found |= {pair.first, pair.second}
    assert len(found) == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_to_the_digits_that_are_printed(dtype, tmp_path):
    """Sizes over many orders of magnitude, equal entries whose rounding does not cancel, and several chunks."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(chunks.CHUNK + 5, generator=generator) * 2 ** torch.randint(
        -7, 7, (chunks.CHUNK + 5,), generator=generator
    )
    tensors = {"spread": spread.to(dtype), "equal": torch.full((2 * chunks.CHUNK,), 0.1).to(dtype)}
    found = reduced(tensors, tmp_path)
    for name, tensor in tensors.items():
        exact = math.sqrt(math.fsum(value * value for value in tensor.double().tolist()))
        assert found[name].norm == pytest.approx(exact, rel=1e-14)


def test_norms_of_a_series(tmp_path):
    done = []
    for step in range(5):
        tensors = {"a": torch.full((4, 5), float(step)), "b": torch.tensor([1.0, math.inf if step == 3 else 2.0])}
        save_file({**tensors, "n": torch.tensor([math.nan])}, tmp_path / f"{step}.safetensors")
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "5.pt")
    series = [open_checkpoint(tmp_path / f"{step}.safetensors") for step in range(5)]
    found = measure_norms([*series, open_checkpoint(tmp_path / "5.pt")], ["b", "a"], lambda *told: done.append(told))
    assert [list(norms) for norms in found] == [["b", "a"]] * 6
    assert [norms["a"] for norms in found] == pytest.approx(
        [0, *(step * math.sqrt(20) for step in range(1, 5)), 2**0.5]
    )
    assert [norms["b"] for norms in found] == pytest.approx([5**0.5] * 3 + [math.inf, 5**0.5, 3**0.5])
    assert sum(elements for elements, _ in done) == 5 * 22 + 5
    assert [*dict.fromkeys(words for _, words in done)] == [
        *(f"reading {step}.safetensors" for step in range(5)),
        "reading 5.pt",
    ]
    assert all(math.isnan(norms["n"]) for norms in measure_norms(series))


@pytest.mark.parametrize("value", [1e30, 1e-30])
def test_norms_whose_squares_leave_float32(value, tmp_path):
    save_file({"w": torch.full((1600,), value), "m": torch.tensor([[value], [1.0]])}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    assert measure_norms([checkpoint])[0]["w"] == pytest.approx(40 * value, rel=1e-6)
    assert measure_rows(checkpoint, ["m"])["m"].norms.tolist() == pytest.approx([value, 1.0], rel=1e-6)


def test_the_order_of_the_file_and_the_same_digits_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 100)
    monkeypatch.setattr(chunks, "JOB", 100)
    monkeypatch.setattr(chunks, "threads", lambda: 4)
    tensors = {f"t{index}": torch.randn(1037) for index in range(20)}
    save_file(tensors, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    before = set(threading.enumerate())
    first = measure_magnitudes(checkpoint)
    assert list(first) == list(checkpoint.entries)
    assert all(measure_magnitudes(checkpoint) == first for _ in range(5))
    assert list(measure_magnitudes(checkpoint, ["t3", "t1"])) == ["t3", "t1"]
    assert set(threading.enumerate()) <= before


def test_torch_files_give_the_same(tmp_path):
    tensors = {"a": torch.randn(50, 3), "b": torch.randn(7).to(torch.float8_e5m2), "c": torch.tensor([1 + 1j])}
    torch.save({**tensors, "q": torch.randn(5, 4).T}, tmp_path / "c.pt")
    found = measure_magnitudes(open_checkpoint(tmp_path / "c.pt"))
    assert found["a"] == reduced({"a": tensors["a"]}, tmp_path)["a"]
    assert found["b"].norm == pytest.approx(float(tensors["b"].double().norm()))
    assert found["c"].norm == pytest.approx(math.sqrt(2))
    assert found["q"].elements == 20


def test_equal_bytes_have_equal_digests_whatever_holds_them(tmp_path):
    tensors = {"a": torch.randn(2 * CHUNK + 5), "b": torch.randn(7).to(torch.bfloat16), "empty": torch.ones(0)}
    save_file(tensors, tmp_path / "c.safetensors")
    torch.save(tensors, tmp_path / "c.pt")
    torch.save({**tensors, "a": tensors["a"].flip(0)}, tmp_path / "other.pt")
    digests = [{} for _ in range(3)]
    for name, taken in zip(("c.safetensors", "c.pt", "other.pt"), digests, strict=True):
        checkpoint = open_checkpoint(tmp_path / name)
        assert measure_magnitudes(checkpoint, digests=taken) == measure_magnitudes(checkpoint)
    first, second, third = digests
    assert first == second and set(first) == set(tensors)
    assert first["a"] != third["a"] and first["b"] == third["b"]


def test_the_elements_done_are_told(tmp_path):
    done = []
    save_file({"a": torch.ones(5), "b": torch.ones(2, 3)}, tmp_path / "c.safetensors")
    measure_magnitudes(open_checkpoint(tmp_path / "c.safetensors"), advance=lambda *told: done.append(told))
    assert done == [(5, "reading c.safetensors"), (6, "reading c.safetensors")]


def test_a_file_that_changed_is_refused(tmp_path):
    save_file({"a": torch.ones(5)}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    save_file({"a": torch.ones(6)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="changed while it was being read"):
        measure_magnitudes(checkpoint)


def test_a_file_cut_off_meanwhile_is_refused(tmp_path, monkeypatch):
    save_file({"a": torch.ones(5)}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(InputError, match="incomplete"):
        measure_magnitudes(checkpoint)


def test_memory_stays_small_whatever_the_size(tmp_path):
    elements = 1 << 29  # two gigabytes of zeros, which a sparse file need not store
    header = b'{"w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (elements, 4 * elements)
    with (tmp_path / "c.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * elements)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "c.safetensors"), str(elements)]
    subprocess.run(command, check=True)
