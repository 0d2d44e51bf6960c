from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.settings import Given, find_settings
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.probes.optimizer_step.next_step import next_step, preconditioner
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]


def step(model: nn.Module, data: Data, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
        optimizer.step()


def state_of(tmp_path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> OptimizerState:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    return state


@pytest.mark.parametrize(
    ("kind", "settings", "warm"),
    [
        (torch.optim.SGD, {}, 0),
        (torch.optim.SGD, {}, 3),
        (torch.optim.SGD, {"momentum": 0.9}, 0),
        (torch.optim.SGD, {"momentum": 0.9}, 3),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}, 0),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}, 3),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 0),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 3),
        (torch.optim.Adam, {"betas": (0.8, 0.9), "weight_decay": 0.1}, 3),
        (torch.optim.Adam, {"amsgrad": True}, 3),
        (torch.optim.AdamW, {"weight_decay": 0.5}, 3),
    ],
)
def test_the_step_is_that_of_torchs_optimizer(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: Data,
    tmp_path: Path,
    kind: Any,
    settings: Any,
    warm: int,
) -> None:
    rate = 0.01
    matrices = [parameter for parameter in perceptron.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in perceptron.parameters() if parameter.dim() < 2]
    remembers = (warm and kind is not torch.optim.SGD) or settings.get("momentum")
    groups = (
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        if remembers and warm
        else perceptron.parameters()
    )
    optimizer = kind(groups, lr=rate, **settings)
    step(perceptron, classification, optimizer, warm)
    state = state_of(tmp_path, perceptron, optimizer)
    problem = make_problem(perceptron, classification)
    moved, note = next_step(match_state(problem, find_settings(Given(), state.settings, Given()), state))
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    step(perceptron, classification, optimizer)
    for name, value in perceptron.named_parameters():
        torch.testing.assert_close(before[name] - rate * moved[name], value.detach(), rtol=1e-5, atol=1e-7)
    assert note.startswith("step: ")
    assert ("in the checkpoint" in note) == (warm > 0 and bool(settings))


def test_moments_that_are_not_corrected_for_their_start_are_taken_as_they_are(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    optimizer = torch.optim.AdamW(perceptron.parameters(), lr=0.01, weight_decay=0.0)
    step(perceptron, classification, optimizer, 3)
    optimizer.param_groups[0] |= {"correct_bias": False}
    state = state_of(tmp_path, perceptron, optimizer)
    problem = make_problem(perceptron, classification)
    moved, _ = next_step(match_state(problem, find_settings(Given(), state.settings, Given()), state))
    for name, parameter in perceptron.named_parameters():
        slot, gradient = optimizer.state[parameter], problem.base.gradients[name]
        first = slot["exp_avg"].lerp(gradient, 0.1)
        root = slot["exp_avg_sq"].lerp(gradient.square(), 0.001).sqrt() + 1e-8
        torch.testing.assert_close(moved[name], first / root, rtol=1e-4, atol=1e-6)


def test_without_moments_they_come_from_minibatches(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    _, note = next_step(MatchedState(problem, find_settings(Given("adamw", weight_decay=0.1), None, Given())))
    assert "16 gradients of 2 rows" in note


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_preconditioner_is_the_formula(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path, amsgrad: bool
) -> None:
    optimizer = torch.optim.Adam(perceptron.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-4, amsgrad=amsgrad)
    step(perceptron, classification, optimizer, 3)
    state = state_of(tmp_path, perceptron, optimizer)
    problem = make_problem(perceptron, classification)
    found = preconditioner(match_state(problem, find_settings(Given(), state.settings, Given()), state))
    assert found is not None
    for name, parameter in perceptron.named_parameters():
        second = optimizer.state[parameter]["max_exp_avg_sq" if amsgrad else "exp_avg_sq"]
        expected = (1 - 0.8**3) * ((second / (1 - 0.9**3)).sqrt() + 1e-4)
        begun = (second > 0) | (problem.base.gradients[name] == 0)  # a unit that was dead so far has the next step's
        torch.testing.assert_close(found[name][begun], expected[begun])
        assert begun.double().mean() > 0.9
    assert state.steps == 3


def test_without_state_there_is_no_preconditioner(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    assert preconditioner(MatchedState(problem, find_settings(Given("adam"), None, Given()))) is None


def test_decay_is_each_groups_own_unless_the_user_says_otherwise(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    matrices = [parameter for parameter in perceptron.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in perceptron.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.3)
    step(perceptron, classification, optimizer)
    state = state_of(tmp_path, perceptron, optimizer)
    problem = make_problem(perceptron, classification)
    own = match_state(problem, find_settings(Given(), state.settings, Given()), state).decays
    assert own == {tensor.name: 0.3 if tensor.is_layer else 0.0 for tensor in problem.receiving}
    said = match_state(problem, find_settings(Given(weight_decay=0.2), state.settings, Given()), state).decays
    assert set(said.values()) == {0.2}


def test_where_no_slot_tells_groups_apart_the_largest_decay_is_taken(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    first, *others = perceptron.parameters()
    groups = [{"params": [first], "weight_decay": 0.3}, {"params": others}]
    state = state_of(tmp_path, perceptron, torch.optim.SGD(groups, lr=0.1))
    problem = make_problem(perceptron, classification)
    assert set(match_state(problem, find_settings(Given(), state.settings, Given()), state).decays.values()) == {0.3}


def test_names_tell_groups_apart_where_no_slot_does(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    """Plain SGD keeps nothing, but knows the names that it was given."""
    first, *others = perceptron.named_parameters()
    groups = [{"params": [first], "weight_decay": 0.3}, {"params": others, "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.1)  # type: ignore[arg-type]
    state, problem = state_of(tmp_path, perceptron, optimizer), make_problem(perceptron, classification)
    rule = find_settings(Given(), state.settings, Given())
    share, decay = match_state(problem, rule, state).rate_shares, match_state(problem, rule, state).decays
    before = {name: parameter.detach().clone() for name, parameter in perceptron.named_parameters()}
    moved, _ = next_step(match_state(problem, rule, state))
    step(perceptron, classification, optimizer)
    for name, parameter in perceptron.named_parameters():
        own = name == "0.weight"
        assert (share[name], decay[name]) == ((1.0, 0.3) if own else (0.5, 0.0))
        torch.testing.assert_close(before[name] - 0.1 * moved[name], parameter.detach())
    assert rule.common_notes == ("optimizer: the groups have rates from 0.05 to 0.1; the largest is taken.",)


def test_a_state_of_another_model_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    other = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 3))
    optimizer = torch.optim.Adam(other.parameters())
    step(other, classification, optimizer)
    state = state_of(tmp_path, other, optimizer)
    problem = make_problem(perceptron, classification)
    with pytest.raises(MismatchError, match="optimizer's state has 4 parameters"):
        preconditioner(match_state(problem, find_settings(Given(), state.settings, Given()), state))
