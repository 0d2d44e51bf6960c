"""Answers as JSON, made by hand: what a page is drawn from."""

from collections.abc import Callable
from typing import Any

import pytest

Envelope = dict[str, Any]


def envelope(command: str, result: dict[str, Any], step: int | None = 100, **others: Any) -> Envelope:
    checkpoints = [{"path": f"run/step-{step}", "format": "torch", "step": step, "parameters": 4, "stripped": []}]
    tool = {"version": "0.1.0", "seconds": 1.5}
    head = {"schema": "fromage-diag/1", "command": command, "status": "ok", "tool": tool, "settings": {}}
    return {**head, "checkpoints": checkpoints, "result": result, "findings": [], "nonfinite": [], **others}


def breakdown(step: int, safe: float = 0.01, name: str = "one.weight") -> Envelope:
    etas = [0.001, 0.01, 0.1]
    layers = [
        {"name": each, "trust_eta": safe * factor, "violation": 2.0, "breakdown": [0.1, 1.0, 10.0],
         "path_breakdown": [0.1, 1.0, 10.0], "weight_norm": 3.0, "gradient_norm": 0.5, "implied_depth": 4.0}
        for each, factor in ((name, 1.0), ("two.weight", 2.0))
    ]  # fmt: skip
    return envelope("breakdown", {"etas": etas, "trust_eta": safe, "limiting_layer": name, "layers": layers}, step)


@pytest.fixture
def make() -> Callable[..., Envelope]:
    return envelope


@pytest.fixture
def make_breakdown() -> Callable[..., Envelope]:
    return breakdown


@pytest.fixture
def many() -> list[Envelope]:
    """Answers about 100 layers at 20 checkpoints with 17 relative steps, whose digits are random."""
    import random

    drawn = random.Random(0)
    names = [f"blocks.{place // 4}.part-{place % 4}.weight" for place in range(100)]
    etas = [10.0 ** (-4 + place / 4) for place in range(17)]
    steps = [1000 * place for place in range(20)]

    def some(scale: float = 1.0) -> float:
        return scale * drawn.lognormvariate(0.0, 1.0)

    found = []
    for step in steps:
        layers = []
        for name in names:
            curve = sorted(some(eta) for eta in etas)
            layers.append({"name": name, "kind": "Linear", "shape": [64, 64], "parameters": 4096, "cosine": 1.0,
                           "breakdown": curve, "path_breakdown": curve, "weight_norm": some(), "gradient_norm": some(),
                           "trust_eta": some(0.01), "implied_depth": some(9.0), "violation": some(5.0)})  # fmt: skip
        found.append(envelope("breakdown", {"etas": etas, "layers": layers, "trust_eta": some(0.01)}, step))
    told = [{"name": name, "norms": [some() for _ in steps], "last_norm": some()} for name in names]
    found.append(envelope("norms", {"steps": steps, "layers": told}, steps[-1]))
    turned = [{"name": name, "observed_rotations": [some() for _ in steps[1:]], "log_ratio": some()} for name in names]
    found.append(envelope("intrinsic-lr", {"steps": steps, "layers": turned}, steps[-1]))
    return found
