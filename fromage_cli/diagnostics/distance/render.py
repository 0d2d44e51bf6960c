"""The page a person sees: which layer moved most, how far outputs differ, the layers, and under -v the networks."""

import math
import shlex
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.distance.findings import TURNED
from fromage_cli.diagnostics.distance.result import DistanceResult, LayerDistance
from fromage_cli.intake import BUILD, YOUR_FACTORY, breakdown_towards
from fromage_cli.missing import Missing, Why, known
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Fact, facts, shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import number, visible

LEAST_ANGLE = 1e-3
"""Radians from which on the first sentence says an angle; below nobody thinks of it so."""
LEGEND = (
    "Moved: ‖W~ − W‖ / ‖W‖; spectral: the same in the spectral norm. Straight steps are the smallest ‖ΔW‖/‖W‖ that "
    "arrive. cos: between W and W~. κ: condition number of W, of W~ and of W~ − W."
)
_TITLES = {
    "product": "product",
    "product_spectral": "spectral product",
    "function_distance": "difference of the outputs",
    "largest_function_distance": "worst row",
    "log10_bound": "bound by Theorem 1",
}
_OF_LAYERS = {"implied_step.straight": "step size", "implied_step.wandering": "step size"}
_OF_MATRICES = {"condition_number.first": "condition number", "condition_number.second": "condition number"}


def render(result: DistanceResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    page: list[RenderableType] = [prose(sentence(result), style)]
    if told := [*_facts(result)]:
        page += [Text(""), facts(told, style)]
    page += [Text(""), *_layers(result, style)]
    if style.verbose:
        page += [Text(""), *_networks(result, style)]
    return Group(*page)


def sentence(result: DistanceResult) -> str:
    """The answer."""
    count, most = counted(len(result.layers), "layer"), furthest(result)
    if most is None:
        return f"There is no distance: {count} {'is' if len(result.layers) == 1 else 'are'} zero or not finite."
    if not most.relative_distance:
        same = [layer for layer in result.layers if layer.relative_distance == 0.0]
        # a layer that is zero in both is the same in both, and has no relative distance
        if all(layer in same or not layer.first_norm + layer.second_norm for layer in result.layers):
            return f"Nothing moved: the two hold the same numbers in {'all ' if len(result.layers) > 1 else ''}{count}."
        return f"Nothing moved in {len(same)} of {count}; the others are zero or not finite in one of the two."
    turned = known(most.angle) or 0.0
    by = f", turned by {number(math.degrees(turned))}°" if turned >= LEAST_ANGLE else ""
    return f"{visible(most.name)} moved most: {number(most.relative_distance)} × its own norm{by}."


def furthest(result: DistanceResult) -> LayerDistance | None:
    """The layer that moved most; None where none has a distance."""
    found = [layer for layer in result.layers if not isinstance(layer.relative_distance, Missing)]
    return max(found, key=lambda layer: known(layer.relative_distance) or 0.0, default=None)


def _facts(result: DistanceResult) -> Iterator[Fact]:
    """How far the outputs differ, and how large the training steps must have been."""
    apart, worst = known(result.function_distance), known(result.largest_function_distance)
    if apart is not None:
        beside = "" if worst is None else f"; worst row {share(worst)[0]}"
        value, words = share(apart)
        yield Fact("Outputs differ", value, f"{words}{beside}")
        if apart >= 1.0:
            fresh = 0 in (known(result.first_step), known(result.second_step))
            usual = "usual from untrained weights, whose outputs are small"
            yield Fact("", "", usual if fresh else "the two give different answers on this batch")
    elif isinstance(result.function_distance, Missing) and result.function_distance.code is Why.NO_MODEL:
        yield Fact("Outputs", "—", "were not compared")
    most, steps = furthest(result), training_steps(result)
    step = None if most is None else most.implied_step
    if steps is not None and step is not None and not isinstance(step.straight, Missing):
        yield Fact("Each step", number(step.straight), "of its norm, if all went the same way (straight)")
        if not isinstance(step.wandering, Missing):
            yield Fact("", number(step.wandering), "if they went to and fro at random (wandering)")


def share(value: float) -> tuple[str, str]:
    """A difference as a share of the outputs' size, or as a multiple of it."""
    return (f"{number(100.0 * value)} %", "of their size") if value < 10.0 else (f"{number(value)} ×", "their size")


def training_steps(result: DistanceResult) -> int | None:
    """Between the two checkpoints; None where that is not known, or there are none."""
    first, second = known(result.first_step), known(result.second_step)
    return None if first is None or second is None or first == second else abs(second - first)


def _layers(result: DistanceResult, style: PageStyle) -> list[RenderableType]:
    """The layers that moved most; those with NaN or infinity before them, those that are zero behind."""

    def moved(layer: LayerDistance) -> float:
        if not math.isfinite(layer.first_norm + layer.second_norm):
            return math.inf
        distance = known(layer.relative_distance)
        return -1.0 if distance is None else distance

    ordered = sorted(result.layers, key=moved, reverse=True)
    shown, names = shown_rows(ordered, style), [layer.name for layer in ordered]
    stepped = any(known(layer.implied_step.straight) is not None for layer in result.layers)
    columns = [Column("layer", name=True), Column("moved (× norm)"), Column("turned")]
    columns += [Column("straight step", optional=1), Column("wandering step", optional=2)] if stepped else []
    rows = []
    for layer in shown:
        not_finite, turned = moved(layer) == math.inf, (known(layer.angle) or 0.0) >= TURNED
        angle = layer.angle if isinstance(layer.angle, Missing) else f"{number(math.degrees(layer.angle))}°"
        name = Text(layer.name, "bold red" if not_finite else "yellow" if turned else "")
        step = layer.implied_step
        rows.append([name, layer.relative_distance, angle, *((step.straight, step.wandering) if stepped else ())])
    rest = [distance for layer in ordered[len(shown) :] if (distance := known(layer.relative_distance)) is not None]
    hidden = hidden_rows(len(shown), len(ordered), f"moved {number(max(rest))} or less" if rest else "")
    matrices = _matrices(shown, names, style) if style.verbose else []
    return [house_table(columns, rows, style, names), *hidden, *matrices]


def _matrices(shown: Sequence[LayerDistance], names: Sequence[str], style: PageStyle) -> list[RenderableType]:
    """What else is known of the same layers, and what it means."""
    spectral = any(known(layer.spectral_distance) is not None for layer in shown)
    columns = [Column("layer", name=True), Column("shape", optional=3), Column("cos", optional=2)]
    columns += [Column("spectral"), Column("κ", optional=1), Column("κ~", optional=1)] if spectral else []
    columns += [Column("κ moved")] if spectral else []
    rows = []
    for layer in shown:
        cosine = layer.cosine if isinstance(layer.cosine, Missing) else f"{layer.cosine:.6f}"
        condition = layer.condition_number
        singular = (layer.spectral_distance, condition.first, condition.second, condition.difference)
        rows.append([layer.name, "×".join(map(str, layer.shape)), cosine, *(singular if spectral else ())])
    return [Text(""), house_table(columns, rows, style, names), prose(LEGEND, style, "dim")]


def _networks(result: DistanceResult, style: PageStyle) -> list[RenderableType]:
    """The two networks as a whole, and what is not known of them."""
    bound, logarithm = known(result.bound), known(result.log10_bound)
    held = f"Theorem 1: κ {number(bound.condition_number)}, depth {bound.depth}" if bound else ""
    numbers = [
        ("Π(1 + moved) − 1", result.product, "deep relative trust in the gradient"),
        ("with spectral", result.product_spectral, "the same in the spectral norm"),
        ("outputs", result.function_distance, "‖f~(x) − f(x)‖ / ‖f(x)‖ on the batch"),
        ("worst row", result.largest_function_distance, "the largest of a row"),
        ("bound on it", None if logarithm is None else f"10^{logarithm:.1f}", held),
    ]
    told = [row for row in numbers if row[1] is not None and not isinstance(row[1], Missing)]
    columns = [Column("both networks", left=True), Column("distance"), Column("what it is", left=True, optional=1)]
    return [
        *([house_table(columns, told, style)] if told else []),
        *not_known([result], _TITLES, style),
        *not_known(result.layers, _OF_LAYERS, style),
        *not_known([one for one in result.layers if known(one.spectral_distance) is not None], _OF_MATRICES, style),
    ]


def advise(result: DistanceResult, first: str, second: str, typed: str, likely: str) -> str:
    """What to do now; `first` and `second`: the checkpoints as they were given.

    `typed` and `likely`: options of the network and the batch, as given and as they may be.
    """
    most = furthest(result)
    if most is None:
        return ""
    if not most.relative_distance:
        return "check that you gave two different checkpoints; their weights are the same."
    if isinstance(result.function_distance, Missing) and result.function_distance.code is Why.NO_MODEL:
        build = BUILD if YOUR_FACTORY in likely else ""
        return f"fromage-diag distance {shlex.join((first, second))}{likely} compares the outputs too.{build}"
    return f"{breakdown_towards(first, second)}{typed} shows how much of this way one step may go."


def headline(result: DistanceResult) -> Table:
    """The numbers that the page begins with."""
    most = furthest(result)
    angle = None if most is None else known(most.angle)
    return summary(
        [
            ("moved_most", None if most is None else most.name, "layer"),
            ("moved", None if most is None else most.relative_distance, "of its norm"),
            ("turned", None if angle is None else math.degrees(angle), "degrees"),
            ("straight_step", None if most is None else most.implied_step.straight, "relative step"),
            ("wandering_step", None if most is None else most.implied_step.wandering, "relative step"),
            ("training_steps", training_steps(result), "steps"),
            ("outputs_differ", result.function_distance, "of their size"),
            ("worst_row_differs", result.largest_function_distance, "of its size"),
            ("product", result.product, "relative change"),
        ]
    )
