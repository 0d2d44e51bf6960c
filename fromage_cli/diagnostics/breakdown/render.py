"""The page a person sees: a sentence, the layers with the smallest trust first, theory beside truth."""

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown
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
    return Group(
        prose(summary(result), style),
        Text(""),
        _layers(result, style),
        _network(result, style),
        _spread(result, style),
    )


def _spread(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """How much the trust eta differs between batches."""
    if not result.batches:
        return Group()
    found = sorted(batch.trust_eta for batch in result.batches if batch.trust_eta is not None)
    words = f"trust η of {len(result.batches)} batches alone: "
    if found:
        words += f"{number(found[0])} to {number(found[-1])}, median {number(median(found))}"
    without = len(result.batches) - len(found)
    if without:
        words += f"{'; ' if found else ''}{without} without a crossing on the grid"
    return prose(words, style)


def summary(result: BreakdownResult) -> str:
    """The answer in a few sentences."""
    if not result.etas:
        return "No point of the curve was measured."
    early = "" if result.complete else f"Stopped early, after {len(result.etas)} points. "
    if result.direction == "random":
        return f"{early}A random direction: a curve, no certificate.{_least_loss(result)}"
    return f"{early}{_promise(result)}{_limit(result)}{_least_loss(result)}{_theory(result)}{_decay(result)}"


def _promise(result: BreakdownResult) -> str:
    """How far Lemma 1 reaches, all tensors summed."""
    eta, last = result.aggregate_trust_eta, number(result.etas[-1])
    if result.aggregate_trust_relation == "above-grid":
        return f"On this batch Lemma 1, with the measured breakdown, gives descent up to η = {last}, the last point."
    if eta is None:
        return f"Not even at η = {number(result.etas[0])}, the first point, does Lemma 1 give descent on this batch."
    return f"On this batch Lemma 1, with the measured breakdown, gives descent for {_size(result, eta)}."


def _limit(result: BreakdownResult) -> str:
    """Which tensor works against the step first."""
    limiting = visible(result.limiting_layer or "")
    if result.trust_relation == "uncertifiable":
        return f" The step does not descend in {limiting}." if limiting else ""
    if result.trust_relation == "below-grid":
        return f" The gradient of {limiting} is the first to change too much, below the first point."
    if result.trust_eta is None:
        return " No tensor's gradient changes by as much as the step relies on."
    return f" The gradient of {limiting} is the first to change too much, at η ≈ {number(result.trust_eta)}."


def _size(result: BreakdownResult, eta: float) -> str:
    """How far a step goes, in the words of its direction."""
    if result.direction == FROMAGE.name:
        return f"steps that move every matrix by up to η ≈ {number(eta)} of its norm"
    if result.direction.startswith("to:"):
        return f"up to η ≈ {number(eta)} of the way"
    return (
        f"learning rates up to {number(eta * result.step_scale)}, which move the fastest layer by η ≈ {number(eta)} "
        "of its norm"
    )


def _least_loss(result: BreakdownResult) -> str:
    if result.argmin_loss_eta is None or result.first_increase_eta is None:
        return ""
    return (
        f" Along this line the loss is least at η ≈ {number(result.argmin_loss_eta)} "
        f"and first above its start at η ≈ {number(result.first_increase_eta)}."
    )


def _theory(result: BreakdownResult) -> str:
    """What Lemma 2 would have allowed, for the step that it speaks of."""
    if result.direction != FROMAGE.name or result.trust_eta is None or result.depth.count < 1:
        return ""
    allowed = lemma2_rate(1.0, result.depth.count)
    return f" Lemma 2 would allow η = {number(allowed)}, {_times(allowed / result.trust_eta)} as much."


def _decay(result: BreakdownResult) -> str:
    """What AdamW does beside the step."""
    decay = result.decay_left_out
    return "" if decay is None else f" Weight decay ({number(decay)}) is left out of this step."


def _times(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.2g} ×"


def _layers(result: BreakdownResult, style: PageStyle) -> RenderableType:
    ordered = sorted(result.layers, key=_trust_order)
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
    rows = [_row(layer, result.etas, same, style) for layer in shown]
    return Group(
        house_table(columns, rows, style), hidden_rows(len(shown), len(ordered)), prose(_legend(result), style, "dim")
    )


def _row(layer: LayerBreakdown, etas: Sequence[float], same: bool, style: PageStyle) -> tuple[object, ...]:
    return (
        layer.name,
        "×".join(map(str, layer.shape)),
        located(layer.trust_eta, layer.trust_relation, etas),
        *(() if same else (layer.relative_step, layer.cosine)),
        layer.implied_depth,
        layer.violation,
        _curve_line(layer.breakdown, style, BREAKDOWN_SCALE),
    )


def _curve_line(values: Sequence[float | None], style: PageStyle, scale: tuple[float, float] | None = None) -> str:
    """A curve over the grid, thinned to at most `SPARKS` points."""
    step = max(1, math.ceil(len(values) / SPARKS))
    return sparkline(values[::step], log=True, scale=scale, ascii_only=style.ascii_only)


def _legend(result: BreakdownResult) -> str:
    if not result.etas:
        return ""
    return (
        f"breakdown: .01 to 10 on a log scale, for η from {number(result.etas[0])} to {number(result.etas[-1])}. "
        "depth: the one for which Lemma 2 would give this trust η. "
        "× model: breakdown over what deep relative trust predicts."
    )


def _trust_order(layer: LayerBreakdown) -> float:
    return layer.trust_eta if layer.trust_eta is not None else _ORDER[layer.trust_relation]


def located(eta: float | None, relation: str, etas: Sequence[float]) -> str:
    """An interpolated place on the grid, or the end of the grid it lies beyond."""
    if eta is not None:
        return number(eta)
    if relation in ("below-grid", "above-grid") and etas:
        return _SIGNS[relation] + number(etas[0] if relation == "below-grid" else etas[-1])
    return "none" if relation == "uncertifiable" else "—"


def _network(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """Theory and truth side by side: what Lemma 2 promises, and what was measured."""
    rows = [*_measured(result), *_promised(result)]
    columns = [Column("whole network", left=True), Column("η"), Column("what it is", left=True, optional=1)]
    losses = _curve_line(result.losses, style)
    return Group(
        Text(""), house_table(columns, rows, style), Text(f"loss {number(result.loss)} at η = 0, then {losses}")
    )


def _measured(result: BreakdownResult) -> list[tuple[str, str, str]]:
    etas = result.etas
    return [
        (
            "measured crossing",
            located(result.trust_eta, result.trust_relation, etas),
            "the smallest trust η",
        ),
        (
            "all layers summed",
            located(result.aggregate_trust_eta, result.aggregate_trust_relation, etas),
            "limit of the next step, by Lemma 1",
        ),
        (
            "by curvature",
            located(result.linear_trust_eta, result.linear_trust_relation, etas),
            "from the slope at η = 0",
        ),
        ("least loss", located(result.argmin_loss_eta, result.argmin_loss_relation, etas), "along this line"),
        (
            "loss above start",
            located(result.first_increase_eta, result.first_increase_relation, etas),
            "first there, along this line",
        ),
    ]


def _promised(result: BreakdownResult) -> list[tuple[str, str, str]]:
    depths = {"count": result.depth.count, "path": result.depth.path, "effective": result.depth.effective}
    cosine = min((layer.cosine for layer in result.layers), default=0.0)
    if cosine <= 0.0 or result.direction.startswith("to:"):
        return []
    return [
        (f"Lemma 2, {name}", number(lemma2_rate(cosine, depth)), f"theory for depth {number(depth)}")
        for name, depth in depths.items()
        if depth
    ]


def curve(result: BreakdownResult) -> Table:
    """One row per layer and eta, for plotting elsewhere."""
    rows = [
        (layer.name, eta, layer.breakdown[index], layer.path_breakdown[index], result.predicted[index])
        for layer in result.layers
        for index, eta in enumerate(result.etas)
    ]
    return Table(("layer", "eta", "breakdown", "path_breakdown", "predicted"), tuple(rows))
