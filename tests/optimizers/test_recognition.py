import math

import pytest
import torch

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.optim import LAMB, LARS, Fromage, Lion
from fromage_cli.optimizers.settings import Given, find_settings

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
    assert made(slots, betas=(0.9, 0.99), weight_decay=0.1, amsgrad=False).kind == "adam or adamw"
    assert made(slots, betas=(0.9, 0.99), weight_decay=0.1, bias_correction=True).kind == "adam or adamw"
    assert made(slots, betas=(0.9, 0.99), weight_decay=0, correct_bias=True).kind == "adam"
    assert made([], lr=0.1).kind is None


def test_what_has_the_slots_of_adam_alone_is_taken_for_it_only_where_the_user_says_so():
    found = made(["step", "exp_avg", "exp_avg_sq"], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1).settings
    assert found.rule is None and found.serves("adamw") and found.serves("adam") and not found.serves("lamb")
    alone = find_settings(Given(), found, Given())
    assert alone.name is None
    assert alone.notes == (
        "optimizer: the state looks like Adam's but lacks some of Adam's settings; it may be that of Yogi or NAdamW; "
        "to use it, give --optimizer adam or --optimizer adamw.",
    )
    named = find_settings(Given("adamw"), found, Given())
    assert (named.name, named.learning_rate, named.weight_decay, named.notes) == ("adamw", 0.1, 0.1, ())


ADAMS = ["step", "exp_avg", "exp_avg_sq"]


@pytest.mark.parametrize(
    ("kind", "slots", "settings"),
    [
        ("sophia", ["step", "exp_avg", "hessian"], {"betas": (0.9, 0.99), "rho": 0.04}),
        (None, [], {"betas": (0.9, 0.99), "rho": 0.04}),
        ("adan", ["exp_avg", "exp_avg_sq", "exp_avg_diff"], {"betas": (0.9, 0.9, 0.9), "eps": 1e-8}),
        (None, ["exp_avg", "exp_avg_sq", "s", "p0"], {"betas": (0.9, 0.99), "eps": 1e-8}),
        (None, ["exp_avg", "exp_avg_sq"], {"betas": (0.9, 0.99), "eps": 1e-8, "d": 1e-6}),
        (None, ["z", "exp_avg_sq"], {"betas": (0.9, 0.99), "eps": 1e-8}),
        ("an optimizer of bitsandbytes", ["state1", "state2"], {"betas": (0.9, 0.99), "eps": 1e-8}),
        ("adamp", ADAMS, {"betas": (0.9, 0.99), "delta": 0.1, "wd_ratio": 0.1, "nesterov": False}),
        ("sgdp", ["momentum"], {"momentum": 0.9, "dampening": 0, "nesterov": False, "wd_ratio": 0.1}),
        ("adabound", ADAMS, {"betas": (0.9, 0.99), "final_lr": 0.1, "gamma": 1e-3, "amsbound": False}),
        ("yogi", ADAMS, {"betas": (0.9, 0.99), "initial_accumulator": 1e-6}),
        ("adam, adamw or a similar one", ADAMS, {"betas": (0.9, 0.99), "maximize": False, "capturable": False}),
        ("nadam of timm", [*ADAMS, "m_schedule"], {"betas": (0.9, 0.99), "schedule_decay": 4e-3}),
        (None, ADAMS, {"betas": (0.9, 0.99), "amsgrad": False, "caution": True}),
        (None, ADAMS, {"betas": (0.9, 0.99), "n_sma_threshold": 5, "degenerated_to_sgd": False}),
        (None, ADAMS, {"betas": (0.9, 0.99), "decouple": True}),
        ("novograd", ADAMS, {"betas": (0.9, 0.99), "grad_averaging": False, "amsgrad": False}),
        (None, ["exp_avg"], {"betas": (0.9, 0.99), "eps": 1e-8, "grad_averaging": True, "bias_correction": True}),
        ("soap", ADAMS, {"betas": (0.9, 0.99), "precondition_frequency": 10, "correct_bias": True}),
        ("sgdw", ["momentum_buffer"], {"dampening": 0, "nesterov": False, "weight_decouple": True}),
        (
            "sgd with a PID controller",
            ["grad_buffer"],
            {"dampening": 0, "nesterov": 0, "integral": 5, "derivative": 10},
        ),
        ("sgdw of timm", ["momentum_buffer"], {"momentum": 0.9, "dampening": 0, "nesterov": False, "caution": False}),
        ("adabelief", ["step", "exp_avg", "exp_avg_var"], {"betas": (0.9, 0.99)}),
        ("muon with an auxiliary adam", ["momentum_buffer"], {"ns_steps": 5, "adamw_betas": (0.9, 0.95)}),
    ],
)
def test_relatives_of_adam_and_others_are_not_taken_for_them(kind, slots, settings):
    found = made(slots, weight_decay=0.0, **settings)
    assert found.kind == kind and found.settings.rule is None


def test_muon_that_steps_by_adam_where_groups_say_so_is_two_optimizers():
    groups = (
        ParameterGroup({"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "use_muon": True}, (0, 1)),
        ParameterGroup({"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0, "use_muon": False}, (2,)),
    )
    slots = {0: {"momentum_buffer": 0.0}, 1: {"momentum_buffer": 0.0}, 2: dict.fromkeys(ADAMS, 0.0)}
    state = OptimizerState(groups, slots)
    assert state.kind == "muon and adamw"
    assert [state.settings_for(name).groups[0]["lr"] for name in ("muon", "adamw")] == [0.02, 3e-4]
    assert OptimizerState(groups[:1], {0: slots[0]}).kind == "muon"


@pytest.mark.parametrize("step", [torch.zeros(3), torch.tensor(math.nan), torch.tensor(math.inf), "many"])
def test_a_step_that_is_no_number_counts_for_nothing(step):
    assert OptimizerState((), {0: {"step": step}, 1: {"step": torch.tensor([7.0])}}).steps == 7
    assert OptimizerState((), {0: {"step": step}}).steps is None
