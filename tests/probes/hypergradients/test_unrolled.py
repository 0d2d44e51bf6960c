"""Derivatives through training steps, against differences of a real training loop that goes on from the same state."""

from collections.abc import Callable

import pytest

from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, hyperparameters
from fromage_cli.probes.hypergradients.unrolled import unroll
from tests.probes.hypergradients.plain_training import Probed, Run, differences, saved_run

EXACT = 1e-6
"""Relative, of a derivative in float64; differences are no more exact where it is below TINY."""
TINY = 1e-9
Wanted = Callable[[Hyperparameter], bool]


def require_derivatives(
    run: Run, probed: Probed, wanted: Wanted = lambda _: True, *, change: float = 1e-3, points: int = 4
) -> None:
    """Every derivative is that of the loop, and so is the loss in the end."""
    count = len(probed.steps.batches)
    found = unroll(probed.steps, probed.validation, probed.values)
    assert found.end_loss == pytest.approx(run.end(count), rel=1e-13)
    compared = 0
    for one in hyperparameters(probed.steps.matched, probed.values):
        if one.place == "dropout" or not wanted(one):
            continue
        slope = one.per_unit(found.at(one.place), probed.values)
        expected = differences(run, count, one, probed.values, change=change, points=points)
        assert slope == pytest.approx(expected, rel=EXACT, abs=TINY), (one.name, one.scope)
        compared += 1
    assert compared


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw", "amsgrad", "fromage", "bounded", "lars"])
def test_ten_steps_of_every_optimizer(name: str) -> None:
    run = saved_run(name)
    probed = run.probed(10)
    scopes = {one.scope for one in hyperparameters(probed.steps.matched, probed.values)}
    assert scopes == {"all", "group:0", "group:1", "0.weight", "0.bias", "2.weight", "2.bias"}
    require_derivatives(run, probed)


def single_or_all(one: Hyperparameter) -> bool:
    return not one.scope.startswith("group")


def by_rate_or_decay(one: Hyperparameter) -> bool:
    return one.place in ("rate", "decay") and not one.scope.startswith("group")


@pytest.mark.parametrize(
    ("name", "wanted", "change"),
    [("nesterov", single_or_all, 1e-4), ("adamw", single_or_all, 2e-5), ("lion", by_rate_or_decay, 1e-5)],
)
@pytest.mark.parametrize("steps", [50, 200])
def test_many_steps_tensor_by_tensor(name: str, wanted: Wanted, steps: int, change: float) -> None:
    """Lion's sign hides what acts through the gradient, so there only the rate and the decay have derivatives."""
    run = saved_run(name)
    require_derivatives(run, run.probed(steps), wanted, change=change, points=2)
