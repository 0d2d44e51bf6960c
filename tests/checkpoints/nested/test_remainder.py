"""What a file holds beside its weights, as saved by torch, and as hostile files may have it."""

import argparse
import json
import math
import random

import numpy
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.nested.remainder import (
    LONGEST_LIST,
    LONGEST_TEXT,
    MORE,
    MOST_ENTRIES,
    MOST_VALUES,
    beside_weights,
    described,
)

WEIGHTS = {"w": torch.ones(2, 3), "b": torch.ones(3)}


@pytest.fixture
def held(tmp_path):
    """What is told of a dictionary that torch saved."""

    def told(saved, **settings):
        torch.save(saved, tmp_path / "ckpt.pt", **settings)
        return dict(open_checkpoint(tmp_path / "ckpt.pt").also_holds)

    return told


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_and_counters(held, zipped):
    saved = {
        "model": WEIGHTS,
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1).state_dict(),
        "model_args": {"n_layer": 6, "bias": False, "dropout": 0.2, "name": "gpt", "init": None},
        "iter_num": 2000,
        "best_val_loss": torch.tensor(2.5),
    }
    assert held(saved, _use_new_zipfile_serialization=zipped) == {
        "model_args": {"n_layer": 6, "bias": False, "dropout": 0.2, "name": "gpt", "init": None},
        "iter_num": 2000,
        "best_val_loss": 2.5,
    }


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (torch.tensor([7]), 7),
        (torch.tensor(True), True),
        (torch.tensor(-2, dtype=torch.int8), -2),
        (torch.zeros(3), "tensor, float32, [3]"),
        (torch.zeros(5056, dtype=torch.uint8), "tensor, uint8, [5056]"),
        (numpy.float64(2.5), 2.5),
        (numpy.arange(4, dtype=numpy.float32), "tensor, float32, [4]"),
        (argparse.Namespace(lr=0.1, name="x"), {"lr": 0.1, "name": "x"}),
        ((1, [2, "a"]), [1, [2, "a"]]),
        ({1, 2}, "set of 2 values"),
        (b"abc", "3 bytes"),
        (10**30, "integer of 100 bits"),
        (1j, "1j"),
        ({"w": torch.ones(2), "b": torch.ones(1)}, "2 tensors"),
        ({}, {}),
    ],
)
def test_values_in_the_types_of_json(held, value, told):
    assert held({"model": WEIGHTS, "v": value})["v"] == told


def test_states_of_generators_are_short(held):
    told = held({"model": WEIGHTS, "numpy": numpy.random.get_state(), "python": random.getstate()})
    assert told["numpy"][:2] == ["MT19937", "tensor, uint32, [624]"]
    assert len(told["python"][1]) == LONGEST_LIST + 1 and told["python"][1][-1] == f"{MORE} {625 - LONGEST_LIST} more"


def test_of_weights_at_the_top_what_is_no_tensor(held):
    assert held({**WEIGHTS, "epoch": 3, "args": {"lr": 0.1}}) == {"epoch": 3, "args": {"lr": 0.1}}


def test_a_deep_place_has_dotted_names_around_it():
    root = {"run": {"seed": 1, "net": WEIGHTS}, "epoch": 2}
    assert beside_weights(root, ("run", "net")) == {"epoch": 2, "run.seed": 1}


def test_lightning(held):
    saved = {
        "state_dict": WEIGHTS,
        "hyper_parameters": {"width": 64},
        "pytorch-lightning_version": "2.4.0",
        "optimizer_states": [torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1).state_dict()],
        "loops": {"fit_loop": {"state_dict": {}}},
    }
    told = held(saved)
    assert told["hyper_parameters"] == {"width": 64} and told["pytorch-lightning_version"] == "2.4.0"
    assert "optimizer_states" not in told


def test_safetensors_have_their_metadata(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors", metadata={"format": "pt", "config": '{"a": 1}'})
    assert open_checkpoint(tmp_path / "w.safetensors").also_holds == {"format": "pt", "config": '{"a": 1}'}


def test_a_configuration_beside_weights_of_a_usual_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    for name in ("model.safetensors", "other.safetensors"):
        save_file(WEIGHTS, tmp_path / name)
    told = open_checkpoint(tmp_path / "model.safetensors").also_holds
    assert told["config.json"] == {"model_type": "gpt2", "n_layer": 2}
    assert "config.json" not in open_checkpoint(tmp_path / "other.safetensors").also_holds


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": ' * 50_000, "{" + " " * 2_000_000 + "}"])
def test_a_configuration_that_is_none_is_left_out(tmp_path, text):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    assert open_checkpoint(tmp_path / "model.safetensors").also_holds == {}


def test_a_configuration_elsewhere_is_not_read(tmp_path):
    (tmp_path / "secret.json").write_text('{"a": 1}')
    (tmp_path / "model").mkdir()
    save_file(WEIGHTS, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "secret.json")
    assert open_checkpoint(tmp_path / "model").also_holds == {}


def nested(depth):
    inner = {"end": 1}
    for _ in range(depth):
        inner = {"in": inner}
    return inner


def laughing(levels):
    inner = ["ha"] * 10
    for _ in range(levels):
        inner = {str(index): inner for index in range(10)}
    return inner


def in_itself():
    inner = {"a": 1}
    inner["self"] = inner
    return inner


@pytest.mark.parametrize("value", [nested(60), laughing(9), in_itself(), {str(n): n for n in range(100_000)}])
def test_what_is_told_is_bounded(value):
    told = described({"v": value, **{str(n): value for n in range(1000)}})
    assert len(json.dumps(told)) < 100 * MOST_VALUES
    assert len(told) == MOST_ENTRIES


def test_what_is_left_out_is_counted():
    told = described({"v": {str(n): n for n in range(500)}})["v"]
    assert len(told) == MOST_ENTRIES + 1 and told[MORE] == f"{500 - MOST_ENTRIES} more"


def test_texts_and_names_are_bounded():
    told = described({"n" * 1000: "x" * 1000, "key": {(1, ("a",) * 1000): 2, 7: math.inf}})
    assert [len(name) for name in told] == [LONGEST_TEXT, 3]
    assert all(len(value) == LONGEST_TEXT for value in told.values() if isinstance(value, str))
    assert told["key"]["7"] == math.inf and len(told["key"]) == 2


def test_a_number_in_a_storage_that_is_damaged_is_not_told(held, tmp_path):
    torch.save({"model": WEIGHTS, "loss": torch.tensor(2.5)}, tmp_path / "ckpt.pt")
    stored = (tmp_path / "ckpt.pt").read_bytes()
    assert stored.count(torch.tensor(2.5).numpy().tobytes()) == 1
    (tmp_path / "ckpt.pt").write_bytes(stored.replace(torch.tensor(2.5).numpy().tobytes(), b"\1\2\3\4"))
    assert open_checkpoint(tmp_path / "ckpt.pt").also_holds == {"loss": "tensor, float32, []"}
