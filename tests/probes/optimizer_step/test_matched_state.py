from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.diagnostics.sharpness.measure import measure as measure_sharpness
from fromage_cli.diagnostics.suggest_lr.measure import measure as suggest
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.optimizer_step import matched_state
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, group_shares, match_state
from fromage_cli.probes.trial_runs.training import training
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.networks.sharding import share_weights, spread
from tests.forked_ranks import run_ranks

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]


@pytest.fixture
def state(perceptron: nn.Module, classification: Data, tmp_path: Path) -> OptimizerState:
    """Of AdamW with two groups, after a step."""
    first, *rest = perceptron.parameters()
    groups = [{"params": [first]}, {"params": rest, "lr": 5e-4, "weight_decay": 0.1, "betas": (0.8, 0.9)}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.3)
    nn.functional.cross_entropy(perceptron(classification["x"]), classification["y"]).backward()
    optimizer.step()
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    found = open_checkpoint(tmp_path / "c.pt").optimizer
    assert found is not None
    return found


@pytest.mark.parametrize("command", ["suggest-lr", "sharpness"])
def test_a_command_matches_the_state_once(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: Data,
    state: OptimizerState,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    calls, match = [], matched_state.match_parameters

    def counted(*arguments: Any) -> dict[str, int]:
        calls.append(arguments)
        return match(*arguments)

    monkeypatch.setattr(matched_state, "match_parameters", counted)
    problem, rule = make_problem(perceptron, classification), find_settings(Given(), state.settings, Given())
    if command == "sharpness":
        measure_sharpness(problem, problem.receiving, rule, state)
    else:
        suggest(problem, problem.receiving, rule, state, request=Request(sharpness=True, verify=2, batch_size=8))
    assert len(calls) == 1


def test_what_each_tensor_has_of_its_own(
    make_problem: Maker, perceptron: nn.Module, classification: Data, state: OptimizerState
) -> None:
    problem = make_problem(perceptron, classification)
    matched = match_state(problem, find_settings(Given(), state.settings, Given()), state)
    first, second = list(matched.members)[:2]
    assert (matched.own(first).betas, matched.own(second).betas) == ((0.9, 0.999), (0.8, 0.9))
    assert (matched.decays[first], matched.decays[second]) == (0.3, 0.1)
    assert (matched.rate_shares[first], matched.rate_shares[second]) == (1.0, 0.5)
    assert matched.holds_memory and matched.on(problem).members is matched.members


def test_new_weights_keep_the_groups_and_remember_nothing(
    make_problem: Maker, perceptron: nn.Module, classification: Data, state: OptimizerState
) -> None:
    problem = make_problem(perceptron, classification)
    matched = match_state(problem, find_settings(Given(), state.settings, Given()), state)
    again = matched.anew(make_problem(deepcopy(perceptron), classification))
    assert (again.rate_shares, again.decays) == (matched.rate_shares, matched.decays)
    assert again.problem is not problem and not again.holds_memory
    assert all(slot is None for slot, _ in again.members.values())
    with training(again) as run:
        run.start(0.1)
        assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.1, 0.05])
        assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.3, 0.1]
        assert not run.optimizer.state


def test_groups_whose_rates_are_all_zero_have_those_that_they_began_with() -> None:
    groups = tuple(ParameterGroup({"lr": 0.0, "initial_lr": rate}, (k,)) for k, rate in enumerate((0.4, 0.1)))
    assert group_shares(OptimizerState(groups, {})) == (1.0, 0.25)
    assert group_shares(OptimizerState(tuple(ParameterGroup({"lr": 0.0}, (k,)) for k in range(2)), {})) == (1.0, 1.0)


@pytest.mark.parametrize("by_rule", [True, False])
def test_groups_before_the_first_step(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path, by_rule: bool
) -> None:
    named = dict(perceptron.named_parameters())
    first = [name for name in named if named[name].dim() > 1] if by_rule else list(named)[:2]
    groups = [{"params": [named[name] for name in first]},
              {"params": [named[name] for name in named if name not in first], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.3)
    if not by_rule:
        optimizer.param_groups[1]["lr"] = 5e-4
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    problem, rule = make_problem(perceptron, classification), find_settings(Given(), state.settings, Given())
    matched = match_state(problem, rule, state)
    assert matched.members_known is by_rule
    assert matched.decays == {name: 0.3 if name in first or not by_rule else 0.0 for name in named}
    found = suggest(problem, problem.receiving, rule, state, request=Request())
    groups_found = found.optimizer.groups
    assert [group.tensors for group in groups_found] == [len(first), len(named) - len(first)]
    assert all((group.limiting_layer is None) != by_rule for group in groups_found[:1])


def test_muon_takes_matrices_only(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    problem = make_problem(perceptron, classification)
    muon, sgd = (MatchedState(problem, Optimizer(name)) for name in ("muon", "sgd"))
    assert all(muon.takes(tensor) == (tensor.parameter.dim() == 2) for tensor in problem.trainable)
    assert all(map(sgd.takes, problem.trainable))


def test_the_state_of_another_optimizer_is_left_aside(
    make_problem: Maker, perceptron: nn.Module, classification: Data, state: OptimizerState
) -> None:
    matched = match_state(make_problem(perceptron, classification), Optimizer("lion"), state)
    assert matched.state is None and not matched.numbers and not matched.holds_memory


def test_a_state_that_covers_frozen_tensors_is_matched_where_weights_are_sharded(tmp_path: Path) -> None:
    def numbers(sharded: bool) -> dict[str, int]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        network[0].weight.requires_grad_(False)
        rows = Batch((torch.randn(6, 4), torch.randint(3, (6,))), 6, "here")
        slots = {number: {"exp_avg": value.detach()} for number, value in enumerate(network.parameters())}
        state = OptimizerState((ParameterGroup({}, tuple(slots)),), slots)
        if sharded:
            spread(network, torch.device("cpu"))
            share_weights(network)
        problem = Problem(network, resolve_loss("cross-entropy", network, rows), rows)
        return dict(MatchedState(problem, Optimizer("adam"), state).numbers)

    expected = {"0.weight": 0, "0.bias": 1, "2.weight": 2, "2.bias": 3}
    assert numbers(False) == expected
    assert run_ranks(2, numbers, True) == [expected] * 2
