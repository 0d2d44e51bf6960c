from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.optim import LAMB, LARS, Fromage, Lion
from fromage_cli.optimizers.recognition import EITHER_ADAM
from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.settings import Given, Optimizer, SavedSettings, find_settings


def state_from(tmp_path: Path, kind: Any, *, grouped: bool = False, **settings: Any) -> OptimizerState:
    model = nn.Linear(3, 2)
    groups: Any = model.parameters()
    if grouped:
        groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5, "weight_decay": 0.25}]
    optimizer = kind(groups, **settings)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    return state


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, "sgd"),
        (torch.optim.Adam, {"weight_decay": 0.1}, "adam"),
        (torch.optim.AdamW, {"betas": (0.8, 0.9)}, "adamw"),
        (torch.optim.RAdam, {}, None),
        (torch.optim.NAdam, {}, None),
        (torch.optim.RMSprop, {"momentum": 0.9}, None),
    ],
)
def test_the_rule_and_its_settings_come_from_the_state(
    tmp_path: Path, kind: Any, settings: dict[str, Any], name: str | None
) -> None:
    state = state_from(tmp_path, kind, lr=0.02, **settings)
    found = find_settings(Given(), state.settings, Given())
    assert found.name == name
    if name is not None:
        assert found.learning_rate == 0.02
        assert found.momentum == (0.9 if name == "sgd" else 0.0)
        assert found.nesterov == (name == "sgd")
        assert found.betas == (settings.get("betas", (0.9, 0.999)))
        assert found.weight_decay == {"sgd": 0.0, "adam": 0.1, "adamw": 0.01}[name]
        assert state.serving(found.name) is state


def test_an_adam_without_decay_and_without_a_word_on_it_is_adam(tmp_path: Path) -> None:
    state = state_from(tmp_path, torch.optim.Adam, lr=0.02)
    older = OptimizerState(
        tuple(
            type(group)({k: v for k, v in group.settings.items() if k != "decoupled_weight_decay"}, group.numbers)
            for group in state.groups
        ),
        state.slots,
    )
    assert find_settings(Given(), older.settings, Given()).name == "adam"


def test_what_the_user_says_wins_over_the_state_and_the_state_over_what_is_declared(tmp_path: Path) -> None:
    state = state_from(tmp_path, torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1)
    declared = Given(learning_rate=7.0, momentum=0.3, weight_decay=0.7, betas=(0.5, 0.6))
    given = Given("sgd", 0.3, 0.5, weight_decay=0.2)
    assert find_settings(given, state.settings, declared) == Optimizer(
        "sgd", 0.3, 0.5, weight_decay=0.2, decay_given=True, said=("momentum",)
    )
    assert find_settings(Given(), state.settings, declared).learning_rate == 0.02
    assert find_settings(Given("sgd"), None, declared).learning_rate == 7.0
    assert find_settings(Given("sgd"), None, declared).weight_decay == 0.7


def test_no_momentum_is_something_said_too(tmp_path: Path) -> None:
    state = state_from(tmp_path, torch.optim.SGD, lr=0.02, momentum=0.9)
    found = find_settings(Given(momentum=0.0), state.settings, Given(momentum=0.5))
    assert (found.momentum, found.said, found.of_group(state.groups[0].settings).momentum) == (0.0, ("momentum",), 0.0)
    assert find_settings(Given("sgd", momentum=0.0), None, Given()).notes == ()


def test_a_state_that_holds_no_rate_has_no_rate_of_zero(tmp_path: Path) -> None:
    state = state_from(tmp_path, torch.optim.SGD, lr=0.02, momentum=0.9)
    for group in state.groups:
        group.settings.pop("lr")  # type: ignore[attr-defined]
    found = find_settings(Given(), state.settings, Given(learning_rate=0.3))
    assert found.learning_rate == 0.3 and found.notes == ()


def test_another_rules_state_is_not_used(tmp_path: Path) -> None:
    state = state_from(tmp_path, torch.optim.Adam, lr=0.02)
    found = find_settings(Given("sgd"), state.settings, Given())
    assert found.learning_rate is None
    assert state.serving(found.name) is None
    assert state.serving("adamw") is state


def test_of_several_groups_the_largest_rate_counts_and_it_is_said(tmp_path: Path) -> None:
    found = find_settings(Given(), state_from(tmp_path, torch.optim.SGD, grouped=True, lr=0.1).settings, Given())
    assert (found.learning_rate, found.weight_decay) == (0.5, 0.25)
    assert found.common_notes[0].endswith(
        "rates from 0.1 to 0.5; the largest is taken for all tensors, as it is not known which tensor belongs "
        "to which group."
    )


def test_groups_that_differ_in_their_momentum_are_told(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "momentum": 0.5}]
    torch.save(
        {"optimizer": torch.optim.SGD(groups, lr=0.1, momentum=0.9).state_dict(), **model.state_dict()},
        tmp_path / "m.pt",
    )
    found = find_settings(Given(), open_checkpoint(tmp_path / "m.pt").optimizer.settings, Given())
    assert found.common_notes == (
        "optimizer: parameter groups differ in momentum; thresholds and noise use those of the first group.",
    )
    said = find_settings(Given(momentum=0.8), open_checkpoint(tmp_path / "m.pt").optimizer.settings, Given())
    assert said.common_notes == ()


def test_a_weight_decay_that_nobody_tells_is_taken_as_none_and_it_is_said(tmp_path: Path) -> None:
    said = ("optimizer: the weight decay is not known; 0 is taken. To change it, give --weight-decay.",)
    assert find_settings(Given("sgd", momentum=0.0), None, Given()).common_notes == said
    for told in (Given("sgd", weight_decay=0.0), Given("fromage")):
        assert find_settings(told, None, Given()).common_notes == ()
    assert find_settings(Given("sgd"), None, Given(weight_decay=0.0)).common_notes == ()
    state = state_from(tmp_path, torch.optim.SGD, lr=0.1)
    assert find_settings(Given(), state.settings, Given()).common_notes == ()


def test_a_rate_of_zero_is_no_rate(tmp_path: Path) -> None:
    found = find_settings(Given(), state_from(tmp_path, torch.optim.SGD, lr=0.0).settings, Given())
    assert found.learning_rate is None
    assert "the first step of a warm-up or the end of its schedule" in found.notes[0]
    saved = state_from(tmp_path, torch.optim.AdamW, lr=0.0).settings
    for steps, where in (
        (0, "the first step of a warm-up."),
        (1, "the first step of a warm-up."),
        (2, "the end of its"),
    ):
        assert where in find_settings(Given(), replace(saved, steps=steps), Given()).notes[0]


def test_only_decoupled_decay_adds_no_curvature() -> None:
    assert [Optimizer(name, 0.1, weight_decay=0.3).coupled_decay for name in ("sgd", "adam", "adamw")] == [0.3, 0.3, 0]


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (Optimizer("sgd", 0.1, 0.9, nesterov=True), (0.1, 0.9, True, None, 0.0)),
        (Optimizer("adamw", 0.01, betas=(0.9, 0.95), weight_decay=0.1), (0.01, None, None, "0.9,0.95", 0.1)),
        (Optimizer("fromage", 0.02), (0.02, None, None, None, 0.0)),
        (Optimizer(), (None, None, None, None, None)),
    ],
)
def test_its_flags_are_those_that_it_has(optimizer: Optimizer, settings: tuple[object, ...]) -> None:
    names = ("optimizer", "lr", "momentum", "nesterov", "betas", "weight_decay")
    assert optimizer.flags == dict(zip(names, (optimizer.name, *settings), strict=True))


def test_settings_of_the_other_rules_come_from_their_state(tmp_path: Path) -> None:
    lars = find_settings(Given(), state_from(tmp_path, LARS, momentum=0.8, trust_coefficient=0.02).settings, Given())
    assert (lars.name, lars.momentum, lars.trust_coefficient) == ("lars", 0.8, 0.02)
    lion = find_settings(Given(), state_from(tmp_path, Lion, weight_decay=0.3).settings, Given())
    assert (lion.name, lion.betas, lion.weight_decay, lion.coupled_decay) == ("lion", (0.9, 0.99), 0.3, 0.0)
    lamb = find_settings(Given(), state_from(tmp_path, LAMB, eps=1e-4, trust_clip=True).settings, Given())
    assert (lamb.name, lamb.epsilon, lamb.trust_clip, lamb.remembers) == ("lamb", 1e-4, True, True)
    fromage = find_settings(Given(), state_from(tmp_path, Fromage, lr=0.02).settings, Given())
    assert (fromage.name, fromage.learning_rate, fromage.remembers) == ("fromage", 0.02, False)


def test_what_nobody_says_is_each_rules_own_default() -> None:
    muon, lion, lamb = (find_settings(Given(name), None, Given()) for name in ("muon", "lion", "lamb"))
    assert (muon.momentum, muon.nesterov, muon.epsilon) == (0.95, True, 1e-7)
    assert (lion.betas, lamb.epsilon, lamb.betas) == ((0.9, 0.99), 1e-6, (0.9, 0.999))
    assert find_settings(Given("adam"), None, Given(momentum=0.5)).momentum == 0.0


def test_what_a_state_does_not_tell_is_said(tmp_path: Path) -> None:
    radam = find_settings(Given(), state_from(tmp_path, torch.optim.RAdam).settings, Given())
    assert radam.name is None and "state of radam" in radam.notes[0]
    other = find_settings(Given("lion"), state_from(tmp_path, torch.optim.Adam).settings, Given())
    assert "state of adam; it is not used for lion" in other.notes[0]
    state = state_from(tmp_path, torch.optim.Adam, weight_decay=0.1)
    group = state.groups[0]
    silent = {key: value for key, value in group.settings.items() if key != "decoupled_weight_decay"}
    older = OptimizerState((type(group)(silent, group.numbers),), state.slots)
    found = find_settings(Given(), older.settings, Given())
    assert found.name == "adamw" and "does not say whether" in found.notes[0]


def test_a_setting_that_stands_under_two_names_is_the_one_that_is_told() -> None:
    group = {"lr": 5.0, "momentum": 0.0, "trust_coefficient": None, "trust_coeff": 0.001}
    found = find_settings(Given(), SavedSettings("lars", (group,)), Given())
    assert found.trust_coefficient == 0.001


def test_a_rule_without_a_law_of_equilibrium_says_why() -> None:
    assert [rule.name for rule in RULES.values() if (rule.step_size is None) != ("equilibrium" in rule.without)] == []


def test_a_declared_rate_counts_for_the_declared_optimizer_alone(tmp_path: Path) -> None:
    declared = Given("fromage", 0.02, momentum=0.5, weight_decay=0.1)
    own = find_settings(Given(), None, declared)
    assert (own.name, own.learning_rate) == ("fromage", 0.02)
    other = find_settings(Given("sgd"), None, declared)
    assert (other.learning_rate, other.momentum, other.weight_decay) == (None, 0.0, 0.0)
    assert "the configured rate 0.02 is for fromage, not for sgd" in other.notes[0]
    assert find_settings(Given("sgd"), None, replace(declared, name=None)).learning_rate == 0.02
    saved = state_from(tmp_path, torch.optim.SGD, lr=0.3).settings
    assert find_settings(Given(), saved, declared).name == "sgd"
    either = find_settings(Given(), SavedSettings(EITHER_ADAM, ({"lr": 0.1},)), Given("adam", 0.1))
    assert (either.name, either.learning_rate) == ("adam", 0.1)
    assert find_settings(Given(), SavedSettings("radam", ({"lr": 0.1},)), Given("adam", 0.1)).name is None


def test_a_rate_that_is_not_the_checkpoints_is_said(tmp_path: Path) -> None:
    saved = state_from(tmp_path, torch.optim.SGD, lr=0.3).settings
    declared = find_settings(Given(), saved, Given(learning_rate=0.1))
    assert declared.learning_rate == 0.3
    assert "the rate 0.1 is declared, the checkpoint's is 0.3; the checkpoint's is taken" in declared.notes[0]
    configured = find_settings(Given(learning_rate=0.1, configured=True), saved, Given())
    assert configured.learning_rate == 0.1
    assert "the rate 0.1 is configured, the checkpoint's is 0.3; it is taken" in configured.notes[0]
    for given in (Given(learning_rate=0.1), Given(learning_rate=0.3, configured=True), Given()):
        assert not any("the rate " in note for note in find_settings(given, saved, Given(learning_rate=0.3)).notes)
