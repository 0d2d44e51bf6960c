import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.errors import InputError, UnsafeError, UsageError
from fromage_cli.problem.data.batch_files import READERS, read_tokens
from fromage_cli.problem.data.batches import load_batches


def read(path: Path) -> Any:
    return READERS[path.suffix](path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.98])
def test_a_truncated_file_is_an_input_error(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"batch{suffix}"
    tensors = {"x": torch.randn(40, 3)}
    if suffix == ".safetensors":
        save_file(tensors, path)
    elif suffix == ".npz":
        np.savez(path, x=tensors["x"].numpy())
    else:
        torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if 0 < kept < 1 else int(kept)])
    with pytest.raises(InputError, match="not a complete"):
        read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_a_file_of_something_else_is_an_input_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"batch{suffix}"
    path.write_bytes(b"These are words and nothing that could be loaded as a tensor.\n" * 4)
    with pytest.raises((InputError, UnsafeError)):
        read(path)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a pickle was executed')",))


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x=np.array([Runs()], dtype=object))
    torch.save({"x": Runs()}, tmp_path / "b.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Runs()}))
    for name in ("b.npz", "b.pt", "plain.pt"):
        with pytest.raises(UnsafeError, match="never executed"):
            read(tmp_path / name)


def test_unnamed_arrays_are_a_tuple(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", np.ones((2, 3)), np.zeros(2))
    first, second = read(tmp_path / "b.npz")
    assert (first.shape, second.shape) == ((2, 3), (2,))


def test_tokens_are_drawn_at_seeded_places_and_shifted_by_one(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.arange(60_000, 60_100, dtype=np.uint16).tofile(path)
    batch = read_tokens(path, 8, 5, seed=0)
    assert batch["x"].shape == batch["y"].shape == (5, 8)
    assert batch["x"].dtype is torch.int64
    assert torch.equal(batch["y"], batch["x"] + 1)
    assert torch.equal(batch["x"], read_tokens(path, 8, 5, seed=0)["x"])
    assert not torch.equal(batch["x"], read_tokens(path, 8, 5, seed=1)["x"])


def test_the_shortest_file_of_tokens_is_used_up(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.arange(5, dtype=np.uint16).tofile(path)
    assert read_tokens(path, 4, 2, seed=0)["y"].tolist() == [[1, 2, 3, 4]] * 2
    with pytest.raises(InputError, match=r"holds 5 tokens; --seq-len 5 needs at least 6"):
        read_tokens(path, 5, 2, seed=0)


@pytest.mark.parametrize(("length", "sequences"), [(None, 4), (4, None), (0, 4), (4, 0)])
def test_tokens_need_a_length_and_a_number(tmp_path: Path, length: int | None, sequences: int | None) -> None:
    (tmp_path / "train.bin").write_bytes(bytes(40))
    with pytest.raises(UsageError, match="--seq-len and --sequences"):
        read_tokens(tmp_path / "train.bin", length, sequences, seed=0)


def test_half_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(bytes(41))
    with pytest.raises(InputError, match="odd number of bytes"):
        read_tokens(tmp_path / "train.bin", 4, 4, seed=0)


def test_what_torch_saves_keeps_its_nest_and_holds_arrays_too(tmp_path: Path) -> None:
    torch.save(
        {"x": (torch.ones(2), ["text", None, 3]), "y": np.arange(2.0), "w": nn.Parameter(torch.zeros(2))},
        tmp_path / "b.pt",
    )
    torch.save([torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t()], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    found = read(tmp_path / "b.pt")
    assert isinstance(found["x"], tuple) and found["x"][1] == ["text", None, 3]
    assert found["y"].tolist() == [0.0, 1.0]
    assert not found["w"].requires_grad
    assert read(tmp_path / "old.pt")[0].tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_files_that_claim_far_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1, 1).expand(2**38, 4)}, tmp_path / "expanded.pt")
    with pytest.raises(InputError, match="was expanded from 4 bytes"):
        read(tmp_path / "expanded.pt")
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(5_000_000))
    with pytest.raises(InputError, match="would inflate"):
        read(tmp_path / "zeros.npz")
    itself: list[Any] = []
    itself.append(itself)
    torch.save(itself, tmp_path / "itself.pt")
    with pytest.raises(InputError, match="contains itself"):
        read(tmp_path / "itself.pt")


def test_compressed_data_are_read(tmp_path: Path) -> None:
    digits = np.random.default_rng(0).integers(0, 10, 400_000)
    np.savez_compressed(tmp_path / "b.npz", x=np.eye(10)[digits])
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        assert archive.getinfo("x.npy").file_size > 40 * archive.getinfo("x.npy").compress_size
    assert read(tmp_path / "b.npz")["x"].shape == (400_000, 10)


def test_arrays_of_texts_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x=np.ones(2), labels=np.array(["a", "b"]))
    with pytest.raises(InputError, match="'labels'"):
        read(tmp_path / "b.npz")


def test_one_sequence_of_one_token_is_enough(tmp_path: Path) -> None:
    np.array([7, 8], dtype=np.uint16).tofile(tmp_path / "train.bin")
    batch = read_tokens(tmp_path / "train.bin", 1, 1, seed=0)
    assert (batch["x"].tolist(), batch["y"].tolist()) == ([[7]], [[8]])


def test_a_batch_stays_what_it_was_when_its_file_changes(tmp_path: Path) -> None:
    x = torch.arange(400.0).reshape(100, 4)
    save_file({"x": x}, tmp_path / "b.safetensors")
    torch.save({"x": x}, tmp_path / "b.pt")
    np.savez(tmp_path / "b.npz", x=x.numpy())
    np.arange(2000, dtype="<u2").tofile(tmp_path / "b.bin")
    for path in sorted(tmp_path.iterdir()):
        batch = load_batches(str(path), sequence_length=4, sequences=2)[0].data["x"]
        before = batch.clone()
        path.write_bytes(bytes(path.stat().st_size))
        assert torch.equal(batch, before)
        path.write_bytes(b"")
        assert torch.equal(batch, before)


def test_a_file_of_tokens_that_is_cut_short_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.arange(2000, dtype="<u2").tofile(tmp_path / "b.bin")
    read = np.fromfile

    def cut(path: Path, *arguments: Any, **named: Any) -> Any:
        path.write_bytes(b"\0" * 8)
        return read(path, *arguments, **named)

    monkeypatch.setattr(np, "fromfile", cut)
    with pytest.raises(InputError, match="became shorter"):
        read_tokens(tmp_path / "b.bin", 4, 2, seed=0)
