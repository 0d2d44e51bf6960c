"""The page a person sees: a sentence, the layers that are furthest from equilibrium first, what a drop would do."""

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.diagnostics.intrinsic_lr.result import IntrinsicResult, LayerEquilibrium
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import LION
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, counted, number, sparkline

ROWS = 12
"""Layers shown without `--all`."""
_TITLES = {
    "intrinsic_learning_rate": "λ_e",
    "effective_learning_rate": "effective rate",
    "equilibrium_norm": "equilibrium norm",
    "log_ratio": "distance from it",
    "relaxation_steps": "relaxation",
    "steps_to_equilibrium": "steps until there",
    "expected_rotation": "expected rotation",
    "growth_per_step": "growth",
    "observed_rotation": "observed rotation",
    "drop": "course after a drop",
}


def render(result: IntrinsicResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    shown = result.layers if style.show_all else sorted(result.layers, key=_order)[:ROWS]
    hidden = hidden_rows(len(shown), len(result.layers))
    return Group(
        prose(summary(result), style),
        _layers(result, shown, style),
        *hidden,
        prose(_legend(result), style, "dim"),
        *_after_drop(result, shown, style),
        *not_known(result.layers, _TITLES, style),
    )


def summary(result: IntrinsicResult) -> str:
    """The answer in a few sentences."""
    rule = OPTIMIZER_TITLES.get(result.optimizer, result.optimizer)
    if result.momentum:
        rule += f" with momentum {number(result.momentum)}"
    if result.decay is not None:
        rule += f", decay {result.decay}"
    said = [f"{rule}, {counted(len(result.layers), 'layer')}.", *_state(result)]
    untested = sum(layer.verdict == "untested" for layer in result.layers)
    if not result.tested:
        said.append("This assumes scale invariance, which only a model and a batch can tell.")
    elif untested:
        said.append(f"{untested} of the layers could not be tested; that they are scale-invariant is assumed.")
    return " ".join(said)


def _state(result: IntrinsicResult) -> list[str]:
    """Where the layers are, and how long they take."""
    ratios = [ratio for layer in result.layers if (ratio := known(layer.log_ratio)) is not None]
    times = [steps for layer in result.layers if (steps := known(layer.relaxation_steps)) is not None]
    said = []
    if times:
        epochs = [count for layer in result.layers if (count := known(layer.relaxation_epochs)) is not None]
        spelled = f" ({number(median(epochs))} epochs)" if epochs else ""
        said.append(f"Norms relax in {number(median(times))} steps{spelled}.")
    if ratios:
        there = sum(math.log(0.9) <= ratio <= math.log(1.1) for ratio in ratios)
        ends = [min(ratios), max(ratios)] if len(ratios) > 1 else ratios
        norms = "the norms are from " if len(ratios) > 1 else "the norm is "
        said.append(
            f"{there} of {len(ratios)} {'is' if there == 1 else 'are'} within 10 % of equilibrium; {norms}"
            f"{' to '.join(_beside(end) for end in ends)} {'their' if len(ratios) > 1 else 'its'} own."
        )
    return said or ["No layer has an equilibrium norm here."]


def _beside(log_ratio: float) -> str:
    """A norm against its equilibrium, in words."""
    return f"{number(math.exp(abs(log_ratio)))} × {'above' if log_ratio > 0.0 else 'below'}"


def _order(layer: LayerEquilibrium) -> float:
    return math.inf if isinstance(layer.log_ratio, Missing) else -abs(layer.log_ratio)


def _layers(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> RenderableType:
    series = len(result.steps) > 1
    columns = [
        Column("layer", name=True),
        Column("shape", optional=7),
        Column("scale", left=True, optional=5),
        Column("λ_e", optional=3),
        Column("η_e", optional=4),
        Column("‖W‖", optional=1),
        Column("‖W*‖", optional=1),
        Column("ln ratio"),
        Column("growth"),
        Column("τ"),
        Column("epochs", optional=6),
        Column("steps left"),
        Column("rotation" if not series else "expected"),
        Column("observed"),
    ]
    rows = {layer.name: _cells(layer, series) for layer in shown}
    kept = [
        column
        for column in columns
        if column.name or any(not isinstance(rows[name][column.header], Missing | None) for name in rows)
    ]
    return house_table(kept, [[rows[layer.name][column.header] for column in kept] for layer in shown], style)


def _cells(layer: LayerEquilibrium, series: bool) -> dict[str, object]:
    return {
        "layer": layer.name,
        "shape": "×".join(map(str, layer.shape)),
        "scale": None if layer.verdict == "untested" else layer.granularity or layer.verdict,
        "λ_e": layer.intrinsic_learning_rate,
        "η_e": layer.effective_learning_rate,
        "‖W‖": layer.norm,
        "‖W*‖": layer.equilibrium_norm,
        "ln ratio": layer.log_ratio,
        "growth": layer.growth_per_step,
        "τ": layer.relaxation_steps,
        "epochs": layer.relaxation_epochs,
        "steps left": layer.steps_to_equilibrium,
        "expected" if series else "rotation": layer.expected_rotation,
        "observed": layer.observed_rotation,
    }


def _legend(result: IntrinsicResult) -> str:
    words = []
    if any(known(layer.relaxation_steps) is not None for layer in result.layers):
        words.append("τ: relaxation in steps; steps left: until within 10 % of the equilibrium norm ‖W*‖")
    if any(known(layer.growth_per_step) is not None for layer in result.layers):
        words.append("growth: of ln ‖W‖ a step, without equilibrium")
    if len(result.steps) > 1:
        first, last = result.steps[-2:]
        words.append(f"rotation in radians between steps {first} and {last}")
        if any(known(layer.expected_rotation) is not None for layer in result.layers):
            words.append("expected: at equilibrium, if gradients were noise alone")
    elif any(known(layer.expected_rotation) is not None for layer in result.layers):
        words.append("rotation: radians a step, at equilibrium")
    if result.optimizer == LION.name and any(known(layer.equilibrium_norm) is not None for layer in result.layers):
        words.append("‖W*‖ for Gaussian noise: layers of sparse gradients end 10 to 30 % above")
    return f"{'; '.join(words)}." if words else ""


def _after_drop(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """What dividing the rate does: at once, and in the end."""
    rows = [(layer.name, drop) for layer in shown if (drop := known(layer.drop)) is not None]
    if not rows or result.drop_factor is None:
        return []
    columns = [
        Column("rate ÷ " + number(result.drop_factor), name=True),
        Column("at once"),
        Column("in the end"),
        Column("after"),
        Column("effective rate", left=True),
    ]
    ends = 0.9 * min(min(drop.ratios) for _, drop in rows), max(1.0, *(max(drop.ratios) for _, drop in rows))
    cells = [
        (
            name,
            drop.at_once,
            drop.final,
            drop.recovery_steps,
            sparkline(drop.ratios[::2], log=True, scale=ends, ascii_only=style.ascii_only),
        )
        for name, drop in rows
    ]
    said = "Effective rate relative to now; after: steps until it is within 10 % of its end. The curve spans four "
    said += f"relaxation times of the new rate, from {number(ends[0])} to {number(ends[1])} on a log scale."
    if any(drop.from_equilibrium for _, drop in rows):
        said += " Layers whose equilibrium norm is not known are taken to be at it."
    return [Text(""), house_table(columns, cells, style), prose(said, style, "dim")]


def rotations(result: IntrinsicResult) -> Table:
    """One row for each layer and pair of consecutive checkpoints."""
    rows = [
        (layer.name, result.steps[index], result.steps[index + 1], expected, observed)
        for layer in result.layers
        for index, (expected, observed) in enumerate(
            zip(layer.expected_rotations, layer.observed_rotations, strict=True)
        )
    ]
    return Table(("layer", "from_step", "to_step", "expected_rotation", "observed_rotation"), tuple(rows))


def courses(result: IntrinsicResult) -> Table:
    """One row for each layer and step after the drop."""
    rows = [
        (layer.name, step, ratio, rate if isinstance(rate, Missing) else ratio * rate)
        for layer in result.layers
        for drop, rate in [(layer.drop, layer.effective_learning_rate)]
        if not isinstance(drop, Missing)
        for step, ratio in zip(drop.steps, drop.ratios, strict=True)
    ]
    return Table(("layer", "step", "ratio", "effective_learning_rate"), tuple(rows))
