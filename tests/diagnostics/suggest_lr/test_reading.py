"""Which of the estimates is the limit."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, ParameterGroup
from fromage_cli.diagnostics.suggest_lr.reading import read_limit
from fromage_cli.missing import Missing, Why
from fromage_cli.probes.lines.certificate import Certificate
from fromage_cli.probes.lines.crossing import Crossing
from fromage_cli.probes.lines.direction import Direction

MEASURING: Any = SimpleNamespace(
    matched=SimpleNamespace(state=None),
    problem=SimpleNamespace(base=SimpleNamespace(loss=1.0)),
    error=None,
    place=lambda along: (along, 2.0 * along),
    eta=lambda rate: rate / 2.0,
    update=SimpleNamespace(sampled=False, line=SimpleNamespace(limiting="fastest")),
)
NOTHING = Certificate(Direction("sgd", 1.0, (), (), lambda tensor: tensor.parameter), {})
LAYERS = Crossing(0.01, 0.0104, "crossing", "layers", "slow", NOTHING, (), (), (), {}, None, closed=True)
WHOLE = replace(LAYERS, eta=0.02, upper=0.03, criterion="sum", limiting="heavy", closed=False)
NONE = Missing(Why.UNCERTIFIABLE, "no step size is sure to lower the loss, and none was seen to raise it")
NOWHERE = replace(LAYERS, eta=None, relation="below-grid", closed=False)


@pytest.mark.parametrize(
    ("crossings", "rates", "expected"),
    [
        ((LAYERS, WHOLE), (0.5, 0.4), (0.02, 0.04, "measured-sum", "heavy", "sum", False)),
        ((LAYERS, None), (0.5, 0.4), (0.01, 0.02, "measured", "slow", "layers", True)),
        ((NOWHERE, WHOLE), (0.5, 0.4), (0.02, 0.04, "measured-sum", "heavy", "sum", False)),
        ((NOWHERE, NOWHERE), (0.5, 0.4), (0.2, 0.4, "critical-independent", "fastest", None, False)),
        ((NOWHERE, None), (0.5, None), (0.25, 0.5, "critical", "fastest", None, False)),
        ((None, None), (None, None), (NONE, NONE, None, None, None, False)),
    ],
)  # fmt: skip
def test_the_limit_is_the_sum_if_it_is_certain_else_the_layers_else_the_smallest_rise(
    crossings: Any, rates: tuple[float | None, float | None], expected: tuple[Any, ...]
) -> None:
    found = read_limit(MEASURING, crossings, *rates)
    assert (
        found.eta, found.learning_rate, found.estimator, found.limiting_layer, found.criterion, found.reliable
    ) == expected  # fmt: skip


@pytest.mark.parametrize(("names", "reliable"), [(None, False), (("a.weight",), True)])
def test_a_limit_is_not_reliable_where_it_is_not_told_which_tensors_have_which_rate(
    names: tuple[str, ...] | None, reliable: bool
) -> None:
    groups = tuple(ParameterGroup({"lr": rate}, (number,), names) for number, rate in enumerate((0.1, 0.2)))
    measuring = SimpleNamespace(**{**vars(MEASURING), "matched": SimpleNamespace(state=OptimizerState(groups, {}))})
    assert read_limit(measuring, (LAYERS, None), None, None).reliable is reliable  # type: ignore[arg-type]
