"""What can be moved, where it acts, and what moving it means for each tensor."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.optimizers.settings import Given, find_settings
from fromage_cli.probes.hypergradients.hyperparameters import (
    Hyperparameter,
    Values,
    drop_everywhere,
    dropping,
    hyperparameters,
    values_of,
)
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
from tests.probes.hypergradients.plain_training import Probed, perceptron, saved_run

TENSORS = ("0.weight", "0.bias", "2.weight", "2.bias")


def listed(probed: Probed, **changes: Any) -> list[Hyperparameter]:
    values = Values(**{**vars(probed.values), **changes})
    return hyperparameters(probed.steps.matched, values)


def named(found: Sequence[Hyperparameter], name: str) -> dict[str, Hyperparameter]:
    return {one.scope: one for one in found if one.name == name}


def test_the_widest_scope_comes_first() -> None:
    found = listed(
        saved_run("adamw").probed(1), dropout={"3.p": 0.2, "6.p": 0.4}, loss={"label-smoothing": 0.1, "l1": 3.0}
    )
    assert [(one.name, one.scope) for one in found] == [
        ("weight-decay", "all"),
        ("weight-decay", "group:0"),
        ("weight-decay", "group:1"),
        *(("weight-decay", name) for name in TENSORS),
        ("label-smoothing", "all"),
        ("dropout", "all"),
        ("dropout", "3.p"),
        ("dropout", "6.p"),
        ("l1", "all"),
        ("learning-rate", "all"),
        ("learning-rate", "group:0"),
        ("learning-rate", "group:1"),
        *(("learning-rate", name) for name in TENSORS),
    ]
    assert [one.value for one in found[:4]] == pytest.approx([0.1, 0.1, 0.03, 0.1])
    assert named(found, "dropout")["all"].value == 0.4 and named(found, "l1")["all"].place == "loss"
    assert named(found, "weight-decay")["group:1"].members == ("0.bias", "2.bias")
    assert [one.value for one in named(found, "learning-rate").values()] == pytest.approx(
        [0.01, 0.01, 0.005, 0.01, 0.005, 0.01, 0.005]
    )


def test_what_is_not_decayed_is_left_alone_unless_nothing_is() -> None:
    probed = saved_run("adamw").probed(1)
    half = named(listed(probed, decays=dict(zip(TENSORS, (0.1, 0.0, 0.1, 0.0), strict=True))), "weight-decay")
    assert list(half) == ["all", "0.weight", "2.weight"] and half["all"].members == ("0.weight", "2.weight")
    none = named(listed(probed, decays=dict.fromkeys(TENSORS, 0.0)), "weight-decay")
    assert none["all"].members == TENSORS and none["all"].value == 0.0


def test_an_optimizer_without_decay_has_none() -> None:
    assert not named(listed(saved_run("fromage").probed(1)), "weight-decay")


def test_one_group_or_one_tensor_is_no_scope_of_its_own() -> None:
    run = saved_run("sgd", nn.Linear(5, 3, bias=False).double())
    assert {one.scope for one in listed(run.probed(1))} == {"all"}


def test_without_a_state_all_tensors_are_alike() -> None:
    probed = saved_run("sgd").probed(1)
    optimizer = find_settings(Given("sgd", 0.05, 0.9, weight_decay=0.1), None, Given())
    matched = match_state(probed.steps.problem, optimizer, None)
    values = values_of(matched, 0.05, {}, TENSORS)
    assert values.rates == dict.fromkeys(TENSORS, 0.05) and values.decays == dict.fromkeys(TENSORS, 0.1)
    assert [one.scope for one in hyperparameters(matched, values)] == ["all", *TENSORS] * 2


def test_a_rate_and_a_decay_that_were_given_hold() -> None:
    """The rate is the highest of any group, and the groups keep their ratios; the decay holds for all."""
    run = saved_run("adamw")
    optimizer = find_settings(Given(None, 0.4, weight_decay=0.7), run.state().settings, Given())
    matched = match_state(run.probed(1).steps.problem, optimizer, run.state())
    values = values_of(matched, 0.4, {}, TENSORS)
    assert list(values.rates.values()) == pytest.approx([0.4, 0.2, 0.4, 0.2])
    assert values.decays == dict.fromkeys(TENSORS, 0.7)


VALUES = Values({"a": 0.2, "b": 0.1}, {"a": 0.3, "b": 0.0}, {"l1": 2.0, LABEL_SMOOTHING: 0.0}, {"d.p": 0.4})


def test_members_keep_their_ratios() -> None:
    rate = Hyperparameter("learning-rate", "all", 0.2, "rate", ("a", "b"))
    assert VALUES.moved(rate, 0.5).rates == {"a": pytest.approx(0.3), "b": pytest.approx(0.15)}
    assert rate.per_unit({"a": 3.0, "b": 4.0}, VALUES) == pytest.approx(3.0 + 0.5 * 4.0)
    decay = Hyperparameter("weight-decay", "all", 0.3, "decay", ("a", "b"))
    assert VALUES.moved(decay, -0.1).decays == {"a": pytest.approx(0.27), "b": 0.0}
    assert decay.per_unit({"a": 3.0, "b": 4.0}, VALUES) == 3.0


def test_from_zero_all_members_move_by_as_much() -> None:
    decay = Hyperparameter("weight-decay", "b", 0.0, "decay", ("b",))
    assert VALUES.moved(decay, 0.01).decays == {"a": 0.3, "b": 0.01}
    assert decay.per_unit({"a": 3.0, "b": 4.0}, VALUES) == 4.0


@pytest.mark.parametrize(
    ("one", "place", "expected"),
    [
        (Hyperparameter("l1", "all", 2.0, "loss", ("l1",)), "loss", {"l1": 2.2, LABEL_SMOOTHING: 0.0}),
        (
            Hyperparameter(LABEL_SMOOTHING, "all", 0.0, "loss", (LABEL_SMOOTHING,)),
            "loss",
            {"l1": 2.0, LABEL_SMOOTHING: 0.1},
        ),
        (Hyperparameter("dropout", "all", 0.4, "dropout", ("d.p",)), "dropout", {"d.p": 0.44}),
    ],
)
def test_only_what_is_moved_moves(one: Hyperparameter, place: Any, expected: dict[str, float]) -> None:
    after = VALUES.moved(one, 0.1)
    assert after.at(place) == pytest.approx(expected)
    for other in ("rate", "decay", "loss", "dropout"):
        assert other == place or after.at(other) == VALUES.at(other)  # type: ignore[arg-type]


class Attention(nn.Module):
    """As many networks have it: a number for a function, and numbers that are no probability."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_dropout, self.drop_path, self.drops, self.droprate = 0.3, 0.0, True, 2.0
        self.linear = nn.Linear(5, 3)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.2), Attention(), nn.Dropout1d(0), nn.AlphaDropout(1.0)).double()


def test_the_places_that_drop() -> None:
    probed = saved_run("sgd", trained=0).probed(1)
    probed.steps.problem.model = network()
    assert values_of(probed.steps.matched, 0.1, {}, TENSORS).dropout == {"1.p": 0.2, "2.attn_dropout": 0.3}


def test_dropout_is_set_everywhere() -> None:
    model = network()
    assert drop_everywhere(model, 0.25) == 4
    attention: Any = model[2]  # type: ignore[index]
    assert [attention.attn_dropout, attention.drop_path, attention.drops, attention.droprate] == [0.25, 0.25, True, 2.0]
    assert [model[index].p for index in (1, 3, 4)] == [0.25, 0.25, 1.0]  # type: ignore[index]
    assert drop_everywhere(perceptron(), 0.25) == 0


def test_a_bare_dropout_layer_has_a_place() -> None:
    layer = nn.Dropout(0.5)
    assert drop_everywhere(layer, 0.1) == 1 and layer.p == 0.1
    with dropping(layer, {"p": 0.7}):
        assert layer.p == 0.7
    assert layer.p == 0.1


def test_probabilities_are_put_back_after_an_error() -> None:
    model: Any = network()
    with pytest.raises(ZeroDivisionError), dropping(model, {"1.p": 0.9, "2.attn_dropout": 0.8}):
        assert (model[1].p, model[2].attn_dropout) == (0.9, 0.8)
        _ = 1 / 0
    assert (model[1].p, model[2].attn_dropout) == (0.2, 0.3)
    with pytest.raises(AttributeError), dropping(model, {"1.p": 0.9, "0.p": 0.8}):
        pass
    assert model[1].p == 0.2
    assert torch.is_grad_enabled()
