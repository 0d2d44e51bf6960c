"""The limits against real steps of the real optimizers – torch's, or those in `optim` – and their costs."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.diagnostics.suggest_lr.alternatives import settings_as_flags, usual_optimizers
from fromage_cli.diagnostics.suggest_lr.facts import trained_at
from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.diagnostics.suggest_lr.result import Estimate, SuggestedRates
from fromage_cli.diagnostics.suggest_lr.training import CUT_SHORT
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.missing import OPTIMIZER_UNKNOWN, Missing, Why, known
from fromage_cli.optim import LAMB, LARS, Fromage, Lion
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.cost import gradients
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_update import next_update
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms
from fromage_cli.theory.relative_trust import lemma2_rate
from tests.diagnostics.measured import Measured, run_measurement

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 1e-3}),
    "adam": (torch.optim.Adam, {"weight_decay": 1e-3}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "lion": (Lion, {"weight_decay": 0.1}),
    "lamb": (LAMB, {"weight_decay": 0.1}),
    "lars": (LARS, {"momentum": 0.9, "trust_coefficient": 0.02}),
    "fromage": (Fromage, {}),
    "muon": (torch.optim.Muon, {}),
}


PREFACTOR = 0.02
"""What Fromage's prefactor, which is left out, takes off a step of .2."""


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))


def loss_of(model: nn.Module, data: Data) -> torch.Tensor:
    return nn.functional.cross_entropy(model(data["x"]), data["y"])


def train(model: nn.Module, data: Data, optimizer: torch.optim.Optimizer, times: int) -> None:
    for _ in range(times):
        model.zero_grad()
        loss_of(model, data).backward()
        optimizer.step()


def trained(
    tmp_path: Path, model: nn.Module, data: Data, name: str, rate: float
) -> tuple[torch.optim.Optimizer, OptimizerState]:
    kind, settings = RULES[name]
    moving = [p for p in model.parameters() if name != "muon" or p.dim() == 2]
    optimizer = kind(moving, lr=rate, **settings)
    train(model, data, optimizer, 60 if name == "fromage" else 4)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    return optimizer, state


def suggest(problem: Problem, optimizer: Optimizer, state: OptimizerState | None = None, **request: Any) -> Measured:
    asked = Request(**request)
    return run_measurement(measure, problem, problem.receiving, optimizer, state, request=asked)


def estimate(result: SuggestedRates, name: str) -> Estimate:
    return next(each for each in result.estimates if each.name == name)


class Stepper:
    """One step of a real optimizer from fixed weights and a fixed state, at any rate."""

    def __init__(self, model: nn.Module, data: Data, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.data, self.optimizer = model, data, optimizer
        self.weights = [parameter.detach().clone() for parameter in model.parameters()]
        self.state = copy.deepcopy(optimizer.state_dict())

    def __call__(self, rate: float) -> tuple[float, dict[str, float]]:
        """The loss afterwards, and the relative size of the step in every layer."""
        self.optimizer.load_state_dict(copy.deepcopy(self.state))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        train(self.model, self.data, self.optimizer, 1)
        with torch.no_grad():
            loss = float(loss_of(self.model, self.data))
            named = zip(self.model.named_parameters(), self.weights, strict=True)
            sizes = {n: float((p - w).norm() / w.norm()) for (n, p), w in named if p.dim() > 1}
            for parameter, weight in zip(self.model.parameters(), self.weights, strict=True):
                parameter.copy_(weight)
        return loss, sizes


@pytest.mark.parametrize("name", RULES)
def test_the_limit_is_what_a_real_step_does(
    make_problem: Maker, network: nn.Module, classification: Data, tmp_path: Path, name: str
) -> None:
    optimizer, state = trained(tmp_path, network, classification, name, 0.05 if name == "fromage" else 1e-3)
    problem = make_problem(network, classification)
    found = suggest(problem, find_settings(Given(), state.settings, Given()), state).result
    step, base = Stepper(network, classification, optimizer), problem.base.loss
    limit = found.limit
    assert (limit.estimator, limit.relation, limit.reliable) == ("measured-sum", "crossing", True)
    assert known(limit.eta) is not None and known(limit.learning_rate) is not None
    loss, sizes = step(0.999 * limit.learning_rate)
    assert max(sizes.values()) == pytest.approx(0.999 * limit.eta, rel=PREFACTOR if name == "fromage" else 2e-3)
    assert loss < base
    assert step(limit.learning_rate / 3)[0] < base
    rates = {layer.name: layer.learning_rate for layer in found.layers if layer.name in sizes}
    assert any(rate is not None for rate in rates.values())
    for layer_name, rate in rates.items():
        if rate is not None:
            assert step(rate)[1][layer_name] == pytest.approx(limit.eta, rel=PREFACTOR if name == "fromage" else 5e-3)
    critical = estimate(found, "critical").learning_rate
    assert critical is not None and critical > limit.learning_rate
    assert step(0.95 * critical)[0] < base < step(1.05 * critical)[0]
    assert gradients(problem.evaluations) <= 40


@pytest.mark.parametrize("name", ["momentum", "adamw", "lion", "lars", "muon"])
def test_without_state_it_is_the_step_after_many_equal_ones(
    make_problem: Maker, network: nn.Module, classification: Data, name: str
) -> None:
    kind, settings = RULES[name]
    moving = [p for p in network.parameters() if name != "muon" or p.dim() == 2]
    optimizer = kind(moving, lr=0.0, **settings)
    train(network, classification, optimizer, 300)
    data = {key: torch.cat([value] * 16) for key, value in classification.items()}  # chunks without noise
    problem = make_problem(network, data)
    rule = Optimizer(
        "sgd" if name == "momentum" else name,
        momentum=settings.get("momentum", 0.95 if name == "muon" else 0.0),
        nesterov=name == "muon",
        betas=(0.9, 0.99) if name == "lion" else (0.9, 0.999),
        trust_coefficient=settings.get("trust_coefficient", 1.0),
        weight_decay=settings.get("weight_decay", 0.1 if name == "muon" else 0.0),
    )
    limit = suggest(problem, rule).result.limit
    assert known(limit.eta) is not None and known(limit.learning_rate) is not None
    _, sizes = Stepper(network, classification, optimizer)(limit.learning_rate)
    assert max(sizes.values()) == pytest.approx(limit.eta, rel=0.01)


@pytest.mark.parametrize("name", ["sgd", "adamw", "fromage"])
def test_costs_are_kept(make_problem: Maker, perceptron: nn.Module, classification: Data, name: str) -> None:
    problem = make_problem(perceptron, classification)
    result = suggest(problem, Optimizer(name, 0.01), sharpness=True).result
    measured = next(each for each in result.estimates if each.name == "measured")
    assert measured.gradient_evaluations <= 12
    assert problem.evaluations.hessian_vector_products <= 1 + 20
    plain = make_problem(perceptron, classification)
    suggest(plain, Optimizer(name, 0.01))
    assert gradients(plain.evaluations) <= 40
    assert plain.evaluations.hessian_vector_products == 1


class Ordered(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = super().forward(x)
        return result * torch.linspace(0.1, 3.0, len(x))[:, None]


def test_costs_are_kept_where_the_order_of_rows_matters(make_problem: Maker, classification: Data) -> None:
    torch.manual_seed(0)
    model = Ordered(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    result = suggest(make_problem(model, classification), Optimizer("adamw", 0.01)).result
    assert estimate(result, "measured").gradient_evaluations <= 12
    assert known(estimate(result, "measured").learning_rate) is not None


def test_weights_are_bit_identical_afterwards(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    before = [parameter.detach().clone() for parameter in perceptron.parameters()]
    suggest(make_problem(perceptron, classification), Optimizer("adamw", 0.01), sharpness=True, probe="auto", verify=2)
    suggest(make_problem(perceptron, classification), Optimizer())
    assert all(torch.equal(now, then) for now, then in zip(perceptron.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in perceptron.parameters())


def test_lemma_2_reads_three_depths(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    result = suggest(make_problem(perceptron, classification), Optimizer("adamw", 0.01)).result
    least = min(layer.cosine or 0.0 for layer in result.layers if len(layer.shape) > 1)
    for name in ("lemma2-count", "lemma2-path", "lemma2-effective"):
        assert estimate(result, name).eta == pytest.approx(lemma2_rate(least, 3))


def test_noise_of_a_smaller_batch_lowers_the_limit(make_problem: Maker, perceptron: nn.Module) -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    data = {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}
    whole, small, tiny = (
        suggest(make_problem(perceptron, data), Optimizer("sgd", 0.01), batch_size=size).result
        for size in (None, 16, 4)
    )
    rates = [result.limit.learning_rate or 0.0 for result in (whole, small, tiny)]
    assert rates == sorted(rates, reverse=True)
    cosines = [result.layers[1].cosine or 0.0 for result in (whole, small, tiny)]
    assert cosines == sorted(cosines, reverse=True) and cosines[2] < cosines[1] < cosines[0]
    assert all(known(result.layers[1].cosine_stderr) for result in (whole, small, tiny))
    assert tiny.optimizer.train_batch_size == 4 and whole.optimizer.train_batch_size == 64
    assert tiny.noise_scale == whole.noise_scale


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_for_training_batches_the_mean_step_is_what_descends(
    make_problem: Maker, network: nn.Module, name: str
) -> None:
    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(1))
    data = {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}
    problem = make_problem(network, data)
    found = suggest(problem, Optimizer(name, 0.01), batch_size=8)
    limit = found.result.limit
    assert limit.averaged and limit.estimator == "measured-sum" and known(limit.learning_rate) is not None
    assert any("a single one may raise the loss" in note for note in found.notes)
    assert not suggest(make_problem(network, data), Optimizer(name, 0.01)).result.limit.averaged
    update = next_update(MatchedState(problem, Optimizer(name)), problem.receiving, batch_size=8)
    mean = update.moved(problem.receiving)
    for factor in (0.1, 0.5, 1.0):
        with problem.displaced(problem.receiving) as origin:
            for tensor in problem.receiving:
                tensor.parameter.data.copy_(origin[tensor.name] - factor * limit.learning_rate * mean[tensor.name])
            assert problem.value() < problem.base.loss


def test_the_rate_in_the_checkpoint_is_held_against_the_limit(
    make_problem: Maker, network: nn.Module, classification: Data, tmp_path: Path
) -> None:
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": matrices}, {"params": vectors, "lr": 0.5, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] *= 1e-3
    train(network, classification, optimizer, 4)
    for group in optimizer.param_groups:
        group["lr"] *= 1e3
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    problem = make_problem(network, classification)
    result = suggest(problem, find_settings(Given(), state.settings, Given()), state).result
    first, second = result.optimizer.groups
    assert (result.optimizer.current_learning_rate, result.optimizer.lowest_learning_rate) == (1.0, 0.5)
    assert trained_at(result) == "AdamW at 0.5 to 1"
    assert result.optimizer.current_ratio == pytest.approx(1.0 / (result.limit.learning_rate or 0.0))
    assert (first.tensors, first.learning_rate, first.weight_decay) == (3, 1.0, 0.1)
    assert first.limit == pytest.approx(result.limit.learning_rate)
    assert (second.tensors, second.learning_rate) == (3, 0.5)
    assert isinstance(second.limit, Missing) and second.limit.code == Why.NOTHING_MOVES


@pytest.mark.parametrize("seed", [9, 11])
def test_where_nothing_is_certain_the_limit_is_where_the_loss_was_seen_to_rise(
    make_problem: Maker, perceptron: nn.Module, classification: Data, seed: int
) -> None:
    random = {**classification, "y": torch.randint(3, (32,), generator=torch.Generator().manual_seed(seed))}
    result = suggest(make_problem(perceptron, random), Optimizer("sgd", 0.01), batch_size=1).result
    assert result.limit.estimator == "critical" and not result.limit.reliable


def test_without_an_optimizer_every_one_has_its_rate(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    result = suggest(problem, Optimizer()).result
    assert known(result.limit.eta) is not None and result.limit.learning_rate == OPTIMIZER_UNKNOWN
    assert result.recommended.learning_rate == OPTIMIZER_UNKNOWN
    assert [each.name for each in result.alternatives] == [
        "fromage", "lars", "lamb", "sgd", "adam", "adamw", "lion", "muon", "adafactor",
    ]  # fmt: skip
    rates = {each.name: each for each in result.alternatives}
    assert rates["fromage"].limit == pytest.approx(result.limit.eta)
    assert all(known(each.critical) is not None and each.critical > each.limit for each in result.alternatives)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (replace(Optimizer("lars"), momentum=0.9), "--momentum 0.9"),
        (replace(Optimizer("sgd"), momentum=0.9), "--momentum 0.9"),
        (Optimizer("adam"), "--betas 0.9,0.999"),
        (replace(Optimizer("lion"), betas=(0.9, 0.99)), "--betas 0.9,0.99"),
        (Optimizer("fromage"), ""),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_is_measured_along_its_own_update_as_if_it_had_been_named(
    make_problem: Maker, perceptron: nn.Module, classification: Data, optimizer: Optimizer, settings: str
) -> None:
    unknown = suggest(make_problem(perceptron, classification), Optimizer()).result
    named = suggest(make_problem(perceptron, classification), optimizer).result
    (found,) = [each for each in unknown.alternatives if each.name == optimizer.name]
    (critical,) = [each.learning_rate for each in named.estimates if each.name == "critical"]
    assert (found.limit, found.critical) == (named.limit.learning_rate, critical)
    assert found.settings == settings


def test_settings_that_are_given_or_declared_are_those_of_the_row() -> None:
    rows = {each.name: settings_as_flags(each) for each in usual_optimizers(Given(momentum=0.5), Given())}
    assert (rows["sgd"], rows["muon"]) == ("--momentum 0.5", "--momentum 0.5 --nesterov")
    declared = Given(momentum=0.0, betas=(0.8, 0.9), weight_decay=0.1)
    rows = {each.name: settings_as_flags(each) for each in usual_optimizers(Given(), declared)}
    assert rows["adamw"] == "--betas 0.8,0.9 --weight-decay 0.1"
    assert (rows["sgd"], rows["fromage"]) == ("--weight-decay 0.1", "")


def test_one_that_moves_nothing_says_why_in_its_row(make_problem: Maker, classification: Data) -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.gain)[:, :3]

    result = suggest(make_problem(Gain(), classification), Optimizer()).result
    (muon,) = [each for each in result.alternatives if each.name == "muon"]
    assert isinstance(muon.limit, Missing) and muon.limit.code == Why.NOT_EVALUATED


def test_a_loss_of_rows_together_goes_without_noise_and_says_why(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    class Pairs:
        name = "pairs"

        def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
            if batch.size < 8:
                raise MismatchError("it takes eight rows")
            output = model(batch.data["x"])
            return LossTerms((output @ output.T).logsumexp(1).mean(), 1.0)

    problem = replace(make_problem(perceptron, classification), loss=Pairs())
    few, many = suggest(problem, Optimizer("adam")), suggest(problem, Optimizer("adam"), chunks=2)
    for found, reason in (
        (few, "it takes eight rows"),
        (many, "the loss is not a mean over rows: all rows give 3.524,"),
    ):
        assert found.result.noise_scale is found.result.noise_rows
        assert found.result.noise_scale.code == Why.NOT_EVALUATED
        assert known(found.result.limit.eta) is not None
        assert any(note.startswith(f"noise: not measured ({reason}") for note in found.notes)


def test_the_typical_rate_is_an_estimate_and_never_the_rate_to_train_at(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    result = suggest(make_problem(perceptron, classification), Optimizer("lion", 0.01)).result
    assert known(estimate(result, "typical").learning_rate) is not None
    assert isinstance(result.recommended.learning_rate, Missing) and result.recommended.estimator is None
    muon = suggest(make_problem(perceptron, classification), Optimizer("muon")).result
    assert isinstance(estimate(muon, "typical").learning_rate, Missing)


def test_short_runs_and_real_steps_are_made_when_asked_for(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    found = suggest(problem, Optimizer("adamw", 0.01), probe="checkpoint", verify=3, budget=180).result
    assert estimate(found, "probe").gradient_evaluations == pytest.approx(
        (6 * sum(run.steps for run in found.probe) + (len(found.probe) + 1) * 6 / 3) / 32
    )
    assert len(found.probe) >= 7 and found.probe_steps == max(run.steps for run in found.probe)
    assert [run.factor for run in found.verification] == pytest.approx([1 / 3, 1.0, 3.0])
    assert all(len(run.losses) == 3 for run in found.verification)
    assert found.verification[1].learning_rate == (known(found.recommended.learning_rate) or 0.01)


def test_where_no_rate_to_train_at_is_known_the_present_one_is_verified_else_the_limit(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    assert suggest(problem, Optimizer("adamw", 0.01), verify=2).result.verification[1].learning_rate == 0.01
    found = suggest(problem, Optimizer("adamw"), verify=2).result
    assert found.verification[1].learning_rate == known(found.limit.learning_rate)


def test_layers_below_a_zero_head_have_no_gradient(make_problem: Maker, classification: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    data = {"x": classification["x"], "y": torch.randint(0, 3, (32,))}
    assert suggest(make_problem(model, data, "cross-entropy"), Optimizer("sgd")).result.zero_gradient == ()
    nn.init.zeros_(model[2].weight)
    for optimizer in ("sgd", "adamw"):
        found = suggest(make_problem(model, data, "cross-entropy"), Optimizer(optimizer, weight_decay=0.1)).result
        assert found.zero_gradient == ("0.weight",)


def test_sharpness_gives_the_rate_of_the_optimizers_threshold(make_problem: Maker, classification: Data) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1, bias=False).double()
    data = {"x": classification["x"].double(), "y": torch.randn(32, 1).double()}
    curvature = float(torch.linalg.eigvalsh(data["x"].T @ data["x"] * 2 / 32)[-1])
    result = suggest(make_problem(model, data), Optimizer("sgd", 0.1, momentum=0.5), sharpness=True).result
    assert estimate(result, "sharpness").learning_rate == pytest.approx(3.0 / curvature, rel=0.01)
    assert result.stability.learning_rate == estimate(result, "sharpness").learning_rate
    assert result.stability.ratio == pytest.approx(0.1 * curvature / 3.0, rel=0.01)
    assert result.stability.diverged_from == 0.3 and not result.stability.adam_begins
    plain = suggest(make_problem(model, data), Optimizer("sgd", 0.1), sharpness=True).result
    assert plain.stability.diverged_from is None
    adam = suggest(make_problem(model, data), Optimizer("adamw"), sharpness=True, batch_size=32).result
    assert adam.stability.adam_begins and not adam.stability.adam_unsaved
    for trained in (True, None):
        late = suggest(make_problem(model, data), Optimizer("adamw"), sharpness=True, trained=trained).result
        assert late.stability.adam_begins and late.stability.adam_unsaved
    assert known(estimate(adam, "sharpness").learning_rate) is not None
    lion = suggest(make_problem(model, data), Optimizer("lion"), sharpness=True).result
    assert "not proportional to the gradient" in estimate(lion, "sharpness").assumption


def test_a_time_limit_leaves_what_was_found(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    problem = make_problem(perceptron, classification, budget=Budget(seconds=3600))
    calls: list[int] = []

    def advance() -> None:
        calls.append(1)
        if len(calls) == 5:
            problem.budget.seconds = 0.0

    found = run_measurement(
        measure, problem, problem.receiving, Optimizer("sgd", 0.1), None, request=Request(probe="auto"), advance=advance
    )
    assert isinstance(found.error, ResourceError)
    assert known(found.result.limit.eta) is not None and not found.result.limit.reliable
    assert "reached a limit" in estimate(found.result, "critical").assumption
    assert found.result.recommended.reason == CUT_SHORT


def test_several_batches_give_step_and_loss_apart(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    other = as_batch({key: value.flip(0)[:16] for key, value in classification.items()}, "other")
    result = suggest(make_problem(perceptron, classification, further=(other,)), Optimizer("sgd", 0.1)).result
    assert "on 16 rows, the step from 32 others" in estimate(result, "critical-independent").assumption


def test_batch_norm_is_not_cut(make_problem: Maker, classification: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    found = suggest(make_problem(model, classification), Optimizer("sgd", 0.1))
    assert found.result.noise_scale.code == Why.BATCH_STATISTICS
    assert found.result.layers[0].cosine == pytest.approx(1.0)
    assert found.result.layers[0].cosine_stderr == found.result.noise_scale
    assert any("cannot be split" in note for note in found.notes)
    assert found.result.noise == ("0.bias",)
    given = suggest(make_problem(model, classification), Optimizer("sgd", 0.1), batch_size=8)
    assert given.result.noise_rows == 8


def test_without_a_second_derivative_everything_else_is_found(
    make_problem: Maker, classification: Data, tanh_once: nn.Module
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), tanh_once, nn.Linear(6, 3))
    found = suggest(make_problem(model, classification), Optimizer("sgd", 0.1), sharpness=True)
    assert found.result.limit.reliable
    assert any("no second derivative" in note for note in found.notes)
    assert known(estimate(found.result, "sharpness").learning_rate) is None
    assert "no second derivative" in estimate(found.result, "sharpness").assumption


def test_the_cosine_of_adam_has_the_error_of_its_chunks(
    make_problem: Maker, network: nn.Module, classification: Data, tmp_path: Path
) -> None:
    _, state = trained(tmp_path, network, classification, "adamw", 1e-3)
    result = suggest(
        make_problem(network, classification), find_settings(Given(), state.settings, Given()), state
    ).result
    for layer in result.layers:
        assert layer.cosine is not None and 0.0 < layer.cosine < 1.0
        assert known(layer.cosine_stderr) is not None and math.isfinite(layer.cosine_stderr)


def test_rows_that_the_step_does_not_help_are_told(make_problem: Maker) -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    x, y = torch.eye(2).repeat(8, 1), torch.tensor([3.0] * 8 + [-3.0] * 8)[:, None]
    result = suggest(make_problem(model, {"x": x, "y": y}), Optimizer("sgd", 0.1)).result
    found = estimate(result, "critical-independent")
    assert found.learning_rate.code == Why.UPHILL and found.assumption.startswith("it never falls; on 8 rows")


class Scaled(nn.Module):
    """A residual network whose branches are scaled by a vector that begins near zero, as LayerScale does."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 3)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32)) for _ in range(3)
        )
        self.scales = nn.ParameterList(nn.Parameter(torch.full((32,), scale)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for scale, branch in zip(self.scales, self.branches, strict=True):
            x = x + scale * branch(x)
        return self.last(x)


class ClassToken(nn.Module):
    """A class token drawn near zero beside rows of ordinary size, as many vision transformers draw it."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * deviation)
        self.embed, self.head = nn.Linear(1, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x[:, :, None])], 1)
        return self.head((rows + self.attention(rows, rows, rows, need_weights=False)[0])[:, 0])


@pytest.fixture
def two_signs() -> Data:
    torch.manual_seed(5)
    x = torch.randn(64, 8)
    return {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}


@pytest.mark.parametrize("network_of", [Scaled, ClassToken])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_limit_does_not_hang_on_a_tensor_that_is_nearly_zero(
    make_problem: Maker, two_signs: Data, network_of: Callable[[float], nn.Module], name: str
) -> None:
    """It is the same rate at every size of that tensor, and one step at it lowers the loss."""
    limits = []
    for size in (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0):
        problem = make_problem(network_of(size), two_signs)
        found = suggest(problem, Optimizer(name)).result
        assert found.limit.reliable and found.limit.estimator in ("measured", "measured-sum")
        limits.append(found.limit.learning_rate)
        update = next_update(MatchedState(problem, Optimizer(name)), problem.receiving)
        with problem.displaced(problem.receiving) as origin:
            for tensor in problem.receiving:
                step = update.moved([tensor]).get(tensor.name, torch.zeros(()))
                tensor.parameter.data.copy_(origin[tensor.name] - limits[-1] * step)
            assert problem.value() < problem.base.loss
        assert found.without_size == (("token",) if network_of is ClassToken and size < 2e-3 else ())
    small, ordinary = limits[:7], limits[6:]
    assert all(0.75 < second / first < 1.25 for first, second in pairwise(small))
    assert all(0.4 < second / first <= 1.1 for first, second in pairwise(ordinary))  # the network is another one there


@pytest.mark.parametrize("name", ["adamw", "sgd", "momentum"])
def test_a_head_of_zeros_has_a_limit_without_a_relative_step(make_problem: Maker, two_signs: Data, name: str) -> None:
    """At the first step nothing else has a gradient; at the second the head is far smaller than its own step.

    AdamW then moves every layer by its full step, plain descent still the head alone.
    """
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 3))
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    rule = Optimizer("sgd", momentum=0.9) if name == "momentum" else Optimizer(name)
    first = suggest(make_problem(model, two_signs), rule).result
    assert isinstance(first.limit.eta, Missing) and first.limit.eta.code == Why.NOT_DEFINED
    assert known(first.limit.learning_rate) is not None and first.without_size == ("4.weight",)
    critical = known(estimate(first, "critical").learning_rate)
    assert critical is not None and first.limit.learning_rate < critical < 20.0 * first.limit.learning_rate
    for depth in ("lemma2-count", "lemma2-path", "lemma2-effective"):
        assert isinstance(estimate(first, depth).learning_rate, Missing)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    nn.functional.cross_entropy(model(two_signs["x"]), two_signs["y"]).backward()
    optimizer.step()
    model.zero_grad()
    second = suggest(make_problem(model, two_signs), rule).result
    assert second.without_size == ("4.weight",)
    if name == "adamw":
        assert 0.01 < known(second.limit.learning_rate) < 0.1
    else:
        assert second.limit.learning_rate == pytest.approx(first.limit.learning_rate, rel=0.1)


class Flow(nn.Module):
    """A step of a flow: the time and the noise of every row are drawn, unless they are given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(9, 32), nn.SiLU(), nn.Linear(32, 8))

    def forward(
        self, x: torch.Tensor, time: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        time = torch.rand(len(x)) if time is None else time
        noise = torch.randn_like(x) if noise is None else noise
        mixed = torch.cat([(1 - time)[:, None] * x + time[:, None] * noise, time[:, None]], 1)
        return (self.net(mixed) - (noise - x)).square().mean()


def test_random_draws_give_what_the_same_numbers_in_the_batch_give(make_problem: Maker) -> None:
    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(as_batch({"x": x}, "here").seed(0))
    held = {"x": x, "time": torch.rand(128), "noise": torch.randn_like(x)}
    drawn, given = (
        suggest(make_problem(Flow(), data, "output"), find_settings(Given("adamw", 1e-3), None, Given())).result
        for data in ({"x": x}, held)
    )
    for name in ("measured", "critical"):
        rate = known(estimate(given, name).learning_rate)
        assert rate is not None and known(estimate(drawn, name).learning_rate) == pytest.approx(rate, rel=1e-4)
    assert known(drawn.noise_scale) == pytest.approx(known(given.noise_scale), rel=1e-4)
    assert not isinstance(drawn.draws, Missing) and isinstance(given.draws, Missing)
    assert drawn.draws.count == 4 and drawn.draws.low < drawn.draws.high


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is the opposite."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


class Reversing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Reversed.apply(x)  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_gradient_that_is_not_the_losses_certifies_nothing(make_problem: Maker, two_signs: Data, name: str) -> None:
    torch.manual_seed(5)
    layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    found = suggest(make_problem(nn.Sequential(layers, Reversing()), two_signs), Optimizer(name)).result
    assert found.contradiction is not None
    measured, expected = found.contradiction
    assert measured > 0.0 > expected
    # a line through two points of the search, which lie further apart on a curve that bends along AdamW's step
    assert measured == pytest.approx(-expected, rel=0.1 if name == "sgd" else 0.3)
    assert found.limit.estimator not in ("measured", "measured-sum")
    assert suggest(make_problem(layers, two_signs), Optimizer(name)).result.contradiction is None
