"""The page a person sees: a sentence, the layers that are furthest apart first, then the networks as functions."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.distance.result import DistanceResult, LayerDistance
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import number, visible

ROWS = 12
"""Layers shown without `--all`."""
LEAST_ANGLE = 1e-3
"""Radians from which on an angle is given in degrees; below nobody thinks of it so."""

_TITLES = {
    "product": "product",
    "product_spectral": "spectral product",
    "function_distance": "function distance",
    "largest_function_distance": "largest of a row",
    "log10_bound": "bound by Theorem 1",
}
_OF_LAYERS = {"implied_step.straight": "implied step η", "implied_step.wandering": "implied step η"}
_OF_MATRICES = {"condition_number.first": "condition number", "condition_number.second": "condition number"}


def render(result: DistanceResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""

    def furthest(layer: LayerDistance) -> float:
        """What is sorted by: layers without a distance, zero or not finite, come first."""
        return -math.inf if isinstance(layer.relative_distance, Missing) else -layer.relative_distance

    shown = result.layers if style.show_all else sorted(result.layers, key=furthest)[:ROWS]
    bound, logarithm = known(result.bound), known(result.log10_bound)
    held = f"Theorem 1: κ {number(bound.condition_number)}, depth {bound.depth}" if bound else ""
    numbers = [
        ("Π(1+δ) − 1", result.product, "deep relative trust in the gradient"),
        ("with spectral δ", result.product_spectral, "the same in the spectral norm"),
        ("function", result.function_distance, "‖f~(x) − f(x)‖ / ‖f(x)‖ on the batch"),
        ("of one row", result.largest_function_distance, "the largest"),
        ("bound on it", None if logarithm is None else f"10^{logarithm:.1f}", held),
    ]
    of_networks = [row for row in numbers if row[1] is not None and not isinstance(row[1], Missing)]
    columns = [Column("both networks", left=True), Column("distance"), Column("what it is", left=True, optional=1)]
    return Group(
        prose(summary(result), style),
        *_layers(result, shown, style),
        Text(""),
        *([house_table(columns, of_networks, style)] if of_networks else []),
        *not_known([result], _TITLES, style),
        *not_known(result.layers, _OF_LAYERS, style),
        *not_known([one for one in result.layers if known(one.spectral_distance) is not None], _OF_MATRICES, style),
    )


def summary(result: DistanceResult) -> str:
    """The answer in a sentence or two."""
    count = counted(len(result.layers), "layer")
    found = [(distance, layer) for layer in result.layers if (distance := known(layer.relative_distance)) is not None]
    if not found:
        return f"Of {count} none has a relative distance."
    distance, furthest = max(found, key=lambda one: one[0])
    if not distance:
        # a layer that is zero in both is the same in both, and has no relative distance
        alike = (layer.relative_distance == 0.0 or not layer.first_norm + layer.second_norm for layer in result.layers)
        if not all(alike):
            return (
                f"Of {count} {len(found)} hold{'s' if len(found) == 1 else ''} the same numbers in both; the others "
                "have no relative distance."
            )
        return f"The two hold the same numbers in {'all of ' if len(result.layers) > 1 else ''}{count}."
    said = f"{visible(furthest.name)} is the furthest apart of {count}: {number(distance)} of its norm"
    if not isinstance(result.first_step, Missing) and not isinstance(result.second_step, Missing):
        said = f"Between step {result.first_step} and step {result.second_step} {said}"
    if not isinstance(furthest.angle, Missing) and furthest.angle >= LEAST_ANGLE:
        said += f", at an angle of {math.degrees(furthest.angle):.3g}°"
    said += "."
    if known(result.function_distance) is not None:
        said += f" On this batch the outputs differ by {number(result.function_distance)} of their size."
    return said


def _layers(result: DistanceResult, shown: Sequence[LayerDistance], style: PageStyle) -> list[RenderableType]:
    """The table of the layers, and what its columns are; those that are not there are left out."""
    spectral = any(known(layer.spectral_distance) is not None for layer in result.layers)
    walked = any(known(layer.implied_step.straight) is not None for layer in result.layers)
    columns = [Column("layer", name=True), Column("shape", optional=3), Column("δ")]
    columns += [Column("δ spectral", optional=1)] if spectral else []
    columns += [Column("angle"), Column("cos", optional=5)]
    columns += [Column("η straight"), Column("η wandering")] if walked else []
    columns += [Column("κ", optional=4), Column("κ~", optional=4), Column("κ moved", optional=2)] if spectral else []
    rows = []
    for layer in shown:
        cells: dict[str, object] = {
            "layer": layer.name,
            "shape": "×".join(map(str, layer.shape)),
            "δ": layer.relative_distance,
            "δ spectral": layer.spectral_distance,
            "angle": layer.angle,
            "cos": layer.cosine if isinstance(layer.cosine, Missing) else f"{layer.cosine:.6f}",
            "η straight": layer.implied_step.straight,
            "η wandering": layer.implied_step.wandering,
            "κ": layer.condition_number.first,
            "κ~": layer.condition_number.second,
            "κ moved": layer.condition_number.difference,
        }
        rows.append([cells[column.header] for column in columns])
    legend = "δ = ‖W~ − W‖ / ‖W‖; angle in radians."
    if walked:
        legend += (
            " η: the relative step, in each training step, that explains the distance: straight, all in one direction "
            "(no smaller one does); wandering, each at a right angle to the weights and to all others."
        )
    if spectral:
        legend += " κ: condition number of W, W~ and W~ − W."
    hidden = hidden_rows(len(shown), len(result.layers))
    return [house_table(columns, rows, style), *hidden, prose(legend, style, "dim")]
