"""Files of a bundle are safetensors and JSON, complete or not there."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fromage_cli.bundle.writing import Written, replacing, whole, write_tensors, write_text
from fromage_cli.errors import InputError

TENSORS = {
    "float": torch.randn(3, 4),
    "turned": torch.randn(4, 3).t(),
    "part": torch.randn(10)[2:5],
    "half": torch.randn(2).half(),
    "narrow": torch.randn(2, 2).bfloat16(),
    "wide": torch.randn(2).double(),
    "whole": torch.arange(5),
    "truth": torch.tensor([True, False]),
    "scalar": torch.tensor(3.0),
    "nothing": torch.zeros(0, 3),
    "conjugate": torch.complex(torch.ones(3), torch.arange(3.0)).conj(),
    "trained": torch.nn.Parameter(torch.ones(2)),
}


def test_tensors_are_read_by_safetensors_itself(tmp_path: Path) -> None:
    digest = write_tensors(tmp_path / "t", [whole(name, tensor) for name, tensor in TENSORS.items()], {"step": "3"})
    found = load_file(tmp_path / "t")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach().resolve_conj())
    assert digest == hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest()


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", [], {})
    assert load_file(tmp_path / "t") == {}


def test_a_type_that_safetensors_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="narrow has the type"):
        write_tensors(tmp_path / "t", [whole("narrow", torch.zeros(2, dtype=torch.complex128))], {})
    assert not (tmp_path / "t").exists()


def test_each_tensor_is_made_when_it_is_its_turn(tmp_path: Path) -> None:
    made: list[int] = []

    def get(place: int) -> torch.Tensor:
        made.append(place)
        return torch.full((2,), float(place))

    written = [Written(str(place), torch.float32, (2,), partial(get, place)) for place in range(3)]
    write_tensors(tmp_path / "t", written, {})
    assert made == [0, 1, 2]


def test_a_text_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    assert write_text(tmp_path / "t", "é\n") == hashlib.sha256("é\n".encode()).hexdigest()
    assert (tmp_path / "t").read_bytes() == "é\n".encode()


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "b"
    with replacing(place) as new:
        (new / "bundle.json").write_text("1")
        assert not place.exists()
    assert [path.name for path in place.iterdir()] == ["bundle.json"]
    with pytest.raises(RuntimeError, match="stopped"), replacing(place) as new:
        (new / "bundle.json").write_text("2")
        raise RuntimeError("stopped")
    assert (place / "bundle.json").read_text() == "1"
    assert [path.name for path in place.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["notes.txt", "bundle.json.bak", "sub"])
def test_what_is_no_bundle_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bundle.json").write_text("1")
    (tmp_path / "b" / name).mkdir() if name == "sub" else (tmp_path / "b" / name).write_text("mine")
    with pytest.raises(InputError, match="exists and is no bundle"), replacing(tmp_path / "b"):
        raise AssertionError("it is not entered")
    assert (tmp_path / "b" / name).exists()


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with replacing(tmp_path / "b") as new:
        (new / "bundle.json").write_text("1")
    assert (tmp_path / "b" / "bundle.json").exists()
