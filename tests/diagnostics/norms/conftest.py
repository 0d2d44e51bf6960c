import math
from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.norms.result import STEADY, Channels, LayerNorms, NormsResult, Overflow, OverflowSteps
from fromage_cli.missing import Missing, Why


@pytest.fixture
def make_layer() -> Callable[..., LayerNorms]:
    def make(name: str = "convolutions.0.weight", **changes: Any) -> LayerNorms:
        values: dict[str, Any] = {
            "name": name,
            "kind": None,
            "shape": (6, 6, 3, 3),
            "parameters": 324,
            "dtype": "float16",
            "norms": (1.0, 1.5, 2.25),
            "growth_per_step": 2e-4,
            "growth_stderr": 1e-6,
            "predicted_growth": 1.99960e-4,
            "overflow_step": OverflowSteps(Overflow(52000.0, 24000.0), Overflow(4e5, 2e5), Overflow(4e5, 2e5)),
            "halved_step": STEADY,
            "channels": Channels(6, 0.5, 0.9, 1.5, 0),
            "effective_learning_rate": (0.02, 0.02, 0.02),
        }
        values |= changes
        norms = values["norms"]
        if len(norms) > 1 and all(0.0 < norm < math.inf for norm in norms):
            values = {"first_to_last": norms[-1] / norms[0]} | values
        return LayerNorms(**{"first_norm": norms[0], "last_norm": norms[-1]} | values)

    return make


@pytest.fixture
def make_result(make_layer: Callable[..., LayerNorms]) -> Callable[..., NormsResult]:
    def make(**changes: Any) -> NormsResult:
        still = make_layer(
            "output.weight", shape=(10, 6), norms=(2.0, 2.0, 2.0), growth_per_step=1e-9, overflow_step=STEADY
        )
        values: dict[str, Any] = {
            "steps": (0, 1000, 2000),
            "optimizer": "lars",
            "learning_rates": (0.02, 0.02, 0.02),
            "weight_decay": Missing(Why.WEIGHT_DECAY_UNKNOWN, "the weight decay is not known"),
            "steps_per_epoch": None,
            "layers": (still, make_layer()),
        }
        return NormsResult(**{**values, **changes})

    return make
