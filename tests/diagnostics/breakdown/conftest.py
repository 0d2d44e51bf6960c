import math
from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.breakdown.result import BreakdownResult, DepthResult, LayerBreakdown, SkippedTensor

ETAS = (0.01, 0.025, 0.06, 0.15)


@pytest.fixture
def make_layer() -> Callable[..., LayerBreakdown]:
    def make(name: str = "layers.0.weight", **changes: Any) -> LayerBreakdown:
        values: dict[str, Any] = {
            "name": name,
            "kind": "Linear",
            "shape": (64, 64),
            "parameters": 4096,
            "weight_norm": 4.6,
            "gradient_norm": 0.12,
            "cosine": 1.0,
            "relative_step": 1.0,
            "noise_floor": 1e-7,
            "breakdown": (0.02, 0.2, 2.0, math.inf),
            "path_breakdown": (0.02, 0.2, 2.0, math.inf),
            "trust_eta": 0.05,
            "trust_relation": "crossing",
            "implied_depth": 14.2,
            "violation": 9.5,
        }
        return LayerBreakdown(**{**values, **changes})

    return make


@pytest.fixture
def make_result(make_layer: Callable[..., LayerBreakdown]) -> Callable[..., BreakdownResult]:
    def make(**changes: Any) -> BreakdownResult:
        values: dict[str, Any] = {
            "direction": "fromage",
            "step_scale": 1.0,
            "loss": 0.5,
            "complete": True,
            "etas": ETAS,
            "losses": (0.49, 0.42, 0.61, math.inf),
            "predicted": (0.002, 0.0201, 0.21, 3.0),
            "predicted_spectral": (0.004, 0.0404, 0.44, 8.0),
            "loss_bounds": (-0.009, -0.05, 0.4, math.inf),
            "depth": DepthResult(2, 2, 1.7),
            "tail_slope": 8.8,
            "trust_eta": 0.05,
            "trust_relation": "crossing",
            "limiting_layer": "layers.0.weight",
            "aggregate_trust_eta": 0.061,
            "aggregate_trust_relation": "crossing",
            "linear_trust_eta": 0.048,
            "linear_trust_relation": "crossing",
            "argmin_loss_eta": 0.02,
            "argmin_loss_relation": "crossing",
            "first_increase_eta": 0.041,
            "first_increase_relation": "crossing",
            "noise": (),
            "skipped": (),
            "layers": (make_layer(), make_layer("layers.1.weight", shape=(10, 64), trust_eta=0.08)),
        }
        return BreakdownResult(**{**values, **changes})

    return make


@pytest.fixture
def still_tensor() -> SkippedTensor:
    return SkippedTensor("layers.2.weight", "zero gradient")
