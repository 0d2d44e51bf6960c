"""How fast each layer's gradient changes, and up to which step the loss is sure to fall."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fromage_cli.counting import counted
from fromage_cli.report.figures import Curve, curves
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.parts import LAYER, Section, figure, sheet
from fromage_cli.report.told import (
    entries_at,
    number_at,
    numbers_at,
    text_at,
)
from fromage_cli.terminal.words import number


def gradients(gathered: Gathered) -> Section | None:
    """How fast each layer's gradient breaks down when the weights move."""
    told = gathered.last("breakdown")
    if told is None:
        return None
    etas = numbers_at(told, "etas")
    ends = {"below-grid": 0.0, "uncertifiable": 0.0}
    layers = sorted(
        entries_at(told, "layers"),
        key=lambda one: number_at(one, "trust_eta") or ends.get(text_at(one, "trust_relation"), math.inf),
    )
    early = [one for one in layers if text_at(one, "trust_relation") == "below-grid"]
    lines = [Curve(text_at(one, "name"), etas, numbers_at(one, "breakdown")) for one in layers]
    picture = curves(
        lines,
        "How fast each layer's gradient changes",
        ("relative step of every layer, η", "change of the gradient, relative to its own size"),
        level=1.0,
    )
    sentences = []
    if early:
        first = f"{text_at(early[0], 'name')} among them" if len(early) > 1 else text_at(early[0], "name")
        verb = "stop" if len(early) > 1 else "stops"
        least = number(etas[0] if etas else None)
        sentences.append(f"{counted(len(early), 'layer')} {verb} helping below {least}, {first}.")
    sentences += [words for key in ("trust", "aggregate_trust") if (words := _sure(told, key, etas))]
    if (rises := number_at(told, "first_increase_eta")) is not None:
        sentences.append(f"The loss rises from a relative step of {number(rises)} on.")
    keys = ("trust_eta", "violation", "implied_depth", "weight_norm", "gradient_norm")
    rows = [[text_at(one, "name"), *(number_at(one, key) for key in keys)] for one in layers]
    columns = (
        LAYER,
        ("stops helping at", "Relative step of all layers from which on this one no longer helps."),
        ("× theory", "How many times faster the gradient changes than deep relative trust predicts."),
        ("like depth", "The number of layers for which Lemma 2 would give this safe step."),
        ("weight norm", "Root of the sum of squares of the weights."),
        ("gradient norm", "The same of the gradient."),
    )
    caption = (
        "The layers that fail first have a line of their own; all others are grey. "
        "At 1, the dashed level, the gradient has changed by as much as its own size."
    )
    return Section("Gradients", tuple(sentences), figure(picture, caption), sheet("Gradients by layer", columns, rows))


def _sure(told: Mapping[str, Any], key: str, etas: Sequence[float | None]) -> str:
    """Up to which relative step the loss is sure to fall, by each layer or as a whole; empty where it is not told."""
    found, relation = number_at(told, f"{key}_eta"), text_at(told, f"{key}_relation")
    of_layers = key == "trust"
    ends = [number(etas[place]) if etas else "" for place in (0, -1)]
    if relation == "above-grid":
        what = "Every layer helps" if of_layers else "The loss as a whole is sure to fall"
        return f"{what} at all steps that were tried, up to {ends[1]}."
    if relation == "below-grid":
        what = "In some layers" if of_layers else "As a whole"
        return f"{what} not even the smallest step, {ends[0]}, is sure to lower the loss."
    if relation == "uncertifiable":
        return "In some layers the step points uphill: judge by the loss as a whole." if of_layers else ""
    if found is None:
        return ""
    first = text_at(told, "limiting_layer")
    if of_layers:
        fails = f"; {first} fails first" if first else ""
        return f"Every layer is sure to help up to a relative step of {number(found)}{fails}."
    return f"The loss as a whole is sure to fall up to {number(found)}."
