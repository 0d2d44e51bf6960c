from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.sharpness.result import (
    BatchSharpness,
    HessianEigenvalue,
    QuadraticModel,
    SharpnessResult,
)
from fromage_cli.missing import Missing, Why

QUADRATIC = QuadraticModel(
    radius=0.042,
    radius_relation="crossing",
    losses=(0.5, 0.47, 0.45, 0.42, 0.4),
    spikes=False,
    outcome="falls",
    rates=(0.01, 0.03, 0.1, 0.3),
    line_losses=(0.45, 0.4, 0.6, 2.0),
    line_model_losses=(0.45, 0.41, 0.7, 5.0),
)


@pytest.fixture
def make_result() -> Callable[..., SharpnessResult]:
    def make(**changes: Any) -> SharpnessResult:
        values: dict[str, Any] = {
            "loss": 0.5,
            "eigenvalues": (HessianEigenvalue(46.3, 0.03), HessianEigenvalue(16.3, 0.01)),
            "gauss_newton_eigenvalue": 44.1,
            "preconditioned_eigenvalue": Missing(Why.NOT_DEFINED, "the optimizer is sgd"),
            "preconditioned_residual": Missing(Why.NOT_DEFINED, "the optimizer is sgd"),
            "second_moments": Missing(Why.NOT_DEFINED, "the optimizer is sgd"),
            "critical_sharpness": 3.96,
            "critical_sharpness_stderr": 0.4,
            "first_step_sharpness": Missing(Why.NOT_DEFINED, "only Adam has it, before its first step"),
            "first_step_ratio": Missing(Why.NOT_DEFINED, "only Adam has it, before its first step"),
            "batch_sharpness": BatchSharpness(41.0, 3.9, 8, 64),
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "threshold": 38.0,
            "ratio": 1.218,
            "scaled_ratio": 2.436,
            "stable_learning_rate": 0.0821,
            "trained": True,
            "regime": "edge-of-stability",
            "tensors": 4,
            "parameters": 4810,
            "quadratic": QUADRATIC,
        }
        return SharpnessResult(**{**values, **changes})

    return make
