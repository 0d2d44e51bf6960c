"""Norms against their equilibrium, and their forecast."""

import math
from collections.abc import Mapping
from typing import Any

from fromage_cli.counting import counted
from fromage_cli.missing import Why
from fromage_cli.report.figures import MOST_ROWS, Curve, balance, curves
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.parts import LAYER, Figure, Section, figure, sheet
from fromage_cli.report.told import (
    entries_at,
    number_at,
    numbers_at,
    step_text,
    steps_at,
    text_at,
)
from fromage_cli.terminal.words import number

INVARIANCE = {"invariant": "yes", "eps-limited": "yes, but for ε", "approximate": "nearly", "none": "no"}
"""What the verdicts on a layer's scale are called in a table."""


def equilibrium(gathered: Gathered) -> Section | None:
    """Norms: how they change, and where they stand against the equilibrium of weight decay."""
    norms, settled = gathered.last("norms"), gathered.last("intrinsic-lr")
    if norms is None and settled is None:
        return None
    ratios = [
        (text_at(one, "name"), math.exp(max(-50.0, min(50.0, ratio))))
        for one in entries_at(settled, "layers")
        if (ratio := number_at(one, "log_ratio")) is not None
    ]
    ratios.sort(key=lambda one: -abs(math.log(one[1])))
    picture = balance(
        ratios[:MOST_ROWS],
        "Norm of each layer over its equilibrium norm",
        ("below equilibrium: will grow", "above: will shrink"),
    )
    by_name = {text_at(one, "name"): one for one in entries_at(settled, "layers")}
    layers = {text_at(one, "name"): one for one in entries_at(norms, "layers")} or by_name
    rows = []
    for name, layer in layers.items():
        other = by_name.get(name, {})
        growth = number_at(layer, "growth_per_step")
        rows.append(
            [
                name,
                number_at(layer, "last_norm") or number_at(other, "norm"),
                None if growth is None else 100.0 * growth,
                INVARIANCE.get(text_at(layer, "invariance", "verdict") or text_at(other, "verdict")),
                number_at(other, "equilibrium_norm"),
                number_at(other, "steps_to_equilibrium"),
                number_at(other, "expected_rotation"),
                number_at(other, "observed_rotation"),
            ]
        )
    columns = (
        LAYER,
        ("norm", "Root of the sum of squares of the weights, at the last checkpoint."),
        ("growth, % a step", "How much the norm grows per step."),
        ("scale-invariant", "Whether doubling or halving the layer leaves the outputs unchanged."),
        ("equilibrium norm", "The norm at which weight decay and gradients balance."),
        ("steps to it", "Training steps until the norm is within 10 % of it."),
        ("expected rotation", "Radians that random gradients at equilibrium would turn the layer by."),
        ("observed rotation", "Radians that it turned by between the last two checkpoints."),
    )
    named = len(ratios)
    reasons = {text_at(one, "missing", "equilibrium_norm", "reason") for one in entries_at(settled, "layers")}
    why = f": {''.join(reasons).rstrip('.')}" if len(reasons) == 1 and any(reasons) else ""
    codes = {text_at(one, "missing", "equilibrium_norm", "code") for one in entries_at(settled, "layers")}
    why = ", as none is scale-invariant" if codes == {Why.NOT_SCALE_INVARIANT} else why
    least, largest = (number(each((ratio for _, ratio in ratios), default=1.0)) for each in (min, max))
    now = f"{least} ×" if least == largest else f"{least} to {largest} ×"
    sentences = [
        f"{counted(named, 'layer')} {'has' if named == 1 else 'have'} an equilibrium norm, {now} of it now."
        if named
        else f"No layer has an equilibrium norm{why}."
    ]
    if settled is None:
        sentences = []
    caption = "Layers furthest from equilibrium come first. At 1 the norm has settled."
    figures = (*figure(picture, caption), *_forecast(settled))
    return Section("Norms and equilibrium", tuple(sentences), figures, sheet("Norms by layer", columns, rows))


def _forecast(settled: Mapping[str, Any] | None) -> tuple[Figure, ...]:
    """The norms of layers along the run, and on to the end of its schedule where that is known."""
    steps = steps_at(settled, "steps")
    lines = [
        Curve(
            text_at(one, "name"),
            [*steps, *steps_at(one, "forecast", "steps")],
            [*numbers_at(one, "norms"), *numbers_at(one, "forecast", "norms")],
        )
        for one in entries_at(settled, "layers")
        if numbers_at(one, "forecast", "steps")
    ]
    picture = curves(lines, "Forecast of the norms", ("step", "norm of each layer"), steps=True)
    return figure(
        picture, f"After step {step_text(steps[-1] if steps else None)} it is a forecast, along the schedule."
    )
