from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.hypergrad.advice import advised
from fromage_cli.diagnostics.hypergrad.result import (
    CONTINUED,
    UNROLL,
    HypergradResult,
    HyperparameterAnswers,
    MethodAnswer,
)
from fromage_cli.missing import Missing, Why

NONE = Missing(Why.NOT_DEFINED, "this method has none")
BY_MASKS = Missing(Why.NOT_DEFINED, "masks have no derivative by their probability")
VAL_LOSS = 2.0


def answer(method: str, gradient: float | Missing, value: float, **changes: Any) -> MethodAnswer:
    log = gradient if isinstance(gradient, Missing) else gradient * value + 0.0
    horizon = 50 if method in (UNROLL, CONTINUED) else None
    values = {"method": method, "horizon": horizon, "gradient": gradient, "log_gradient": log}
    fields = (
        "stderr",
        "draws",
        "metasmoothness",
        "iterations",
        "residual",
        "negative_curvature",
        "less_damped",
        "more_damped",
    )
    return MethodAnswer(**{**dict.fromkeys(fields, NONE), **values, **changes})


@pytest.fixture
def make_answers() -> Callable[..., HyperparameterAnswers]:
    """One hyperparameter of 0.1 whose rise lowers the loss, as each of three methods says; `moved`: of the runs."""

    def make(
        name: str = "weight-decay", scope: str = "all", value: float = 0.1, slope: float = -0.4, **moved: Any
    ) -> HyperparameterAnswers:
        size, runs = value or 0.1, {"stderr": 0.05, "draws": 1, "metasmoothness": 0.99, **moved}
        answers = (
            answer(UNROLL, 1.02 * slope / size * 0.1, value),
            answer(CONTINUED, slope / size * 0.1, value, **runs),
            answer("gauss-newton", 2.0 * slope, value, iterations=12, residual=0.004, negative_curvature=False),
        )
        return HyperparameterAnswers(name, scope, value, None, answers, None, None, NONE)

    return make


@pytest.fixture
def make_result(make_answers: Callable[..., HyperparameterAnswers]) -> Callable[..., HypergradResult]:
    def make(**changes: Any) -> HypergradResult:
        wide = [
            make_answers(),
            make_answers(scope="group:1", value=0.03, slope=0.01),
            make_answers("label-smoothing", value=0.0, slope=-0.9),
            make_answers("dropout", value=0.2, slope=0.2, stderr=0.3),
        ]
        narrow = [
            make_answers(scope="0.weight"),
            make_answers("dropout", scope="3.p", value=0.2),
            make_answers("learning-rate", value=0.003, slope=3.0),
        ]
        values: dict[str, Any] = {
            "train_loss": 1.7,
            "val_loss": VAL_LOSS,
            "val_loss_after": 1.95,
            "gradient_norm": 0.4,
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "steps": 50,
            "batches": "on 8 batches of 64 rows in turn",
            "val_rows": 256,
            "val_parts": 8,
            "copies": "all",
            "damping": 0.02,
            "invariant_layers": (),
            "conditioning": NONE,
            "hyperparameters": (*(advised(one, VAL_LOSS) for one in wide), *narrow),
        }
        return HypergradResult(**{**values, **changes})

    return make
