"""The tables in full: rotations, the course after a drop, the forecast and the norms so far."""

from itertools import pairwise, zip_longest

from fromage_cli.diagnostics.intrinsic_lr.result import IntrinsicResult
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import Table


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
