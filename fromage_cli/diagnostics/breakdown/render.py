"""The page a person sees: a sentence, the layers with the smallest trust first, theory beside truth."""

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.breakdown.derived import OTHER_GRADIENT, TOO_SMALL
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.rule import FROMAGE
from fromage_cli.probes.lines.direction import Still
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import number, sparkline, visible
from fromage_cli.theory.relative_trust import lemma2_rate

ROWS = 8
"""Layers shown without `--all`, beside those out of line with their siblings."""
BREAKDOWN_SCALE = (1e-2, 1e1)
"""Ends of the scale on which the layers' curves are drawn."""
SPARKS = 24
"""Characters of a sparkline at most."""
_ORDER = {"uncertifiable": 0.0, "below-grid": 0.0, "above-grid": math.inf}
_SIGNS = {"uncertifiable": "none", "below-grid": "< ", "above-grid": "> "}


_NOTHING = {
    OTHER_GRADIENT: "Nothing is certain here: the loss does not change as its gradient says.",
    TOO_SMALL: "Nothing is known here: the precision of the weights cannot make steps so small.",
}
"""What is said where no step is certified, whatever its size."""


def render(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    return Group(prose(summary(result), style), Text(""), _layers(result, style), _network(result, style))


def summary(result: BreakdownResult) -> str:
    """The answer in a few sentences."""
    if not result.etas:
        return "No point of the curve was measured."
    still = [tensor.name for tensor in result.skipped if tensor.reason == Still.ZERO_GRADIENT]
    chosen = all(tensor.reason in (Still.ZERO_GRADIENT, Still.NO_GRADIENT) for tensor in result.skipped)
    dead = bool(still) and chosen and all(len(layer.shape) < 2 for layer in result.layers)
    said = [] if result.complete else [f"Stopped early, after {counted(len(result.etas), 'point')}."]
    if result.direction == "random":
        said.append("A random direction: a curve, no certificate.")
    elif dead:
        but = first_names([visible(layer.name) for layer in result.layers])
        said.append(f"Nothing has a gradient but {but}: {counted(len(still), 'tensor')} cannot learn on this batch.")
        said.append("Dead units, or a head of zeros, pass none on.")
    else:
        limiting = visible(result.limiting_layer or "")
        first = f"The first to give way is {limiting},"
        ways = {
            "uncertifiable": f"The step does not descend in {limiting}." if limiting else "",
            "below-grid": f"{first} below the first point.",
            "above-grid": "No tensor's gradient changes by as much as the step relies on.",
            "crossing": f"{first} {_between(result.trust_eta, result.trust_eta_upper)}.",
        }
        said += [_certified(result), ways[result.trust_relation]]
    least, increase = result.argmin_loss_eta, result.first_increase_eta
    if not isinstance(least, Missing):
        line = f"Along this line the loss is least {_between(least, result.argmin_loss_eta_upper)}"
        if not isinstance(increase, Missing):
            upper = result.first_increase_eta_upper
            losses = dict(zip(result.etas, result.losses, strict=True))
            lost = upper is not None and not math.isfinite(losses.get(upper, math.inf))
            line += f" and {'no longer finite' if lost else 'first above its start'} {_between(increase, upper)}"
        said.append(f"{line}.")
    trust = known(result.trust_eta)
    sized = any(layer.name not in result.without_size for layer in result.layers)
    if result.direction == FROMAGE.name and trust is not None and result.depth.count >= 1 and sized:
        allowed = lemma2_rate(1.0, result.depth.count)
        ratio = allowed / trust
        times = f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.2g} ×"
        said.append(f"Lemma 2 would allow η = {number(allowed)}, {times} as much.")
    if not isinstance(result.draws, Missing):
        low, high = number(result.draws.low), number(result.draws.high)
        draws = f"Under {result.draws.count} other random draws"
        said.append(f"{draws} Lemma 1 gives descent along the same step up to η ≈ {low} to {high}.")
        said += ["Under one of them the step goes uphill."] if result.draws.low == 0.0 else []
    if result.decay_left_out is not None:
        said.append(f"Weight decay ({number(result.decay_left_out)}) is left out of this step.")
    return " ".join(filter(None, said))


def _certified(result: BreakdownResult) -> str:
    """How far Lemma 1 reaches, all tensors summed, in the words of the direction."""
    aggregate, upper = result.aggregate_trust_eta, result.aggregate_trust_eta_upper
    eta = known(aggregate)
    if isinstance(aggregate, Missing) and result.aggregate_trust_relation != "above-grid":
        first = number(result.etas[0] if upper is None else upper)
        nowhere = f"Not even at η = {first}, the first point, does Lemma 1 give descent on this batch."
        return _NOTHING.get(aggregate, nowhere)
    gives = "On this batch Lemma 1, with the measured breakdown, gives descent"
    if eta is None:
        return f"{gives} up to η = {number(result.etas[-1])}, the last point."
    whole = bool(result.layers) and all(layer.name in result.without_size for layer in result.layers if layer.shape[1:])
    if result.direction == FROMAGE.name:
        moved = "the network as a whole" if whole else "every matrix"
        return f"{gives} for steps that move {moved} by up to η ≈ {number(eta)} of its norm."
    if result.direction.startswith("to:"):
        return f"{gives} for up to η ≈ {number(eta)} of the way."
    rate = number(eta * result.step_scale)
    moved = "the network as a whole" if whole else "the fastest layer"
    return f"{gives} for learning rates up to {rate}, which move {moved} by η ≈ {number(eta)} of its norm."


def _between(eta: float | Missing, upper: float | None) -> str:
    """Where a place is: at a number, or between two where the curve beyond the first is not finite."""
    return f"at η ≈ {number(eta)}" if upper is None else f"between η = {number(eta)} and {number(upper)}"


def _layers(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """The layers with the smallest trust first, and what their columns are."""

    def trust(layer: LayerBreakdown) -> float:
        return _ORDER[layer.trust_relation] if isinstance(layer.trust_eta, Missing) else layer.trust_eta

    ordered = sorted(result.layers, key=trust)
    odd = {each.name for each in result.out_of_line}
    shown = [layer for place, layer in enumerate(ordered) if style.show_all or place < ROWS or layer.name in odd]
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
            located(layer.trust_eta, layer.trust_relation, result.etas, layer.trust_eta_upper),
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


def located(eta: float | Missing, relation: str, etas: Sequence[float], upper: float | None = None) -> str:
    """An interpolated place on the grid, two points that it lies between, or the end of the grid it lies beyond."""
    if not isinstance(eta, Missing):
        return number(eta) if upper is None else f"{number(eta)} to {number(upper)}"
    if relation == "below-grid" and etas:
        return _SIGNS[relation] + number(etas[0] if upper is None else upper)
    if eta.code is Why.ABOVE_GRID and etas:
        return _SIGNS[relation] + number(etas[-1])
    return "none" if eta.code is Why.UNCERTIFIABLE else "—"


def _network(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """What was measured of the whole network beside what Lemma 2 promises, the loss, and each batch alone."""
    etas, depth = result.etas, result.depth

    def row(name: str, words: str, what: str) -> tuple[str, str, str]:
        eta, relation = getattr(result, f"{name}_eta"), getattr(result, f"{name}_relation")
        return words, located(eta, relation, etas, getattr(result, f"{name}_eta_upper", None)), what

    rows = [
        row("trust", "measured crossing", "the smallest trust η"),
        row("aggregate_trust", "all layers summed", "limit of the next step, by Lemma 1"),
        row("linear_trust", "by curvature", "from the slope at η = 0"),
        row("argmin_loss", "least loss", "along this line"),
        row("first_increase", "loss above start", "first there, along this line"),
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
