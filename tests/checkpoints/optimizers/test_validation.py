import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, ParameterGroup
from fromage_cli.checkpoints.optimizers.validation import require_sound
from fromage_cli.errors import InputError

SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
ADAM = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decoupled_weight_decay": True,
    "amsgrad": False,
}


def state(**settings: Any) -> OptimizerState:
    return OptimizerState((ParameterGroup(SGD, (0,)), ParameterGroup(settings, (1,))), {})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lr": -0.1}, "lr = -0.1; expected a number, 0 or above"),
        ({"lr": math.nan}, "lr = nan"),
        ({"lr": "big"}, "lr = 'big'"),
        ({"lr": True}, "lr = True"),
        ({"lr": torch.tensor(-1.0)}, "lr = -1"),
        ({"momentum": 1.0}, "momentum = 1; expected a number from 0 to below 1"),
        ({"weight_decay": math.inf}, "weight_decay = inf"),
        ({"dampening": "x"}, "dampening = 'x'; expected a number"),
        ({"betas": (0.9,)}, "expected two numbers from 0 to below 1"),
        ({"betas": (0.9, 1.0)}, "expected two numbers"),
        ({"betas": 0.9}, "expected two numbers"),
        ({"eps": -1.0}, "eps = -1"),
    ],
)
def test_a_setting_that_no_rule_can_have_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        require_sound(state(**{**SGD, **changed}))
    assert words in caught.value.message and "inspect" in caught.value.hint


MUON = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "ns_coefficients": (3.4, -4.7, 2.0), "ns_steps": 5}
ADAFACTOR = {"lr": 0.01, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**ADAM, "eps": [1e-8, 1e-8]}, "eps = [1e-08, 1e-08]; expected a number, 0 or above"),
        ({**MUON, "ns_steps": 100}, "ns_steps = 100; expected a whole number from 0 to below 100"),
        ({**MUON, "ns_coefficients": (1.0, 2.0)}, "expected three numbers"),
        ({**ADAFACTOR, "eps": 1e-30}, "expected two numbers"),
        ({**ADAFACTOR, "eps": (None, None)}, "expected two numbers"),
        ({**ADAFACTOR, "d": "x"}, "d = 'x'; expected a number above 0"),
        ({**ADAFACTOR, "beta2_decay": [1]}, "beta2_decay = [1]; expected a number, 0 or below"),
    ],
)
def test_a_setting_that_its_own_rule_cannot_have_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        require_sound(OptimizerState((ParameterGroup(settings, (0,)),), {}))
    assert words in caught.value.message


def read_back(directory: Path, settings: dict[str, Any], slot: dict[str, Any] | None = None) -> OptimizerState:
    """The state of one matrix as a checkpoint file gives it back, which it does only where it is sound."""
    written = {"state": {} if slot is None else {0: slot}, "param_groups": [{**settings, "params": [0]}]}
    torch.save({"model": {"w": torch.zeros(2, 3)}, "optimizer": written}, directory / "c.pt")
    found = open_checkpoint(directory / "c.pt").optimizer
    assert found is not None
    return found


@pytest.mark.parametrize("settings", [MUON, ADAFACTOR, {**ADAFACTOR, "eps": (1e-30, 1e-3)}])
def test_ordinary_settings_of_a_rule_are_read_as_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    assert read_back(tmp_path, settings).groups[0].settings == settings


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ({"row_var": torch.ones(2, 1)}, "holds row_var without the other factor; expected row_var and col_var"),
        ({"row_var": torch.ones(2, 1), "col_var": torch.ones(1, 3, dtype=torch.int64)}, "holds col_var as int64"),
        ({"variance": torch.ones(3, dtype=torch.int64)}, "holds variance as int64"),
    ],
)
def test_factored_moments_are_two_tensors_of_floating_numbers(slot: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        require_sound(OptimizerState((ParameterGroup(ADAFACTOR, (0,)),), {0: {"step": 3.0, **slot}}))
    assert words in caught.value.message


@pytest.mark.parametrize(
    "settings",
    [SGD, {**SGD, "lr": None}, {**SGD, "lr": torch.tensor(0.1)}, {**SGD, "lr": 0, "weight_decay": 0}, ADAM, {}],
)
def test_ordinary_settings_are_read_as_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    assert read_back(tmp_path, settings).groups[0].settings == settings


def test_settings_of_other_optimizers_are_theirs(tmp_path: Path) -> None:
    settings = {"lr": None, "betas": (0.9, 0.9, 0.999), "rho": -1.0}
    assert read_back(tmp_path, settings).groups[0].settings == settings


def test_inspect_sees_what_the_others_refuse(tmp_path) -> None:
    saved = {
        "model": {"w": torch.ones(2, 2)},
        "optimizer": {"state": {}, "param_groups": [{**SGD, "momentum": 1.0, "params": [0]}]},
    }
    torch.save(saved, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert checkpoint.saved_optimizer is not None
    assert checkpoint.saved_optimizer.groups[0].settings["momentum"] == 1.0
    with pytest.raises(InputError, match="momentum = 1;"):
        _ = checkpoint.optimizer


def adam_slot(**changed: Any) -> dict[str, Any]:
    return {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3), **changed}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"step": "many"}, "says step = 'many'; expected a number, 0 or above"),
        ({"step": torch.tensor(-1.0)}, "says step = -1"),
        ({"step": math.nan}, "says step = nan"),
        ({"exp_avg": "text"}, "holds exp_avg as str; expected a tensor of floating numbers"),
        ({"exp_avg": 1.0}, "holds exp_avg as float; expected a tensor"),
        ({"exp_avg": torch.zeros(2, 3, dtype=torch.int32)}, "holds exp_avg as int32"),
        ({"exp_avg_sq": torch.zeros(2, 3, dtype=torch.complex64)}, "holds exp_avg_sq as complex64"),
        ({"exp_avg_sq": torch.zeros(2, 4)}, r"holds exp_avg_sq of shape \[2, 4\] beside \[2, 3\]; expected one shape"),
        ({"max_exp_avg_sq": torch.zeros(6)}, r"holds max_exp_avg_sq of shape \[6\]"),
    ],
)
@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "in a file"])
def test_slots_that_no_step_can_be_made_from_are_refused(
    changed: dict[str, Any], words: str, saved: bool, tmp_path: Path
) -> None:
    slots = {0: adam_slot(), 1: adam_slot(**changed)}
    with pytest.raises(InputError, match=words):
        if saved:
            written = {"state": slots, "param_groups": [{**ADAM, "params": [0, 1]}]}
            torch.save({"model": {"w": torch.zeros(2, 3)}, "optimizer": written}, tmp_path / "c.pt")
            _ = open_checkpoint(tmp_path / "c.pt").optimizer
        else:
            require_sound(OptimizerState((ParameterGroup(ADAM, (0, 1)),), slots))


@pytest.mark.parametrize(
    "slot",
    [
        {"momentum_buffer": None},
        {},
        adam_slot(exp_avg=torch.zeros(2, 3, dtype=torch.bfloat16), step=3),
        {"momentum_buffer": torch.zeros(4)},
    ],
)
def test_slots_as_optimizers_write_them_are_read_as_they_are(slot: dict[str, Any], tmp_path: Path) -> None:
    found = read_back(tmp_path, ADAM if "step" in slot else SGD, slot).slots[0]
    assert found.keys() == slot.keys()
    for name, value in slot.items():
        torch.testing.assert_close(found[name], value)
