"""Layers of equal bytes in several checkpoints, as a user and a script are told of them."""

import json

import numpy
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK

MISSING = "it takes several checkpoints of one network, and stands with the last of them"


@pytest.fixture
def save(tmp_path):
    def save(name, tensors):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        elif path.suffix == ".npz":
            numpy.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})
        else:
            torch.save(tensors, path)
        return path

    return save


@pytest.fixture
def inspected(run):
    """The envelopes of a call, and the findings on equal layers with the place of the file that they stand with."""

    def inspect(*arguments):
        envelopes = json.loads(run(*arguments, "--json")[1])
        envelopes = envelopes if isinstance(envelopes, list) else [envelopes]
        told = [(place, one) for place, envelope in enumerate(envelopes) for one in envelope["findings"]]
        return envelopes, [(place, one) for place, one in told if one["code"] == "layers-unchanged"]

    return inspect


def weights(step, moving=("head.weight",)):
    """Four layers of which the named ones move, and what is no layer: a bias, a gain of ones, a counter."""
    tensors = {}
    for seed, (name, shape) in enumerate(
        {"a.weight": (4, 3), "b.weight": (5, 4), "c.weight": (2, 3, 3), "head.weight": (3, 4)}.items()
    ):
        tensors[name] = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + step * (name in moving)
    vectors = {"a.bias": torch.arange(3.0), "norm.weight": torch.ones(4)}
    return {**tensors, **vectors, "norm.num_batches_tracked": torch.tensor(7)}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz"])
def test_all_layers_frozen_but_one(save, inspected, suffix):
    paths = [save(f"step-{step}.{suffix}", weights(step)) for step in range(3)]
    envelopes, ((place, finding),) = inspected(*paths)
    assert (place, finding["severity"], finding["value"], finding["layer"]) == (2, "info", 3.0, None)
    said = "3 layers hold the same bytes in all 3 checkpoints, while others moved: a.weight, b.weight, c.weight"
    assert finding["message"] == said
    results = [envelope["result"] for envelope in envelopes]
    frozen = ["a.weight", "b.weight", "c.weight"]
    assert results[2]["unchanged"] == {"checkpoints": 3, "layer_count": 4, "layers": frozen}
    for result in results[:2]:
        assert result["unchanged"] is None
        assert result["missing"]["unchanged"] == {"code": "no-steps-between", "reason": MISSING}


def test_formats_are_compared_with_each_other(save, inspected):
    large = {"large": torch.arange(1.5 * CHUNK).reshape(3, -1)}
    paths = [
        save(f"step-{step}.{suffix}", weights(step) | large) for step, suffix in enumerate(("safetensors", "pt", "npz"))
    ]
    envelopes, ((_, finding),) = inspected(*paths)
    assert set(envelopes[2]["result"]["unchanged"]["layers"]) == {"a.weight", "b.weight", "c.weight", "large"}
    assert finding["value"] == 4.0


def test_a_layer_that_returns_has_its_chunks_swapped_or_differs_in_one_entry_is_not_equal(save, inspected):
    rows = torch.arange(2.0 * CHUNK).reshape(2, CHUNK)  # a row a chunk
    tensors = []
    for step in range(3):
        bit = rows + 1.0
        bit[1, -1] += 0.5 * (step == 2)
        swapped = (rows.flip(0) if step == 1 else rows).clone()
        tensors.append(
            {"returns": torch.full((2, 2), step % 2.0), "bit": bit, "swapped": swapped, "still": torch.eye(3)}
        )
    paths = [save(f"step-{step}.safetensors", one) for step, one in enumerate(tensors)]
    ((_, finding),) = inspected(*paths)[1]
    assert finding["layer"] == "still"
    assert finding["message"] == "1 layer holds the same bytes in all 3 checkpoints, while others moved: still"


def test_equal_numbers_of_another_type_are_other_bytes(save, inspected):
    zeros = torch.zeros(2, 2)
    paths = [save("half.safetensors", {"w": zeros.half()}), save("brain.safetensors", {"w": zeros.bfloat16()})]
    envelopes, findings = inspected(*paths)
    assert not findings and envelopes[1]["result"]["unchanged"]["layers"] == []


def test_where_no_layer_moved_that_is_said(save, inspected):
    paths = [save(f"{name}.pt", weights(1) | {"a.bias": torch.rand(3)}) for name in "ab"]
    ((_, finding),) = inspected(*paths)[1]
    assert finding["message"].startswith(
        "no layer moved, as 4 layers hold the same bytes in both checkpoints: a.weight"
    )
    assert finding["hint"].startswith("Possible causes: the same weights under several names")


def test_nothing_is_said_where_every_layer_moved_or_nothing_can_be_compared(save, inspected):
    first, second, third = (save(f"step-{step}.safetensors", weights(step)) for step in range(3))
    moving = [save(f"moving-{step}.safetensors", weights(step, weights(0))) for step in range(2)]
    assert inspected(first)[1] == []
    assert inspected(*moving)[1] == []  # the counter and the ones are no layers
    assert inspected(first, second, "--headers")[1] == []
    vectors = [save(f"{name}.pt", {"gain": torch.ones(3), "count": torch.tensor(1)}) for name in "ab"]
    envelopes, findings = inspected(*vectors)
    assert not findings and envelopes[1]["result"]["unchanged"] is None
    third.write_bytes(third.read_bytes()[:100])
    _, ((place, finding),) = inspected(first, third, second)
    assert place == 2 and "in both checkpoints" in finding["message"]


def test_networks_are_compared_with_their_like_alone(save, inspected):
    one, other = ([save(f"{name}-{step}.pt", make(step)) for step in range(2)] for name, make in NETWORKS.items())
    assert inspected(one[0], other[0])[1] == []
    (place, finding), (place_of_other, finding_of_other) = inspected(one[0], other[0], one[1], other[1])[1]
    assert (place, finding["value"], place_of_other, finding_of_other["layer"]) == (2, 3.0, 3, "a.weight")
    assert "both checkpoints" in finding["message"] and "both checkpoints" in finding_of_other["message"]


NETWORKS = {
    "small": weights,
    "large": lambda step: {"a.weight": weights(0)["a.weight"], "b.weight": torch.full((9, 4), float(step))},
}


def test_a_tied_layer_counts_once(save, inspected):
    def tied(step):
        shared = torch.eye(3)
        return {"token": shared, "output": shared, "w": torch.full((2, 2), 1.0 + step)}

    envelopes, ((_, finding),) = inspected(*(save(f"step-{step}.pt", tied(step)) for step in range(2)))
    assert finding["layer"] == "token" and envelopes[1]["result"]["unchanged"]["layer_count"] == 2


def test_every_file_is_read_once_and_before_the_next(save, inspected, monkeypatch):
    read, tensor = [], Checkpoint.tensor

    def noted(checkpoint, name):
        read.append((checkpoint.path.name, name))
        return tensor(checkpoint, name)

    monkeypatch.setattr(Checkpoint, "tensor", noted)
    paths = [save(f"step-{step}.npz", weights(step)) for step in range(2)]
    assert len(inspected(*paths)[1]) == 1
    assert len(read) == len(set(read))
    assert [name for name, _ in read] == sorted(name for name, _ in read)
