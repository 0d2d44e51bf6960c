"""What a forward pass concludes, rule by rule, and on networks with known faults."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fromage_cli.diagnostics.check.forward_findings import GUESSING, MOST_UNITS, STALE, judge_forward
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.probes.forward_pass.batch_statistics import LayerStatistics
from fromage_cli.probes.forward_pass.course import EarlierLoss
from fromage_cli.probes.forward_pass.guessing import Guessing
from fromage_cli.probes.forward_pass.measure import ForwardPass, HeldOut, look_at_forward_pass
from fromage_cli.probes.forward_pass.units import ActivationUnits
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem

UNKNOWN = Missing(Why.NO_FORMULA, "the loss is its own")
STATISTICS = LayerStatistics("norm", 8, True, 0.5, 0.01)
HEALTHY = ForwardPass(128, 1.0, 1.0, Guessing("cross-entropy", 128, 1.0, 2.0, 0.5), (), ())


def units(off: int, values: int = 128, usual: float | None = 50.0) -> ForwardPass:
    return replace(HEALTHY, units=(ActivationUnits("relu", "layer", 16, off, off / 16, values, usual),))


def codes(found: ForwardPass, trained: bool | None = True) -> list[tuple[str, str]]:
    return [(one.code, one.severity) for one in judge_forward(found, trained)]


def test_a_healthy_pass_has_nothing_to_say() -> None:
    assert judge_forward(HEALTHY, trained=True) == ()


def test_more_than_half_of_the_units() -> None:
    (found,) = judge_forward(units(15), trained=False)
    assert (found.code, found.severity, found.layer, found.value, found.limit) == (
        "units-dead",
        "warn",
        "layer",
        15 / 16,
        MOST_UNITS,
    )
    assert found.message == "15 of its 16 units are 0 on every row of the batch"
    assert codes(units(8)) == codes(units(15, values=31)) == []
    assert codes(units(15, usual=3.0)) == [("units-dead", "info")]  # the others are on now and then
    assert codes(units(16, usual=None)) == [("units-dead", "warn")]


def test_stale_statistics_that_harm() -> None:
    stale = replace(HEALTHY, loss_in_evaluation=1.5, batch_statistics=(replace(STATISTICS, distance=0.2), STATISTICS))
    (found,) = judge_forward(stale, trained=True)
    assert (found.code, found.severity, found.layer, found.value, found.limit) == (
        "batch-statistics-stale",
        "warn",
        "norm",
        0.5,
        STALE,
    )
    assert "in evaluation the loss is 1.5, not 1" in found.message
    assert codes(stale, trained=False) == codes(replace(stale, loss_in_evaluation=1.09)) == []
    assert codes(replace(stale, loss=-1.0, loss_in_evaluation=-1.0)) == []
    noisy = replace(STATISTICS, expected_distance=0.2)
    assert codes(replace(stale, batch_statistics=(noisy,))) == []


def test_statistics_that_remember_nothing_are_stale_after_training_only() -> None:
    layers = (replace(STATISTICS, tracked=False),)
    found = replace(HEALTHY, loss_in_evaluation=1.5, batch_statistics=layers)
    assert codes(found) == [("batch-statistics-stale", "warn")]
    assert codes(found, trained=None) == []


def test_a_loss_like_that_of_guessing() -> None:
    guessing = replace(HEALTHY, guessing=Guessing("cross-entropy", 128, 2.2, 2.3, 2.2 / 2.3))
    (found,) = judge_forward(guessing, trained=True)
    assert (found.code, found.severity, found.value, found.limit) == (
        "no-better-than-guessing",
        "warn",
        2.2 / 2.3,
        GUESSING,
    )
    assert (
        found.message == "hardly better than guessing: the loss is 2.2, and an output that ignores the input gives 2.3"
    )
    assert codes(guessing, trained=None) == [("no-better-than-guessing", "info")]
    assert codes(guessing, trained=False) == codes(replace(guessing, guessing=UNKNOWN)) == []


def test_a_loss_far_worse_than_guessing_is_a_warning_though_it_falls() -> None:
    for loss, severity in ((4.0, "info"), (4.7, "warn"), (43800.0, "warn")):
        guessing = Guessing("cross-entropy", 128, loss, 2.3, loss / 2.3)
        falls = replace(HEALTHY, loss=loss, guessing=guessing, earlier=(EarlierLoss(0, 3.0 * loss),))
        (found,) = judge_forward(falls, trained=True)
        assert (found.code, found.severity) == ("no-better-than-guessing", severity)
        assert ("far worse" in found.message) == ("first weights" in found.hint) == (severity == "warn")


def test_a_loss_that_does_not_carry_over() -> None:
    def rows(loss: float) -> ForwardPass:
        guessing = Guessing("cross-entropy", 50, loss, 2.0, loss / 2.0)
        return replace(HEALTHY, held_out=HeldOut(50, loss, loss, guessing))

    assert codes(rows(1.9)) == codes(rows(2.5), trained=False) == []
    (found,) = judge_forward(rows(2.5), trained=True)
    assert (found.code, found.severity, found.limit) == ("loss-differs-from-held-out", "warn", 2.0)
    assert found.message == "the loss is 1 on the batch, and 2.5 on held-out rows, where guessing gives 2"
    apart = replace(rows(1.5), loss=0.5)
    (found,) = judge_forward(apart, trained=True)
    assert (found.severity, found.limit) == ("info", 1.0)
    held_out = HeldOut(50, 2.5, 2.5, UNKNOWN)
    assert codes(replace(HEALTHY, held_out=held_out)) == [("loss-differs-from-held-out", "info")]


def trained_on(x: torch.Tensor, y: torch.Tensor, change: Callable[[Any], None] = lambda _: None) -> nn.Module:
    """A perceptron with BatchNorm after 200 steps of Adam on all rows."""
    model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    change(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("change", "random", "code"),
    [
        (lambda model: None, False, None),
        (lambda model: None, True, "loss-differs-from-held-out"),
        (lambda model: setattr(model[1], "momentum", 1e-4), False, "batch-statistics-stale"),
        (lambda model: model[1].bias.data[:60].fill_(-20.0), False, "units-dead"),
    ],
)
def test_a_network_with_one_fault_has_its_finding(
    make_problem: Callable[..., Problem], change: Callable[[Any], None], random: bool, code: str | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(400, 16, generator=generator) + 2.0
    true = (x[:, :4] + 0.1 * x[:, 4:8]).argmax(1)
    y = torch.randint(4, (400,), generator=generator) if random else true
    model = trained_on(x[:200], y[:200], change)
    problem = make_problem(model, {"x": x[:200], "y": y[:200]})
    found = look_at_forward_pass(problem, as_batch({"x": x[200:], "y": true[200:]}, "held out"))
    grave: list[Finding] = [one for one in judge_forward(found, trained=True) if one.severity != "info"]
    assert [one.code for one in grave] == ([code] if code else [])


@pytest.mark.parametrize(
    ("before", "loss", "severity"),
    [
        ((0.5, 0.6), 0.7, None),  # .2 of 1.5 are gone
        ((0.5, 0.6), 1.0, "warn"),  # a third
        ((0.6, 0.5), 1.5, "fail"),  # two thirds
        ((1.95, 1.96), 2.5, None),  # nothing had been learned
        ((), 1.9, None),
    ],
)
def test_a_loss_that_was_lower_before(before: tuple[float, ...], loss: float, severity: str | None) -> None:
    earlier = tuple(EarlierLoss(step, value) for step, value in enumerate(before))
    guessing = Guessing("cross-entropy", 128, loss, 2.0, loss / 2.0)
    found = judge_forward(replace(HEALTHY, loss=loss, earlier=earlier, guessing=guessing), trained=True)
    assert [one.severity for one in found if one.code == "loss-rises"] == ([severity] if severity else [])
    unknown = replace(HEALTHY, loss=loss, earlier=earlier, guessing=UNKNOWN)
    assert judge_forward(unknown, trained=True) == ()


@pytest.mark.parametrize(
    ("before", "severity"), [(1.93, "warn"), (1.91, "warn"), (2.5, "info"), (float("inf"), "warn")]
)
def test_a_loss_near_guessing_that_still_falls_is_for_information(before: float, severity: str) -> None:
    guessing = Guessing("cross-entropy", 128, 1.92, 2.0, 0.96)
    found = judge_forward(
        replace(HEALTHY, loss=1.92, loss_in_evaluation=1.92, guessing=guessing, earlier=(EarlierLoss(3, before),)),
        trained=True,
    )
    assert [(one.code, one.severity) for one in found] == [("no-better-than-guessing", severity)]
