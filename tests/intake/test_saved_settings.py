"""What is said of a network of another size than the checkpoint's."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.intake import open_problem
from fromage_cli.intake.saved_settings import sizes_in
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

FACTORY = """
import torch

def build(width=4):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 2))
"""
ARGUMENTS = {"n_layer": 6, "n_head": 4, "n_embd": 384, "block_size": 256, "bias": False}


@pytest.fixture
def error_of(tmp_path):
    """What is wrong with a network of width 4 for weights of width 8."""
    (tmp_path / "net.py").write_text(FACTORY)
    weights = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)).state_dict()

    def told(saved=None, config=None, model="net.py:build"):
        if config is None:
            torch.save({"model": weights, **saved}, tmp_path / "ckpt.pt")
        else:
            save_file(weights, tmp_path / "model.safetensors")
            (tmp_path / "config.json").write_text(json.dumps(config))
        path = tmp_path / ("ckpt.pt" if config is None else "model.safetensors")
        with pytest.raises(MismatchError) as caught:
            open_problem(open_checkpoint(path), ModelOptions(model=f"{tmp_path}/{model}"), BatchOptions(), RunOptions())
        return caught.value

    return told


def test_the_settings_in_the_checkpoint_are_named(error_of):
    error = error_of({"model_args": ARGUMENTS, "config": {"n_layer": 1, "batch_size": 12}})
    assert "4 shapes differ" in error.message or "3 shapes differ" in error.message
    assert error.hint.startswith("The checkpoint holds model_args (n_layer 6, n_head 4, n_embd 384 …): build")
    assert "docs/getting-started.md" in error.hint and "--model-arg" in error.hint
    assert error.exit_code == 5 and len(error.details) >= 3


def test_a_configuration_beside_it_serves_too(error_of):
    assert error_of(config={"hidden_size": 8}).hint.startswith("Beside the checkpoint lies config.json (hidden_size 8)")


@pytest.mark.parametrize("saved", [{}, {"config": {"batch_size": 12, "lr": 0.1}}, {"args": [1]}, {"args": "n_layer"}])
def test_without_sizes_nothing_is_made_up(error_of, saved):
    assert error_of(saved).hint == "Check --model-arg."


def test_sizes_are_those_of_a_network():
    held = ARGUMENTS | {"batch_size": 12, "n_epochs": 3, "dropout": 0.2, "depth": 0, "vocab": "x", "seed": 1}
    assert sizes_in(held) == {"n_layer": 6, "n_head": 4, "n_embd": 384, "block_size": 256}


def test_names_that_differ_lead_to_the_settings_too(error_of, tmp_path):
    (tmp_path / "other.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(3, 8)\n")
    assert "model_args" in error_of({"model_args": ARGUMENTS}, model="other.py:build").hint
