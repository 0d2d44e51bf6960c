"""The tables in full: what the page begins with, rotations, the course after a drop, the forecast, the norms so far."""

import math
from itertools import pairwise, zip_longest
from statistics import median

from fromage_cli.diagnostics.intrinsic_lr.findings import NEAR, untested_layers
from fromage_cli.diagnostics.intrinsic_lr.result import IntrinsicResult
from fromage_cli.missing import Missing, known, known_values
from fromage_cli.terminal.answer import Table, summary


def rotations(result: IntrinsicResult) -> Table:
    """One row for each layer and pair of consecutive checkpoints."""
    rows = [
        (layer.name, *steps, expected, observed)
        for layer in result.layers
        for steps, expected, observed in zip(
            pairwise(result.steps), layer.expected_rotations, layer.observed_rotations, strict=False
        )
    ]
    return Table(("layer", "from_step", "to_step", "expected_rotation", "observed_rotation"), tuple(rows))


def courses(result: IntrinsicResult) -> Table:
    """One row for each layer and step after the drop."""
    rows = []
    for layer in result.layers:
        drop, rate = known(layer.drop), layer.effective_learning_rate
        if drop is not None:
            for step, ratio in zip(drop.steps, drop.ratios, strict=True):
                rows.append((layer.name, step, ratio, rate if isinstance(rate, Missing) else ratio * rate))
    return Table(("layer", "step", "ratio", "effective_learning_rate"), tuple(rows))


def forecasts(result: IntrinsicResult) -> Table:
    """One row for each layer and step of its forecast."""
    rows = [
        (layer.name, *point)
        for layer in result.layers
        if (ahead := known(layer.forecast)) is not None
        for point in zip_longest(
            ahead.steps,
            ahead.norms,
            ahead.effective_learning_rates,
            ahead.angles_per_step,
            ahead.norms_if_growing,
            ahead.angles_if_growing,
        )
    ]
    names = (
        "layer",
        "step",
        "norm",
        "effective_learning_rate",
        "angle_per_step",
        "norm_if_growing",
        "angle_if_growing",
    )
    return Table(names, tuple(rows))


def norms(result: IntrinsicResult) -> Table:
    """One row for each layer and checkpoint."""
    rows = [
        (layer.name, step, norm, expected)
        for layer in result.layers
        for step, norm, expected in zip(result.steps, layer.norms, layer.expected_norms, strict=False)
    ]
    return Table(("layer", "step", "norm", "expected_norm"), tuple(rows))


def headline(result: IntrinsicResult) -> Table:
    """The numbers that the page begins with."""
    ratios = known_values(layer.log_ratio for layer in result.layers)
    times = known_values(layer.relaxation_steps for layer in result.layers)
    epochs = known_values(layer.relaxation_epochs for layer in result.layers)
    left = known_values(layer.steps_to_equilibrium for layer in result.layers)
    share = "of the equilibrium norm"
    return summary(
        [
            ("layers", len(result.layers), "layers"),
            ("not_scale_invariant", sum(layer.verdict == "none" for layer in result.layers), "layers"),
            ("untested", len(untested_layers(result)), "layers"),
            ("settling_time", median(times) if times else None, "steps"),
            ("settling_time_in_epochs", median(epochs) if epochs else None, "epochs"),
            ("settled", sum(NEAR[0] <= ratio <= NEAR[1] for ratio in ratios) if ratios else None, "layers"),
            ("lowest", math.exp(min(ratios)) if ratios else None, share),
            ("highest", math.exp(max(ratios)) if ratios else None, share),
            ("all_settled_in", max(left) if left else None, "steps"),
        ]
    )
