from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fromage_cli.diagnostics.state.result import (
    Epsilon,
    FileState,
    GroupState,
    LayerState,
    StateResult,
    Totals,
    Violations,
)
from fromage_cli.missing import Missing, Why

NONE = Missing(Why.NOT_DEFINED, "its weights are kept in float32")


@pytest.fixture
def make_state() -> Callable[..., StateResult]:
    """Three matrices and a bias under AdamW; the changes are those of `block.1.weight`."""

    def make(**changes: Any) -> StateResult:
        plain = LayerState(
            name="block.0.weight",
            shape=(8, 4),
            dtype="float32",
            moments_dtype="float32",
            learning_rate=1e-3,
            weight_decay=0.1,
            step=40.0,
            update_rms=0.2,
            relative_update=0.01,
            decay_share=0.05,
            lost=NONE,
            master=False,
            master_differs=NONE,
            rounded_to=None,
            violations=Violations(0, 0, 0, False),
            epsilon=Epsilon(0.0, 0.01, 0.0, 0.999),
            weights_finite=True,
            dead_rows=0,
        )
        layers = (
            plain,
            replace(plain, name="block.1.weight", **changes),
            replace(plain, name="block.2.weight"),
            replace(plain, name="block.2.bias", shape=(8,), relative_update=0.4),
        )
        return StateResult(
            step=40,
            optimizer="adamw",
            optimizers=1,
            state_step=40,
            totals=Totals(4, 104, 0.2, 0.011, 0.2294, NONE, 0),
            groups=(GroupState(4, 1e-3, 0.1, 1e4, 0.9, True),),
            layers=layers,
            slots=(),
            steps_differ=(),
            never_updated=(),
            counts_updates=True,
            files=(FileState("a/step-40.pt", 40, 40.0, 1e-3, 0.011, 0.2, NONE, 0),),
            continuity=(),
            rate_breaks=(),
        )

    return make
