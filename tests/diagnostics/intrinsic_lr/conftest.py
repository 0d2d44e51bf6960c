from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.intrinsic_lr.layer import NO_DROP, ONE_CHECKPOINT
from fromage_cli.diagnostics.intrinsic_lr.measuring import NO_END
from fromage_cli.diagnostics.intrinsic_lr.prediction import NOT_INVARIANT, SETTLES
from fromage_cli.diagnostics.intrinsic_lr.result import Drop, IntrinsicResult, LayerEquilibrium


@pytest.fixture
def make_layer() -> Callable[..., LayerEquilibrium]:
    def make(name: str = "convolutions.0.weight", **changes: Any) -> LayerEquilibrium:
        values: dict[str, Any] = {
            "name": name,
            "kind": "Conv2d",
            "shape": (6, 6, 3, 3),
            "parameters": 324,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "intrinsic_learning_rate": 5e-4,
            "effective_learning_rate": 0.0156,
            "verdict": "invariant",
            "granularity": "channel",
            "norm": 2.53,
            "batch_gradient_norm": 0.21,
            "equilibrium_norm": 6.6,
            "log_ratio": -0.959,
            "growth_per_step": SETTLES,
            "relaxation_steps": 500.0,
            "relaxation_epochs": 22.7,
            "steps_to_equilibrium": 523.0,
            "expected_rotation": 0.00725,
            "observed_rotation": ONE_CHECKPOINT,
            "drop": NO_DROP,
            "angle_per_step": 0.0194,
            "forecast": NO_END,
        }
        return LayerEquilibrium(**{**values, **changes})

    return make


@pytest.fixture
def drop() -> Drop:
    ratios = tuple(0.1 + 0.2162 * index / 24 for index in range(25))
    return Drop(0.1, 0.316, 8465.0, False, tuple(1000.0 * index for index in range(25)), ratios)


@pytest.fixture
def make_result(make_layer: Callable[..., LayerEquilibrium]) -> Callable[..., IntrinsicResult]:
    def make(**changes: Any) -> IntrinsicResult:
        near = make_layer("convolutions.1.weight", log_ratio=0.05, norm=6.94, steps_to_equilibrium=0.0)
        nulls = ("equilibrium_norm", "log_ratio", "relaxation_steps", "relaxation_epochs", "steps_to_equilibrium")
        output = make_layer(
            "output.weight",
            verdict="none",
            granularity=None,
            expected_rotation=NOT_INVARIANT,
            **dict.fromkeys(nulls, NOT_INVARIANT),
        )
        values: dict[str, Any] = {
            "steps": (2970,),
            "optimizer": "sgd",
            "momentum": 0.9,
            "betas": None,
            "decay": "coupled",
            "steps_per_epoch": 22,
            "train_batch_size": 64,
            "tested": True,
            "drop_factor": None,
            "layers": (near, make_layer(), output),
        }
        return IntrinsicResult(**{**values, **changes})

    return make
