from dataclasses import replace

import pytest

from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.threshold import no_threshold, rate_for, threshold_of


@pytest.mark.parametrize(
    ("optimizer", "threshold"),
    [
        (Optimizer("sgd", 0.1), 20.0),
        (Optimizer("sgd", 0.1, momentum=0.9), 38.0),
        (Optimizer("sgd", 0.1, momentum=0.9, dampening=0.5), 76.0),
        (Optimizer("sgd", 0.1, momentum=0.5, nesterov=True), 15.0),
        (Optimizer("adam", 0.1, weight_decay=1.0), 380.0),
        (Optimizer("adamw", 0.1, weight_decay=1.0), 361.0),
    ],
)
def test_each_rule_has_its_threshold(optimizer: Optimizer, threshold: float) -> None:
    assert threshold_of(optimizer) == pytest.approx(threshold)


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer("sgd", momentum=0.9, dampening=0.2),
        Optimizer("sgd", momentum=0.9, nesterov=True),
        Optimizer("adam", betas=(0.8, 0.9)),
        Optimizer("adamw", weight_decay=0.3),
    ],
)
def test_the_stable_rate_has_the_curvature_for_its_threshold(optimizer: Optimizer) -> None:
    rate = rate_for(optimizer, 7.0)
    assert threshold_of(replace(optimizer, learning_rate=rate)) == pytest.approx(7.0)
    assert rate_for(optimizer, -1.0) is None


def test_a_rule_without_threshold_says_why() -> None:
    assert rate_for(Optimizer("lion", 0.1), 1.0) is None
    lion = threshold_of(Optimizer("lion", 0.1))
    assert lion == no_threshold(Optimizer("lion", 0.1))
    assert (
        isinstance(lion, Missing) and lion.code == Why.NO_FORMULA and "not proportional to the gradient" in lion.words
    )
    assert threshold_of(Optimizer(None, 0.1)) == OPTIMIZER_UNKNOWN
    assert threshold_of(Optimizer("sgd")) == LEARNING_RATE_UNKNOWN
    assert no_threshold(Optimizer("sgd", 0.1)) is None
    for decay in (2.0, 5.0):
        decayed = Optimizer("adamw", 1.0, weight_decay=decay)
        none = threshold_of(decayed)
        assert isinstance(none, Missing) and "weight decay alone makes it unstable" in none.words
    assert threshold_of(Optimizer("adamw", 1.0, weight_decay=1.9)) == pytest.approx(38.0 * 0.05)
