import math

import pytest

from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.effective_rate import NO_NORM, effective_rate, rate_power


@pytest.mark.parametrize(
    ("name", "value"),
    [("sgd", 0.025), ("adam", 0.05), ("adamw", 0.05), ("lion", 0.05), ("muon", 0.05), ("lars", 0.1), ("fromage", 0.1)],
)
def test_the_rate_is_divided_by_a_power_of_the_norm(name: str, value: float) -> None:
    assert effective_rate(name, 0.1, 2.0) == pytest.approx(value)
    assert 0.1 / 2.0 ** (rate_power(name) or 0) == pytest.approx(value)


def test_the_rate_of_lars_is_its_relative_step() -> None:
    assert effective_rate("lars", 0.1, 0.0, 0.5) == pytest.approx(0.05)


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_a_norm_that_it_cannot_be_divided_by(norm: float) -> None:
    assert effective_rate("sgd", 0.1, norm) == NO_NORM


def test_what_is_not_known_or_not_defined() -> None:
    assert effective_rate(None, 0.1, 2.0) == OPTIMIZER_UNKNOWN
    assert effective_rate("sgd", None, 2.0) == LEARNING_RATE_UNKNOWN
    assert effective_rate("radam", 0.1, 2.0) == Missing(Why.NO_FORMULA, "it is not defined for radam")
    words = "it is not defined for lamb with a clipped trust ratio"
    assert effective_rate("lamb", 0.1, 2.0, clipped=True) == Missing(Why.NO_FORMULA, words)
    assert rate_power("radam") is rate_power(None) is None
