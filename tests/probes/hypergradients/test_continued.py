"""Runs continued with a hyperparameter moved, against a plain training loop, and what they leave behind."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, stdev, variance
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.probes.hypergradients import continued
from fromage_cli.probes.hypergradients.continued import CHANGE, DRAWS, FROM_ZERO, Continuations
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, hyperparameters
from fromage_cli.probes.hypergradients.unrolled import unroll
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import Batch
from tests.probes.hypergradients.plain_training import Probed, Run, random_rows, saved_run


def hyperparameter(probed: Probed, name: str, scope: str = "all") -> Hyperparameter:
    found = hyperparameters(probed.steps.matched, probed.values)
    return next(one for one in found if (one.name, one.scope) == (name, scope))


def continuations(probed: Probed, **more: Any) -> Continuations:
    """Every draw on the same batches."""
    return Continuations(probed.steps, probed.validation, probed.values, lambda _: probed.steps.batches, **more)


def with_dropout(probability: float = 0.3) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(probability), nn.Linear(9, 3)
    ).double()


@pytest.mark.parametrize(
    ("name", "scope"),
    [("weight-decay", "all"), ("weight-decay", "group:1"), ("label-smoothing", "all"), ("learning-rate", "2.weight")],
)
def test_a_small_change_gives_the_derivative(name: str, scope: str) -> None:
    """With 61 validation rows the parts are unequal, and still their mean is that of all rows."""
    run = saved_run("adamw")
    run.validation = random_rows(61, seed=9)
    probed = run.probed(10)
    assert {batch.size for batch in probed.validation.parts} == {7, 8}
    one = hyperparameter(probed, name, scope)
    slope = one.per_unit(unroll(probed.steps, probed.validation, probed.values).at(one.place), probed.values)
    found = continuations(probed).measure(one, change=1e-4)
    assert found.per_unit == pytest.approx(slope, rel=1e-6)
    assert found.metasmoothness == pytest.approx(1.0, abs=1e-6)


def test_from_zero_it_goes_up_alone() -> None:
    run = saved_run("adamw", weight_decay=0.0)
    probed = run.probed(10)
    found = continuations(probed).measure(hyperparameter(probed, "weight-decay"))
    raised = {name: {"weight_decay": FROM_ZERO} for name in probed.values.decays}
    assert found.per_unit == pytest.approx((run.end(10, raised) - run.end(10)) / FROM_ZERO, rel=1e-9)


def moved(run: Run, probed: Probed, share: float) -> Run:
    """The run continued by the plain loop with all decays multiplied."""
    decays = {name: {"weight_decay": share * decay} for name, decay in probed.values.decays.items()}
    return run.gone_on(10, decays)


@pytest.mark.parametrize("rows", [64, 61])
def test_the_standard_error_is_that_of_the_parts(rows: int) -> None:
    run = saved_run("adamw")
    inputs, targets = run.validation = random_rows(rows, seed=9)
    probed = run.probed(10)
    found = continuations(probed).measure(hyperparameter(probed, "weight-decay"))
    low, high = (moved(run, probed, 1.0 + sign * CHANGE) for sign in (-1.0, 1.0))
    bounds = [round(part * rows / 8) for part in range(9)]
    quotients, sizes = [], []
    for start, stop in pairwise(bounds):
        ends = []
        for end in (low, high):
            end.validation = (inputs[start:stop], targets[start:stop])
            ends.append(end.validation_loss())
        quotients.append((ends[1] - ends[0]) / (2.0 * CHANGE * 0.1))
        sizes.append(stop - start)
    mean = sum(size * each for size, each in zip(sizes, quotients, strict=True)) / rows
    spread = sum((size / rows * (each - mean)) ** 2 for size, each in zip(sizes, quotients, strict=True)) * 8 / 7
    assert found.per_unit == pytest.approx(mean, rel=1e-9)
    assert found.stderr == pytest.approx(math.sqrt(spread), rel=1e-6)
    if rows == 64:
        assert found.stderr == pytest.approx(stdev(quotients) / math.sqrt(8), rel=1e-6)


def test_metasmoothness_is_the_cosine_between_both_halves() -> None:
    run = saved_run("sgd")
    probed = run.probed(10)
    found = continuations(probed).measure(hyperparameter(probed, "weight-decay"), change=0.9)
    low, middle, high = (
        torch.cat([each.detach().flatten() for each in moved(run, probed, share).model.parameters()])
        for share in (0.1, 1.0, 1.9)
    )
    expected = nn.functional.cosine_similarity(middle - low, high - middle, dim=0)
    assert found.metasmoothness == pytest.approx(float(expected), rel=1e-9)
    assert 0.9 < float(expected) < 0.999999


def test_what_moves_no_weight_has_no_metasmoothness() -> None:
    """A single row in a part leaves a spread, and a single part leaves none."""
    run = saved_run("lion")
    run.validation = random_rows(1, seed=9)
    probed = run.probed(2)
    found = continuations(probed).measure(hyperparameter(probed, "label-smoothing"), change=1e-9)
    assert (found.per_unit, found.stderr, found.draws, found.metasmoothness) == (0.0, None, 1, None)


def test_dropout_is_moved_under_the_same_random_numbers() -> None:
    """What is dropped at the lower rate is dropped at the higher one too, in each of several draws."""
    probed = saved_run("adamw", with_dropout()).probed(3)
    model, seen, runs = probed.steps.problem.model, [], []

    @contextmanager
    def counting(drawn: int, kept: dict[str, float]) -> Iterator[None]:
        seen.clear()
        yield
        runs.append((drawn, kept["3.p"], torch.stack(seen)))

    def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if model.training:
            seen.append((output == 0.0).detach())

    model[3].register_forward_hook(keep)  # type: ignore[index,operator]
    subject = continuations(probed)
    plain = subject._run

    def watched(values: Any, draw: int = 0) -> Any:
        with counting(draw, dict(values.dropout)):
            return plain(values, draw)

    subject._run = watched  # type: ignore[method-assign]
    found = subject.measure(hyperparameter(probed, "dropout"))
    assert len(runs) == 2 * DRAWS + 1
    by_draw: dict[int, dict[float, Tensor]] = {}
    for draw, probability, masks in runs:
        by_draw.setdefault(draw, {})[round(probability, 6)] = masks
    assert sorted(by_draw) == list(range(DRAWS))
    for masks in by_draw.values():
        assert bool((masks[0.33] | ~masks[0.27]).all()) and int(masks[0.33].sum()) > int(masks[0.27].sum())
    assert len({tuple(masks[0.33].flatten().tolist()) for masks in by_draw.values()}) == DRAWS
    assert found.stderr is not None and found.stderr > 0.0
    assert model[3].p == 0.3  # type: ignore[index,union-attr]


def test_the_standard_error_of_dropout_has_the_spread_of_draws_too() -> None:
    probed = saved_run("adamw", with_dropout()).probed(3)
    subject, rows = continuations(probed), []
    found = subject.measure(hyperparameter(probed, "dropout"))
    for draw in range(DRAWS):
        low, high = (
            subject._run(probed.values.moved(hyperparameter(probed, "dropout"), sign * CHANGE), draw)
            for sign in (-1.0, 1.0)
        )
        rows.append([(b - a) / (2 * CHANGE * 0.3) for a, b in zip(low.losses, high.losses, strict=True)])
    parts = [fmean(column) for column in zip(*rows, strict=True)]
    expected = math.sqrt(variance(parts) / len(parts) + variance(map(fmean, rows)) / DRAWS)
    assert (found.per_unit, found.stderr) == (pytest.approx(fmean(parts)), pytest.approx(expected))


def other_rows(probed: Probed, draw: int) -> list[Batch]:
    """The batches of the steps, in another order in each draw."""
    batches = [*probed.steps.batches]
    return batches[draw:] + batches[:draw]


def test_where_the_move_is_chance_it_is_repeated_on_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the draws, and a standard error of both parts and draws; each draw is a plain run on its batches."""
    run = saved_run("sgd")
    probed = run.probed(4)
    monkeypatch.setattr(continued, "SMOOTH", 2.0)
    subject = Continuations(probed.steps, probed.validation, probed.values, lambda draw: other_rows(probed, draw))
    found = subject.measure(hyperparameter(probed, "weight-decay"))
    quotients = []
    for draw in range(DRAWS):
        order = [(draw + step) % 4 for step in range(4)]
        ends = []
        for share in (1.0 - CHANGE, 1.0 + CHANGE):
            decays = {name: {"weight_decay": share * decay} for name, decay in probed.values.decays.items()}
            ends.append(replace(run, batches=[run.batches[step % len(run.batches)] for step in order]).end(4, decays))
        quotients.append((ends[1] - ends[0]) / (2.0 * CHANGE * max(probed.values.decays.values())))
    assert found.draws == DRAWS
    assert found.per_unit == pytest.approx(fmean(quotients), rel=1e-9)
    assert found.stderr is not None and found.stderr > stdev(quotients) / math.sqrt(DRAWS)


@pytest.mark.parametrize("smooth", [-2.0, 2.0])
def test_what_another_draw_cannot_change_is_not_repeated(monkeypatch: pytest.MonkeyPatch, smooth: float) -> None:
    probed = saved_run("sgd").probed(4)
    monkeypatch.setattr(continued, "SMOOTH", smooth)
    assert continuations(probed).measure(hyperparameter(probed, "weight-decay")).draws == 1
    if smooth < 0.0:
        varied = Continuations(probed.steps, probed.validation, probed.values, lambda draw: other_rows(probed, draw))
        assert varied.measure(hyperparameter(probed, "weight-decay")).draws == 1


def test_dropout_of_zero_is_left_alone_and_a_rate_near_one_stays_below_it() -> None:
    probed = saved_run("adamw", with_dropout(0.0)).probed(3)
    assert not [one for one in hyperparameters(probed.steps.matched, probed.values) if one.name == "dropout"]
    probed = saved_run("adamw", with_dropout(0.97)).probed(3)
    assert math.isfinite(continuations(probed).measure(hyperparameter(probed, "dropout")).per_unit)


class Snapshot:
    """Everything that a measurement may change and has to put back, bit for bit."""

    def __init__(self, probed: Probed) -> None:
        self.model = probed.steps.problem.model
        self.state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.gradients = [parameter.grad for parameter in self.model.parameters()]
        self.values = [None if each is None else each.clone() for each in self.gradients]
        self.random, self.training = torch.get_rng_state(), [module.training for module in self.model.modules()]
        self.probability = self.model[3].p  # type: ignore[index,union-attr]

    def require(self) -> None:
        for name, value in self.model.state_dict().items():
            assert torch.equal(value, self.state[name]), name
        now = [parameter.grad for parameter in self.model.parameters()]
        for found, before, value in zip(now, self.gradients, self.values, strict=True):
            assert found is before
            assert value is None or (found is not None and torch.equal(found, value))
        assert torch.equal(torch.get_rng_state(), self.random)
        assert [module.training for module in self.model.modules()] == self.training
        assert self.model[3].p == self.probability  # type: ignore[index,union-attr]
        assert not self.model[1].running_mean.requires_grad  # type: ignore[index,union-attr]


def ends(times: int, error: BaseException) -> Callable[[], None]:
    """Raises the error when it is called that often."""
    calls = iter(range(times))

    def advance() -> None:
        if next(calls, None) is None:
            raise error

    return advance


MEASUREMENTS: dict[str, tuple[type[BaseException] | None, Callable[[Probed], object]]] = {
    "unrolled": (None, lambda p: unroll(p.steps, p.validation, p.values, copies=2)),
    "decay": (None, lambda p: continuations(p).measure(hyperparameter(p, "weight-decay"))),
    "dropout": (None, lambda p: continuations(p).measure(hyperparameter(p, "dropout"))),
    "interrupted forwards": (
        KeyboardInterrupt,
        lambda p: unroll(p.steps, p.validation, p.values, advance=ends(4, KeyboardInterrupt())),
    ),
    "interrupted backwards": (
        KeyboardInterrupt,
        lambda p: unroll(p.steps, p.validation, p.values, advance=ends(9, KeyboardInterrupt())),
    ),
    "interrupted while dropout is moved": (
        KeyboardInterrupt,
        lambda p: continuations(p, advance=ends(9, KeyboardInterrupt())).measure(hyperparameter(p, "dropout")),
    ),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_everything_is_put_back(name: str) -> None:
    probed = saved_run("adamw", with_dropout()).probed(6)
    first = next(probed.steps.problem.model.parameters())
    first.grad = torch.ones_like(first)
    before, (error, measurement) = Snapshot(probed), MEASUREMENTS[name]
    if error is None:
        measurement(probed)
    else:
        with pytest.raises(error):
            measurement(probed)
    before.require()


@pytest.mark.parametrize("steps", [1, 6])
def test_divergence_is_an_error_and_everything_is_put_back(steps: int) -> None:
    run = saved_run("sgd", with_dropout())
    for group in run.optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 1e200
    probed = run.probed(steps)
    before = Snapshot(probed)
    words = "training loss is nan after 1 further step" if steps > 1 else "validation loss is nan after 1 further step"
    with pytest.raises(NumericalError, match=rf"The {words}\.") as caught:
        continuations(probed).measure(hyperparameter(probed, "weight-decay"))
    assert "--lr" in str(caught.value.hint)
    with pytest.raises(NumericalError, match=words):
        unroll(probed.steps, probed.validation, probed.values)
    before.require()


def test_a_limit_ends_it_and_everything_is_put_back() -> None:
    probed = saved_run("adamw", with_dropout()).probed(6)
    subject = continuations(probed)
    assert subject.unchanged is subject.unchanged
    probed.steps.problem.budget = Budget(seconds=1e-9)
    before = Snapshot(probed)
    for measure in (
        lambda: unroll(probed.steps, probed.validation, probed.values),
        lambda: subject.measure(hyperparameter(probed, "weight-decay")),
    ):
        with pytest.raises(ResourceError, match="time limit"):
            measure()
    before.require()
