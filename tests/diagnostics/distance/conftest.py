from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.distance.result import (
    Bound,
    ConditionNumber,
    DistanceResult,
    ImpliedStep,
    LayerDistance,
    Unpaired,
)
from fromage_cli.missing import Missing, Why


@pytest.fixture
def make_layer() -> Callable[..., LayerDistance]:
    def make(name: str = "layers.0.weight", **changes: Any) -> LayerDistance:
        values: dict[str, Any] = {
            "name": name,
            "kind": None,
            "shape": (64, 32),
            "parameters": 2048,
            "first_dtype": "float32",
            "second_dtype": "float32",
            "first_norm": 2.0,
            "second_norm": 2.1,
            "relative_distance": 0.25,
            "spectral_distance": 0.4,
            "cosine": 0.97,
            "angle": 0.2455,
            "implied_step": ImpliedStep(2.23e-4, 7.9e-3),
            "condition_number": ConditionNumber(12.0, 14.0, 300.0),
        }
        return LayerDistance(**{**values, **changes})

    return make


@pytest.fixture
def make_result(make_layer: Callable[..., LayerDistance]) -> Callable[..., DistanceResult]:
    def make(**changes: Any) -> DistanceResult:
        large = Missing(Why.TOO_LARGE, "the matrix has more than 1024 rows and columns")
        still = make_layer("layers.1.weight", shape=(64, 64), parameters=4096, relative_distance=0.01, angle=1e-8)
        huge = make_layer(
            "layers.2.weight",
            shape=(2048, 4096),
            parameters=8388608,
            relative_distance=0.02,
            condition_number=ConditionNumber(large, large, large),
        )
        values: dict[str, Any] = {
            "first_step": 0,
            "second_step": 1000,
            "product": 0.2625,
            "product_spectral": 0.96,
            "function_distance": 0.31,
            "largest_function_distance": 0.8,
            "log10_bound": 12.345,
            "bound": Bound(300.0, 0.1, 1.0, 2),
            "layers": (still, make_layer(), huge),
            "unpaired": Unpaired(),
        }
        return DistanceResult(**{**values, **changes})

    return make
