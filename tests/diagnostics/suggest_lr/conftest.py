import math
from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.suggest_lr.result import (
    NO_LAYER_MOVES,
    Estimate,
    GroupRate,
    LayerRate,
    Limit,
    MeasuredPoint,
    OptimizerSettings,
    ProbeRun,
    Recommended,
    SuggestedRates,
)
from fromage_cli.missing import Basis, Missing, Why

BEYOND = Missing(Why.ABOVE_GRID, "the search ended before it")
HIDDEN = Missing(Why.GRAPH_UNREADABLE, "the graph hides the depth")
ESTIMATES = (
    Estimate("lemma2-count", 0.0215, 0.00738, Basis("Lemma 2, depth 10", "every weight tensor counted"), 2.33),
    Estimate("lemma2-effective", HIDDEN, HIDDEN, Basis("not told", "the graph hides the depth"), 2.33),
    Estimate("measured", 0.0028, 0.000963, Basis("descends in every layer", "Lemma 1 at 3 steps"), 8.33),
    Estimate("measured-sum", 0.00624, 0.00214, Basis("descends as a whole", "Lemma 1 at the 5 steps looked at"), 11.3),
    Estimate("critical", 0.0332, 0.0114, Basis("the loss rises", "on the batch that gave the step"), 3.33),
    Estimate(
        "critical-independent", 0.00256, 0.00088, Basis("the loss rises", "on 32 rows, the step from 32 others"), 3.67
    ),
    Estimate("probe-init", 0.0052, 0.00179, Basis("22 short runs", "360 steps in all from new weights"), 120.0),
    Estimate("typical", 0.0128, 0.0044, Basis("small networks", "geometric mean of their best rates"), 0.0),
)


def ended(rate: float, steps: int, seed: int) -> ProbeRun:
    """A run whose loss is least at .002, and that leaves the numbers from .1 on."""
    loss = math.inf if rate > 0.1 else 1.3 - 0.003 * steps + 0.02 * math.log2(rate / 0.002) ** 2 + 0.004 * seed
    return ProbeRun(rate, loss, steps, seed)


WIDE, CLOSE = [0.0044 * 4.0**k for k in range(-3, 4)], [0.0024 * 2.0 ** (k - 1.5) for k in range(4)]
SWEEPS = ((WIDE, 12, 0), (CLOSE, 24, 0), (CLOSE, 24, 1), (WIDE, 12, 1))
RUNS = tuple(ended(rate, steps, seed) for rates, steps, seed in SWEEPS for rate in rates)


def layer(index: int, **changes: Any) -> LayerRate:
    values: dict[str, Any] = {
        "name": f"blocks.{index}.attention.output.weight",
        "kind": "Linear",
        "shape": (64, 64),
        "parameters": 4096,
        "cosine": 0.37,
        "cosine_stderr": 0.031,
        "relative_step": 2.0 + index,
        "trust_eta": BEYOND,
        "trust_relation": "above-grid",
        "linear_trust_eta": 0.004 * (index + 1),
        "learning_rate": 0.0028 / (2.0 + index),
    }
    return LayerRate(**{**values, **changes})


@pytest.fixture
def make_result() -> Callable[..., SuggestedRates]:
    def make(**changes: Any) -> SuggestedRates:
        layers = [layer(index) for index in range(11)]
        layers[4] = layer(4, trust_eta=0.0028, trust_relation="crossing", cosine=0.238)
        settings = OptimizerSettings(
            "adamw", 0.003, None, 3.115, None, (0.9, 0.95), 0.1, False, 64,
            (
                GroupRate(0, 11, 0.003, 0.1, 0.000963, "blocks.10.attention.output.weight"),
                GroupRate(1, 18, 0.003, 0.0, NO_LAYER_MOVES, None),
            ),
        )  # fmt: skip
        values: dict[str, Any] = {
            "loss": 1.7,
            "limit": Limit(0.0028, 0.000963, "measured", "crossing", layers[4].name, "layers", 0.0029, True),
            "recommended": Recommended(
                0.00179, 0.0052, 0.00089, 0.0036, 0.021, "probe-init", "the short runs tell one rate from another",
                True, 0.26,
            ),
            "estimates": ESTIMATES,
            "optimizer": settings,
            "noise_scale": 150.0,
            "noise_scale_low": 108.0,
            "noise_scale_high": 231.0,
            "noise_rows": 4,
            "layers": tuple(layers),
            "probe": RUNS,
            "probe_steps": 24,
            "points": (MeasuredPoint(0.0028, 1.69, 0.98), MeasuredPoint(0.0029, 1.69, 1.01)),
        }  # fmt: skip
        return SuggestedRates(**{**values, **changes})

    return make
