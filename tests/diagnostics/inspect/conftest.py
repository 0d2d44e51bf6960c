from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.inspect.result import (
    DtypeTotal,
    GroupResult,
    InspectResult,
    OptimizerResult,
    TensorResult,
    Totals,
)


@pytest.fixture
def make_tensor() -> Callable[..., TensorResult]:
    def make(name: str = "layers.0.weight", **changes: Any) -> TensorResult:
        values: dict[str, Any] = {
            "name": name,
            "dtype": "float32",
            "shape": (64, 64),
            "elements": 4096,
            "norm": 6.4,
            "rms": 0.1,
            "max_abs": 0.44,
            "nonfinite": 0,
            "nan": 0,
            "zeros": 3,
        }
        return TensorResult(**{**values, **changes})

    return make


@pytest.fixture
def make_result(make_tensor: Callable[..., TensorResult]) -> Callable[..., InspectResult]:
    def make(**changes: Any) -> InspectResult:
        group = GroupResult(2, ("layers.0.weight", "layers.1.weight"), 0.003, (0.9, 0.95), None, 0.1, {"lr": 0.003})
        values: dict[str, Any] = {
            "format": "torch",
            "step": 400,
            "key": "model",
            "totals": Totals(2, 8192, 32768, 0, 6, (DtypeTotal("float32", 2, 8192, 32768),)),
            "optimizer": OptimizerResult("adamw", 400, ("step", "exp_avg", "exp_avg_sq"), (group,)),
            "tied": (("layers.1.weight", "output.weight"),),
            "duplicates": (),
            "reading": "A pickle, nothing in it was executed",
            "safety": (),
            "tensors": (make_tensor(), make_tensor("layers.1.weight")),
        }
        return InspectResult(**{**values, **changes})

    return make
