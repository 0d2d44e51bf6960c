"""What guessing gives: entropies and variances by hand, and the best constant output that gradient descent finds."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.missing import Missing, Why
from fromage_cli.probes.forward_pass.guessing import Guessing, TargetWatcher

LABELS = torch.tensor([0] * 32 + [1] * 16 + [2] * 16)
"""Frequencies ½, ¼, ¼: an entropy of 1.5 ln 2."""
CORRECTION = 2 / (2 * 64)
"""(Classes - 1) / (2 targets)."""


def watched(*calls: Callable[[], Any]) -> Guessing | Missing:
    watcher = TargetWatcher()
    for call in calls:
        with watcher:
            call()
    return watcher.guessing(len(calls))


def guess(*calls: Callable[[], Any]) -> Guessing:
    found = watched(*calls)
    assert isinstance(found, Guessing)
    return found


def best_constant(loss: Callable[[Tensor], Tensor], outputs: int) -> float:
    """The least loss of one output for all rows, by Newton-like descent."""
    constant = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(constant)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(loss(constant).detach())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_entropy_of_the_classes(reduction: str) -> None:
    logits = torch.randn(64, 5)
    found = guess(lambda: functional.cross_entropy(logits, LABELS, reduction=reduction))
    assert (found.kind, found.targets) == ("cross-entropy", 64)
    assert found.guess == pytest.approx(1.5 * math.log(2) + CORRECTION, rel=1e-12)
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, LABELS)), rel=1e-6)
    assert found.ratio == found.loss / found.guess


def test_the_correction_of_small_samples_is_right_on_the_mean() -> None:
    chances = torch.tensor([0.4, 0.3, 0.2, 0.1])
    truth = float(torch.special.entr(chances).sum())
    draws = [torch.multinomial(chances, 60, replacement=True) for _ in range(2000)]
    logits = torch.zeros(60, 4)
    found = [guess(lambda y=labels: functional.cross_entropy(logits, y)).guess for labels in draws]  # type: ignore[misc]
    assert sum(found) / len(found) == pytest.approx(truth, abs=3e-3)
    assert sum(found) / len(found) - 3 / 120 < truth - 0.02


def test_all_ways_to_call_it_are_seen() -> None:
    logits = torch.randn(64, 3)
    expected = guess(lambda: functional.cross_entropy(logits, LABELS))
    for call in (
        lambda: nn.CrossEntropyLoss()(logits, LABELS),
        lambda: functional.nll_loss(logits.log_softmax(1), LABELS),
        lambda: functional.cross_entropy(logits.reshape(4, 16, 3).transpose(1, 2), LABELS.reshape(4, 16)),
    ):
        found = guess(call)
        assert (found.guess, found.targets) == (expected.guess, 64)
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_targets_that_are_ignored_do_not_count() -> None:
    logits, padded = torch.randn(96, 3), torch.cat([LABELS, torch.full((32,), -100)])
    found = guess(lambda: functional.cross_entropy(logits, padded))
    assert (found.targets, found.guess) == (64, guess(lambda: functional.cross_entropy(logits[:64], LABELS)).guess)
    other = torch.where(padded == -100, 1, padded)
    assert guess(lambda: functional.cross_entropy(logits, other, ignore_index=1)).targets == 48


@pytest.mark.parametrize(
    ("settings", "soft"),
    [
        ({"label_smoothing": 0.2}, False),
        ({"weight": torch.tensor([1.0, 2.0, 5.0, 1.0], dtype=torch.float64)}, False),
        ({}, True),
        ({"label_smoothing": 0.1}, True),
    ],
)
def test_it_is_the_loss_of_the_best_constant(settings: dict[str, Any], soft: bool) -> None:
    target = torch.rand(64, 4, dtype=torch.float64).softmax(1) if soft else LABELS

    def loss(constant: Tensor) -> Tensor:
        return functional.cross_entropy(constant.expand(64, 4), target, **settings)

    found = guess(lambda: loss(torch.zeros(4, dtype=torch.float64)))
    assert found.guess == pytest.approx(best_constant(loss, 4), rel=1e-6)
    assert found.loss == pytest.approx(float(loss(torch.zeros(4, dtype=torch.float64))), rel=1e-12)
    assert found.targets == 64


def test_passes_add_up() -> None:
    logits = torch.randn(64, 3)
    whole = guess(lambda: functional.cross_entropy(logits, LABELS))
    cuts = ((0, 10), (10, 40), (40, 64))
    parts = [lambda a=a, b=b: functional.cross_entropy(logits[a:b], LABELS[a:b]) for a, b in cuts]  # type: ignore[misc]
    empty = [lambda: functional.cross_entropy(logits, torch.full((64,), -100))]
    found = guess(*parts, *empty)
    assert (found.guess, found.targets) == (whole.guess, 64)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3), (40, 2, 3)])
def test_the_variance_of_the_targets(shape: tuple[int, ...]) -> None:
    target = torch.randn(shape, dtype=torch.float64) * 3.0 + 7.0
    output = torch.zeros(shape, dtype=torch.float64)
    found = guess(lambda: functional.mse_loss(output, target))
    assert found.guess == pytest.approx(float(target.var(0).mean()), rel=1e-12)
    assert (found.kind, found.loss) == ("mse", pytest.approx(float(target.square().mean())))
    parts = [lambda rows=rows: functional.mse_loss(output[rows], target[rows]) for rows in (slice(9), slice(9, 40))]  # type: ignore[misc]
    assert guess(*parts).guess == pytest.approx(found.guess, rel=1e-12)
    assert guess(*parts).loss == pytest.approx(found.loss, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: functional.l1_loss(torch.zeros(4), torch.ones(4)), Why.NO_FORMULA),
        (lambda: functional.cross_entropy(torch.zeros(64, 3), LABELS, reduction="none"), Why.NO_FORMULA),
        (lambda: [functional.cross_entropy(torch.zeros(64, 3), LABELS) for _ in range(2)], Why.NO_FORMULA),
        (
            lambda: functional.cross_entropy(torch.zeros(64, 3), LABELS, torch.ones(3), label_smoothing=0.1),
            Why.NO_FORMULA,
        ),
        (lambda: functional.mse_loss(torch.zeros(4, 1), torch.zeros(1, 4).expand(4, 4)), Why.NO_FORMULA),
        (lambda: functional.mse_loss(torch.zeros(1, 4), torch.zeros(1, 4)), Why.TOO_FEW_ROWS),
        (lambda: functional.mse_loss(torch.zeros(()), torch.zeros(())), Why.TOO_FEW_ROWS),
        (lambda: functional.mse_loss(torch.zeros(9), torch.ones(9)), Why.ZERO_OR_NOT_FINITE),
        (
            lambda: functional.cross_entropy(torch.zeros(64, 3), torch.ones(64, dtype=torch.int64)),
            Why.ZERO_OR_NOT_FINITE,
        ),
        (lambda: functional.cross_entropy(torch.zeros(64, 100), torch.arange(64)), Why.TOO_FEW_ROWS),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_where_guessing_is_not_known_the_reason_is(call: Callable[[], Any], why: Why) -> None:
    found = watched(call)
    assert isinstance(found, Missing) and found.code is why
