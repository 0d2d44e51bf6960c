import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.norms.settings import Settings, find_run_settings
from fromage_cli.errors import UsageError
from fromage_cli.missing import Missing, Why
from fromage_cli.optim import LAMB, LARS
from fromage_cli.optimizers.settings import Given
from fromage_cli.problem.user_code.declared import Declared


def plain(tmp_path, step):
    save_file({"w": torch.ones(2, 2)}, tmp_path / f"step-{step}.safetensors")
    return open_checkpoint(tmp_path / f"step-{step}.safetensors")


def trained(tmp_path, step, *rates):
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in rates]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.5)
    for weight in weights:
        weight.grad = torch.ones(2, 2)
    optimizer.step()
    saved = {"model": {f"w{index}": weight.data for index, weight in enumerate(weights)}, "step": step}
    torch.save({**saved, "optimizer": optimizer.state_dict()}, tmp_path / f"step-{step}.pt")
    return open_checkpoint(tmp_path / f"step-{step}.pt")


def given(optimizer=None, rate=None, decay=None, **others):
    """What is given, and what besides."""
    own = {name: others.pop(name) for name in ("momentum", "betas") if name in others}
    return Given(optimizer, rate, weight_decay=decay, **own), others


def find_settings(series, declared, said, names=()):
    return find_run_settings(series, names, said[0], declared, **said[1])


def plainly(settings):
    """Without what was taken for want of knowing, and layer by layer."""
    return replace(settings, notes=(), layers={})


def test_given_settings_win(tmp_path):
    series = [plain(tmp_path, 1), plain(tmp_path, 2)]
    declared = Declared(learning_rate=0.5, weight_decay=0.5, steps_per_epoch=7)
    found = find_settings(series, declared, given("lars", 0.1, 0.0))
    assert plainly(found) == Settings("lars", (0.1, 0.1), 0.0, 0.0, steps_per_epoch=7)
    assert found.notes == (
        "optimizer: the momentum is not known; 0 is taken.",
        "optimizer: the trust coefficient is not known; 1 is taken.",
    )
    found = find_settings(series, declared, given("lars", 0.0, 0.0, momentum=0.9, steps_per_epoch=3))
    assert (found.learning_rates, found.momentum, found.steps_per_epoch) == ((0.0, 0.0), 0.9, 3)


def test_the_state_tells_kind_rates_and_decay(tmp_path):
    series = [trained(tmp_path, 1, 0.25, 0.25), trained(tmp_path, 2, 0.125)]
    expected = Settings("adamw", (0.25, 0.125), 0.5, betas=(0.9, 0.999))
    assert plainly(find_settings(series, Declared(learning_rate=1.0), given())) == expected
    assert find_settings(series, Declared(), given(rate=0.75)).learning_rates == (0.75, 0.75)


def test_the_state_of_lars(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=0.5, momentum=0.9, dampening=0.5, weight_decay=0.1, trust_coefficient=0.02)
    saved = {"model": {"w": weight.data}, "step": 1, "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "step-1.pt")
    found = find_settings([open_checkpoint(tmp_path / "step-1.pt")], Declared(), given())
    assert (found.optimizer, found.momentum, found.trust_coefficient, found.coupled) == ("lars", 0.9, 0.02, True)
    assert (found.dampening, found.nesterov, found.gains.total) == (0.5, False, pytest.approx(5.0))


def test_the_decay_of_lars_is_rescaled_unless_it_is_said_to_be_decoupled(tmp_path):
    series = [plain(tmp_path, 1)]
    found = find_settings(series, Declared(), given("lars", 0.1, 0.01))
    assert found.coupled and "lars rescales its weight decay" in found.no_prediction.words
    assert find_settings(series, Declared(weight_decay=0.01), given("lars", 0.1)).no_prediction == found.no_prediction
    decoupled = find_settings(series, Declared(), given("lars", 0.1, 0.01, decoupled=True))
    assert (decoupled.coupled, decoupled.no_prediction, decoupled.weight_decay) == (False, None, 0.01)


def test_fromage_has_no_decay(tmp_path):
    found = find_settings([plain(tmp_path, 1)], Declared(weight_decay=0.01), given("fromage", 0.1))
    assert "Fromage has no weight decay of its own" in found.no_prediction.words
    assert find_settings([plain(tmp_path, 1)], Declared(), given("fromage", 0.1)).no_prediction is None


def of_lamb(tmp_path, decay, rest=None):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    state = LAMB([weight], lr=0.5, weight_decay=decay).state_dict()
    state["param_groups"][0].update(rest or {})
    torch.save({"model": {"w": weight.data}, "step": 1, "optimizer": state}, tmp_path / "step-1.pt")
    return [open_checkpoint(tmp_path / "step-1.pt")]


def test_the_decay_of_lamb_is_rescaled(tmp_path):
    found = find_settings(of_lamb(tmp_path, 0.1), Declared(), given())
    assert (found.optimizer, found.betas, found.coupled) == ("lamb", (0.9, 0.999), True)
    assert "lamb rescales its weight decay with its update" in found.no_prediction.words
    assert find_settings(of_lamb(tmp_path, 0.0), Declared(), given()).no_prediction is None
    assert find_settings(of_lamb(tmp_path, 0.0), Declared(), given("lamb", decay=0.1)).no_prediction
    assert find_settings(of_lamb(tmp_path, 0.1, {"weight_decouple": True}), Declared(), given()).no_prediction is None


def test_a_clipped_trust_ratio_and_decays_that_differ_leave_no_prediction(tmp_path):
    found = find_settings(of_lamb(tmp_path, 0.0, {"trust_clip": True}), Declared(), given())
    assert found.no_prediction == Missing(Why.NO_FORMULA, "the trust ratio of lamb is clipped")
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    groups = [{"params": [weight], "weight_decay": decay} for weight, decay in zip(weights, (0.0, 0.1), strict=True)]
    saved = {"model": {"a": weights[0].data, "b": weights[1].data}, "optimizer": LARS(groups, lr=0.5).state_dict()}
    torch.save({**saved, "step": 1}, tmp_path / "step-1.pt")
    series = [open_checkpoint(tmp_path / "step-1.pt")]
    assert find_settings(series, Declared(), given()).no_prediction.words == "parameter groups differ in weight decay"
    assert find_settings(series, Declared(), given(decay=0.0)).no_prediction is None


def grown_by_lamb(size, decay):
    """Growth of ln ‖W‖ a step under LAMB, for gradients that are noise at right angles to weights of that size."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(size * torch.randn(400, dtype=torch.float64))
    optimizer = LAMB([weight], lr=0.01, betas=(0.0, 0.999), weight_decay=decay)
    norms = []
    for _ in range(300):
        noise = torch.randn_like(weight)
        weight.grad = (noise - noise @ weight / (weight @ weight) * weight).detach()
        optimizer.step()
        norms.append(float(weight.detach().norm().log()))
    return (norms[-1] - norms[29]) / 270


def test_what_lamb_decays_depends_on_more_than_its_settings():
    growth = {size: grown_by_lamb(size, 0.1) for size in (0.02, 0.2, 2.0)}
    assert grown_by_lamb(0.2, 0.0) == pytest.approx(math.log1p(0.01**2) / 2, rel=0.2)
    assert growth[0.02] > 0 > growth[0.2] > 3 * growth[0.2] > growth[2.0]


def test_each_layer_has_the_settings_of_its_group(tmp_path):
    weights = [torch.nn.Parameter(torch.ones(2, rows)) for rows in (2, 3)]
    groups = [
        {"params": [weights[0]], "trust_coefficient": 0.02},
        {"params": [weights[1]], "momentum": 0.5, "lr": 0.25},
    ]
    optimizer = LARS(groups, lr=0.5, momentum=0.9)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    saved = {"model": {"a": weights[0].data, "b": weights[1].data}, "optimizer": optimizer.state_dict(), "step": 1}
    torch.save(saved, tmp_path / "step-1.pt")
    found = find_settings([open_checkpoint(tmp_path / "step-1.pt")], Declared(), given(), ("a", "b"))
    a, b = found.layers["a"], found.layers["b"]
    assert (a.learning_rates, a.momentum, a.trust_coefficient) == ((0.5,), 0.9, 0.02)
    assert (b.learning_rates, b.momentum, b.trust_coefficient) == ((0.25,), 0.5, 1.0)


def test_groups_that_differ_have_no_one_rate(tmp_path):
    assert find_settings([trained(tmp_path, 1, 0.1, 0.2)], Declared(), given()).learning_rates == (None,)


def test_what_is_declared_fills_the_gaps(tmp_path):
    declared = Declared(learning_rate=0.02, weight_decay=0.1)
    found = [plainly(find_settings([plain(tmp_path, 1)], declared, given("sgd", rate))) for rate in (None, 0.5)]
    assert found == [Settings("sgd", (rate,), 0.1, 0.0) for rate in (0.02, 0.5)]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (given(rate=0.1), "--lr says nothing"),
        (given(decay=0.1), "--weight-decay says nothing"),
        (given(momentum=0.9), "--momentum says nothing"),
        (given(betas=(0.9, 0.999)), "--betas says nothing"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, said, words):
    assert find_settings([plain(tmp_path, 1)], Declared(), given()) == Settings()
    with pytest.raises(UsageError, match=words) as error:
        find_settings([plain(tmp_path, 1)], Declared(), said)
    assert "--optimizer" in error.value.hint
