import math

import pytest
import torch

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.optim import LAMB, LARS, Fromage, Lion

KINDS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adamax": torch.optim.Adamax,
    "adadelta": torch.optim.Adadelta,
    "nadam": torch.optim.NAdam,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
    "adafactor": torch.optim.Adafactor,
    "muon": torch.optim.Muon,
    "fromage": Fromage,
    "lars": LARS,
    "lamb": LAMB,
    "lion": Lion,
    "radam": torch.optim.RAdam,
}


def state(tmp_path, make) -> OptimizerState:
    weight = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = make([weight])
    for _ in range(3):
        weight.grad = torch.randn(4, 3)
        optimizer.step()
    torch.save({"model": {"w": weight.data}, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    found = open_checkpoint(tmp_path / "c.pt").optimizer
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_optimizers_and_ours(kind, tmp_path):
    assert state(tmp_path, KINDS[kind]).kind == kind


def test_updates_are_counted_where_the_slots_count_them(tmp_path):
    assert state(tmp_path, KINDS["adamw"]).steps == 3
    assert state(tmp_path, KINDS["sgd"]).steps is None


def made(slots, **settings) -> OptimizerState:
    return OptimizerState((ParameterGroup(settings, (0,)),), {0: dict.fromkeys(slots, 0.0)})


def test_kinds_that_torch_has_not():
    assert made(["exp_avg"], betas=(0.9, 0.99)).kind == "lion"
    assert made([], betas=(0.9, 0.99), weight_decay=0.1).kind == "lion"
    assert made(["exp_avg", "exp_avg_sq"], betas=(0.9, 0.99), grad_averaging=True).kind == "lamb"
    assert made(["momentum_buffer"], trust_coefficient=0.001, nesterov=False, dampening=0).kind == "lars"


def test_the_adafactor_of_transformers_keeps_other_slots_than_torchs():
    assert made(["exp_avg_sq_row", "exp_avg_sq_col"], decay_rate=-0.8).kind == "adafactor of transformers"
    assert made(["step", "row_var", "col_var"], d=1.0).settings.rule == "adafactor"


def test_an_older_file_does_not_say_which_adam():
    slots = ["step", "exp_avg", "exp_avg_sq"]
    assert made(slots, betas=(0.9, 0.99), weight_decay=0.1).kind == "adam or adamw"
    assert made(slots, betas=(0.9, 0.99), weight_decay=0).kind == "adam"
    assert made([], lr=0.1).kind is None


@pytest.mark.parametrize(
    ("slots", "settings"),
    [
        (["step", "exp_avg", "hessian"], {"betas": (0.9, 0.99), "rho": 0.04}),
        ([], {"betas": (0.9, 0.99), "rho": 0.04}),
        (["exp_avg", "exp_avg_sq", "exp_avg_diff"], {"betas": (0.9, 0.9, 0.9), "eps": 1e-8}),
        (["exp_avg", "exp_avg_sq", "s", "p0"], {"betas": (0.9, 0.99), "eps": 1e-8}),
        (["exp_avg", "exp_avg_sq"], {"betas": (0.9, 0.99), "eps": 1e-8, "d": 1e-6}),
        (["z", "exp_avg_sq"], {"betas": (0.9, 0.99), "eps": 1e-8}),
        (["state1", "state2"], {"betas": (0.9, 0.99), "eps": 1e-8}),
    ],
    ids=["Sophia", "Sophia at first", "Adan", "Prodigy", "D-Adaptation", "schedule-free", "8 bits"],
)
def test_relatives_of_adam_and_lion_are_not_taken_for_them(slots, settings):
    assert made(slots, weight_decay=0.0, **settings).kind is None


@pytest.mark.parametrize("step", [torch.zeros(3), torch.tensor(math.nan), torch.tensor(math.inf), "many"])
def test_a_step_that_is_no_number_counts_for_nothing(step):
    assert OptimizerState((), {0: {"step": step}, 1: {"step": torch.tensor([7.0])}}).steps == 7
    assert OptimizerState((), {0: {"step": step}}).steps is None
