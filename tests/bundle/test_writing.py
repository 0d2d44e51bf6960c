"""Files of a bundle: what safetensors itself reads, hashes, and a directory that is replaced at once or not at all."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fromage_cli.bundle.writing import Written, replacing, whole, write_tensors, write_text
from fromage_cli.errors import InputError

TENSORS = {
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "scalar": torch.tensor(3, dtype=torch.int64),
    "half": torch.linspace(-1, 1, 7).bfloat16(),
    "truth": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 5),
    "conjugate": torch.complex(torch.ones(3), torch.arange(3.0)).conj(),
}


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    digest = write_tensors(path, [whole(name, tensor) for name, tensor in TENSORS.items()], {"step": "3"})
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor.resolve_conj()) for name, tensor in TENSORS.items())
    assert all(read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_tensor_is_made_when_it_is_its_turn(tmp_path: Path) -> None:
    made: list[int] = []

    def get(place: int) -> torch.Tensor:
        made.append(place)
        return torch.full((2,), float(place))

    written = [Written(str(place), torch.float32, (2,), lambda place=place: get(place)) for place in range(3)]
    write_tensors(tmp_path / "w.safetensors", written, {})
    write_tensors(None, written, {})  # as the other ranks do, which only gather
    assert made == [0, 1, 2, 0, 1, 2]


def test_a_type_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex128"):
        write_tensors(tmp_path / "w", [whole("z", torch.zeros(2, dtype=torch.complex128))], {})


def test_a_text_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    digest = write_text(tmp_path / "t", "Δ")
    assert digest == hashlib.sha256("Δ".encode()).hexdigest()


def test_a_directory_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "b"
    for text in ("first", "second"):
        with replacing(place) as new:
            (new / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(RuntimeError), replacing(place) as new:
        (new / "bundle.json").write_text("half of it", encoding="utf-8")
        raise RuntimeError
    assert (place / "bundle.json").read_text(encoding="utf-8") == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("there", ["notes.txt", "sub"])
def test_another_directory_stays(tmp_path: Path, there: str) -> None:
    (tmp_path / "b" / there).mkdir(parents=True)
    with pytest.raises(InputError, match="is no bundle"), replacing(tmp_path / "b"):
        raise AssertionError("nothing is to be written")
    assert [path.name for path in (tmp_path / "b").iterdir()] == [there]
