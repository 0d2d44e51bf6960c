"""What is predicted under each rule, and the reasons where nothing is; the formulas themselves are tested in theory."""

import math

import pytest
import torch

from fromage_cli.diagnostics.intrinsic_lr.formulas import ZERO_GRADIENTS
from fromage_cli.diagnostics.intrinsic_lr.prediction import equilibrium_norm, growth, predict, rotation_between
from fromage_cli.diagnostics.intrinsic_lr.result import NO_MODEL
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.diagnostics.intrinsic_lr.subject import Subject
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optim import LARS
from fromage_cli.theory.equilibrium import momentum_gains


def subject(optimizer="sgd", rate=0.1, decay=1e-3, norm=2.0, **changes):
    more = {key: changes.pop(key) for key in ("decoupled", "trust", "betas", "gains", "variant") if key in changes}
    training = Training(optimizer, **{"betas": (0.9, 0.99), **more})
    return Subject(training, rate, decay, norm, changes.pop("elements", 100), **changes)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "lars"])
def test_rules_that_settle(optimizer):
    found = predict(subject(optimizer))
    assert found.unsettled is None and found.equilibrium.relaxation > 0.0
    assert (known(found.intrinsic) is None) == (optimizer == "lars")


@pytest.mark.parametrize(
    ("changes", "rotates", "code", "words"),
    [
        ({"optimizer": "adam"}, False, "no-formula", "Adam has no closed form"),
        ({"optimizer": "lamb"}, False, "no-formula", "lamb has no closed form"),
        ({"optimizer": "adamw", "variant": "AMSGrad"}, False, "no-formula", "no closed form for AMSGrad"),
        ({"optimizer": "rmsprop"}, False, "no-formula", "no closed form for rmsprop"),
        ({"decay": 0.0}, False, "no-equilibrium", "without weight decay"),
        ({"optimizer": "adam", "decay": 0.0}, False, "no-equilibrium", "without weight decay"),
        ({"optimizer": "lars", "decay": 0.0}, True, "no-equilibrium", "without weight decay"),
        ({"optimizer": "lars", "decoupled": True}, True, "no-equilibrium", "grows or shrinks for ever"),
        ({"optimizer": "lars", "decay": None}, True, "weight-decay-unknown", "weight decay is not known"),
        ({"optimizer": "lars", "decay": None, "variant": "clipped LARS"}, False, "no-formula", "for clipped LARS"),
        ({"optimizer": "fromage", "decay": None}, True, "no-equilibrium", "keeps the norm"),
        ({"optimizer": "fromage"}, False, "no-formula", "no weight decay of its own"),
        ({"decay": None}, False, "weight-decay-unknown", "weight decay is not known"),
        ({"rate": None}, False, "learning-rate-unknown", "learning rate is not known"),
        ({"rate": 0.0}, False, "nothing-moves", "end of its schedule"),
        ({"optimizer": "lars", "trust": 0.0}, False, "nothing-moves", "end of its schedule"),
        ({"invariant": False}, False, "not-scale-invariant", "not scale-invariant"),
    ],
)
def test_rules_that_do_not(changes, rotates, code, words):
    found = predict(subject(**changes))
    assert found.unsettled.code == code and words in found.unsettled.words
    assert found.equilibrium.relaxation is None if rotates else found.equilibrium == found.unsettled


def test_adam_with_decoupled_decay_is_adamw():
    assert predict(subject("adam", decoupled=True)).equilibrium == predict(subject("adamw")).equilibrium


def test_equilibrium_norms():
    assert equilibrium_norm(subject("adamw")) == pytest.approx(math.sqrt(0.1 / 2e-3 * 100))
    assert equilibrium_norm(subject("lion")) == pytest.approx(0.1 * 10 / predict(subject("lion")).equilibrium.rotation)
    assert equilibrium_norm(subject("sgd")) == equilibrium_norm(subject("lars")) == NO_MODEL
    assert equilibrium_norm(subject("sgd", squares=(0.0,))) == ZERO_GRADIENTS
    one = equilibrium_norm(subject("sgd", squares=(4.0,)))
    assert one == pytest.approx((0.1 * 4.0 / 2e-3) ** 0.25)
    assert equilibrium_norm(subject("sgd", squares=(4.0,) * 9)) == pytest.approx(3 * one)


def test_lars_over_several_channels_against_a_simulation():
    """One step size for the whole tensor: ‖w_u‖² = η'/(2wd) ‖g̃_u‖ in every channel."""
    generator = torch.Generator().manual_seed(0)
    sizes, decay, rate, channels, width = torch.tensor([1.0, 2.0, 4.0]).double(), 5e-3, 0.1, 3, 300
    squares = (sizes.square() * (width - 1)).tolist()
    found = subject("lars", rate, decay, squares=tuple(squares), elements=channels * width)
    end = equilibrium_norm(found)
    units = torch.randn(channels, width, generator=generator, dtype=torch.float64)
    weight = (units * (end / units.norm())).requires_grad_()
    optimizer, norms, angles = LARS([weight], lr=rate, weight_decay=decay), [], []
    for _ in range(600):
        rows = weight.detach().norm(dim=1, keepdim=True)
        unit = weight.detach() / rows
        noise = torch.randn(channels, width, generator=generator, dtype=torch.float64) * sizes[:, None]
        weight.grad = (noise - unit * (unit * noise).sum(1, keepdim=True)) / rows
        optimizer.step()
        norms.append(float(weight.detach().norm()))
        after = weight.detach() / weight.detach().norm(dim=1, keepdim=True)
        angles.append(float((after - unit).norm(dim=1).mean()))
    assert sum(norms[-300:]) / 300 == pytest.approx(end, rel=0.05)
    assert sum(angles[-300:]) / 300 == pytest.approx(predict(found).equilibrium.rotation, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"optimizer": "fromage", "decay": None}, 0.0),
        ({"optimizer": "fromage", "decay": 0.0}, 0.0),
        ({"optimizer": "fromage"}, None),
        ({"optimizer": "lars", "decay": 0.0}, 0.5 * math.log(1.01)),
        ({"optimizer": "lars", "decoupled": True}, 0.5 * math.log(1.01) - 1e-4),
        ({"optimizer": "adam", "decay": 0.0}, 0.5 * 0.1**2 * 100 / 4.0),
        ({"optimizer": "adam"}, None),
        ({"decay": 0.0}, None),
        ({"decay": 0.0, "squared_gradient": 9.0}, 0.5 * 0.1**2 * 9.0 / 4.0),
        ({"decay": 0.0, "squared_gradient": 9.0, "gains": momentum_gains(0.5)}, 0.5 * 0.2**2 * 9.0 / 4.0),
        ({"optimizer": "lars", "decay": None}, None),
        ({"optimizer": "lars", "decay": 0.0, "variant": "clipped LARS"}, None),
        ({"optimizer": "adam", "decay": 0.0, "variant": "AMSGrad"}, None),
        ({"optimizer": "lars", "decay": 0.0, "rate": 0.0}, 0.0),
        ({"rate": 0.0, "decay": 0.0}, None),
        ({"optimizer": "lamb"}, None),
        ({"optimizer": "fromage", "invariant": False}, None),
        ({"optimizer": "adam", "decay": 0.0, "norm": 0.0}, None),
        ({"rate": None}, None),
    ],
)
def test_growth_where_nothing_settles(changes, value):
    layer = subject(**changes)
    found = growth(layer, predict(layer))
    if value is None:
        assert isinstance(found, Missing)
    else:
        assert found == pytest.approx(value)


def test_growth_of_lion():
    layers = [subject("lion", rate, 0.0) for rate in (0.1, 0.2)]
    slow, fast = (growth(layer, predict(layer)) for layer in layers)
    assert fast == pytest.approx(4 * slow)


def test_between_checkpoints_the_mean_of_both_laws_turns_a_layer():
    before, after = (predict(subject("adamw", rate)).equilibrium for rate in (0.2, 0.1))
    assert rotation_between(before, after, 100) == pytest.approx(before.rotation_over(100, 0.15 * 1e-3))
    assert rotation_between(before, NO_MODEL, 100) == NO_MODEL
    assert rotation_between(NO_MODEL, after, 100).code == NO_MODEL.code
    assert rotation_between(before, after, None).code == Why.STEP_UNKNOWN
