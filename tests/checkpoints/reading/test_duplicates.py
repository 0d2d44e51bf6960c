import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading.duplicates import find_duplicates
from fromage_cli.checkpoints.reading.reductions import measure_magnitudes


@pytest.fixture(params=["safetensors", "torch"])
def duplicates(request, tmp_path):
    def find(**tensors):
        path = tmp_path / "c.file"
        save_file(tensors, path) if request.param == "safetensors" else torch.save(tensors, path)
        checkpoint = open_checkpoint(path)
        return find_duplicates(checkpoint, measure_magnitudes(checkpoint))

    return find


def test_equal_bytes_are_found(duplicates):
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    assert duplicates(a=a, b=b, c=a.clone(), d=b.clone(), e=a.reshape(3, 4).clone()) == (("a", "c"), ("b", "d"))


def test_equal_magnitudes_are_not_enough(duplicates):
    a = torch.randn(5)
    assert duplicates(a=a, b=a.flip(0).clone(), c=a.double()) == ()


def test_constants_are_no_news(duplicates):
    assert duplicates(a=torch.ones(5), b=torch.ones(5), c=torch.zeros(3), d=torch.zeros(3)) == ()
    assert duplicates(a=torch.tensor(2.0), b=torch.tensor(2.0)) == ()


def test_what_is_tied_is_not_named_again(tmp_path):
    a = torch.randn(4)
    torch.save({"a": a, "b": a, "c": a.clone()}, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert checkpoint.tied == (("a", "b"),)
    assert find_duplicates(checkpoint, measure_magnitudes(checkpoint)) == (("a", "c"),)
