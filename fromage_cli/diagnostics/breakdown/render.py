"""The page a person sees: a sentence, the layers with the smallest trust first, theory beside truth."""

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import FROMAGE
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import number, sparkline, visible
from fromage_cli.theory.relative_trust import lemma2_rate

ROWS = 8
"""Layers shown without `--all`."""
BREAKDOWN_SCALE = (1e-2, 1e1)
"""Ends of the scale on which the layers' curves are drawn."""
SPARKS = 24
"""Characters of a sparkline at most."""
_ORDER = {"uncertifiable": 0.0, "below-grid": 0.0, "above-grid": math.inf}
_SIGNS = {"uncertifiable": "none", "below-grid": "< ", "above-grid": "> "}


def render(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    return Group(prose(summary(result), style), Text(""), _layers(result, style), _network(result, style))


def summary(result: BreakdownResult) -> str:
    """The answer in a few sentences."""
    if not result.etas:
        return "No point of the curve was measured."
    said = [] if result.complete else [f"Stopped early, after {counted(len(result.etas), 'point')}."]
    if result.direction == "random":
        said.append("A random direction: a curve, no certificate.")
    else:
        limiting = visible(result.limiting_layer or "")
        first = f"The gradient of {limiting} is the first to change too much"
        ways = {
            "uncertifiable": f"The step does not descend in {limiting}." if limiting else "",
            "below-grid": f"{first}, below the first point.",
            "above-grid": "No tensor's gradient changes by as much as the step relies on.",
            "crossing": f"{first}, at η ≈ {number(known(result.trust_eta))}.",
        }
        said += [_certified(result), ways[result.trust_relation]]
    if not isinstance(result.argmin_loss_eta, Missing) and not isinstance(result.first_increase_eta, Missing):
        said.append(
            f"Along this line the loss is least at η ≈ {number(result.argmin_loss_eta)} "
            f"and first above its start at η ≈ {number(result.first_increase_eta)}."
        )
    trust = known(result.trust_eta)
    if result.direction == FROMAGE.name and trust is not None and result.depth.count >= 1:
        allowed = lemma2_rate(1.0, result.depth.count)
        ratio = allowed / trust
        times = f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.2g} ×"
        said.append(f"Lemma 2 would allow η = {number(allowed)}, {times} as much.")
    if result.decay_left_out is not None:
        said.append(f"Weight decay ({number(result.decay_left_out)}) is left out of this step.")
    return " ".join(filter(None, said))


def _certified(result: BreakdownResult) -> str:
    """How far Lemma 1 reaches, all tensors summed, in the words of the direction."""
    eta = known(result.aggregate_trust_eta)
    if eta is None and result.aggregate_trust_relation != "above-grid":
        return f"Not even at η = {number(result.etas[0])}, the first point, does Lemma 1 give descent on this batch."
    gives = "On this batch Lemma 1, with the measured breakdown, gives descent"
    if eta is None:
        return f"{gives} up to η = {number(result.etas[-1])}, the last point."
    if result.direction == FROMAGE.name:
        return f"{gives} for steps that move every matrix by up to η ≈ {number(eta)} of its norm."
    if result.direction.startswith("to:"):
        return f"{gives} for up to η ≈ {number(eta)} of the way."
    rate = number(eta * result.step_scale)
    return f"{gives} for learning rates up to {rate}, which move the fastest layer by η ≈ {number(eta)} of its norm."


def _layers(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """The layers with the smallest trust first, and what their columns are."""

    def trust(layer: LayerBreakdown) -> float:
        return _ORDER[layer.trust_relation] if isinstance(layer.trust_eta, Missing) else layer.trust_eta

    ordered = sorted(result.layers, key=trust)
    shown = ordered if style.show_all else ordered[:ROWS]
    same = result.direction == FROMAGE.name  # every layer moves by eta, straight against its gradient
    columns = [
        Column("layer", name=True),
        Column("shape", left=True, optional=3),
        Column("trust η"),
        *(() if same else (Column("step/η", optional=2), Column("cos θ", optional=1))),
        Column("depth", optional=4 if not same else 1),
        Column("× model", optional=1),
        Column("breakdown", left=True),
    ]
    rows = [
        (
            layer.name,
            "×".join(map(str, layer.shape)),
            located(layer.trust_eta, layer.trust_relation, result.etas),
            *(() if same else (layer.relative_step, layer.cosine)),
            layer.implied_depth,
            layer.violation,
            _curve_line([*map(known, layer.breakdown)], style, BREAKDOWN_SCALE),
        )
        for layer in shown
    ]
    legend = ""
    if result.etas:
        legend = (
            f"breakdown: .01 to 10 on a log scale, for η from {number(result.etas[0])} to {number(result.etas[-1])}. "
            "depth: the one for which Lemma 2 would give this trust η. "
            "× model: breakdown over what deep relative trust predicts."
        )
    hidden = hidden_rows(len(shown), len(ordered)) or [Text("")]
    return Group(house_table(columns, rows, style), *hidden, prose(legend, style, "dim"))


def _curve_line(values: Sequence[float | None], style: PageStyle, scale: tuple[float, float] | None = None) -> str:
    """A curve over the grid, thinned to at most `SPARKS` points."""
    step = max(1, math.ceil(len(values) / SPARKS))
    return sparkline(values[::step], log=True, scale=scale, ascii_only=style.ascii_only)


def located(eta: float | Missing, relation: str, etas: Sequence[float]) -> str:
    """An interpolated place on the grid, or the end of the grid it lies beyond."""
    if not isinstance(eta, Missing):
        return number(eta)
    if relation in ("below-grid", "above-grid") and etas:
        return _SIGNS[relation] + number(etas[0] if relation == "below-grid" else etas[-1])
    return "none" if relation == "uncertifiable" else "—"


def _network(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """What was measured of the whole network beside what Lemma 2 promises, the loss, and each batch alone."""
    etas, depth = result.etas, result.depth
    aggregate = located(result.aggregate_trust_eta, result.aggregate_trust_relation, etas)
    increase = located(result.first_increase_eta, result.first_increase_relation, etas)
    rows = [
        ("measured crossing", located(result.trust_eta, result.trust_relation, etas), "the smallest trust η"),
        ("all layers summed", aggregate, "limit of the next step, by Lemma 1"),
        (
            "by curvature",
            located(result.linear_trust_eta, result.linear_trust_relation, etas),
            "from the slope at η = 0",
        ),
        ("least loss", located(result.argmin_loss_eta, result.argmin_loss_relation, etas), "along this line"),
        ("loss above start", increase, "first there, along this line"),
    ]
    cosine = min((layer.cosine for layer in result.layers), default=0.0)
    if cosine > 0.0 and not result.direction.startswith("to:"):
        rows += [
            (f"Lemma 2, {name}", number(lemma2_rate(cosine, value)), f"theory for depth {number(value)}")
            for name, value in (
                ("count", depth.count),
                ("path", known(depth.path)),
                ("effective", known(depth.effective)),
            )
            if value
        ]
    columns = [Column("whole network", left=True), Column("η"), Column("what it is", left=True, optional=1)]
    loss = Text(f"loss {number(result.loss)} at η = 0, then {_curve_line(result.losses, style)}")
    page = [Text(""), house_table(columns, rows, style), loss]
    if result.batches:
        found = sorted(eta for batch in result.batches if (eta := known(batch.trust_eta)) is not None)
        without = len(result.batches) - len(found)
        words = [f"{number(found[0])} to {number(found[-1])}, median {number(median(found))}"] if found else []
        words += [f"{without} without a crossing on the grid"] if without else []
        page.append(prose(f"trust η of {len(result.batches)} batches alone: {'; '.join(words)}", style))
    return Group(*page)


def curve(result: BreakdownResult) -> Table:
    """One row per layer and eta, for plotting elsewhere."""
    rows = [
        (layer.name, eta, layer.breakdown[index], layer.path_breakdown[index], result.predicted[index])
        for layer in result.layers
        for index, eta in enumerate(result.etas)
    ]
    return Table(("layer", "eta", "breakdown", "path_breakdown", "predicted"), tuple(rows))
