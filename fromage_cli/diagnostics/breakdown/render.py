"""The page a person sees: how far a step may go, on a ruler, and the layers that fail first."""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.breakdown.derived import OTHER_GRADIENT, TOO_SMALL
from fromage_cli.diagnostics.breakdown.findings import finer_grid
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown
from fromage_cli.diagnostics.breakdown.tables import theory_step
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.rule import FROMAGE, RULES
from fromage_cli.probes.lines.direction import Still
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import ROWS, Fact, Mark, facts, layer_table, ruler
from fromage_cli.terminal.tables import Column, house_table, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, sparkline, visible
from fromage_cli.theory.relative_trust import lemma2_rate

BREAKDOWN_SCALE = (1e-2, 1e1)
"""Ends of the scale on which the layers' curves are drawn."""
SPARKS = 24
"""Characters of a sparkline at most."""
FAR = 2.0
"""The measured step over Lemma 2's from which on the latter, which then limits, is said on the default page."""
_ORDER = {"uncertifiable": 0.0, "below-grid": 0.0, "above-grid": math.inf}
_SIGNS = {"uncertifiable": "none", "below-grid": "< ", "above-grid": "> "}
_NOTHING = {
    OTHER_GRADIENT: "the loss does not change as its gradient says",
    TOO_SMALL: "the precision of the weights cannot make steps so small",
}
"""Why no step is sure to lower the loss, whatever its size."""


def render(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    said = [prose(sentence, style) for sentence in sentences(result)]
    if not result.etas or _without_gradient(result):
        return Group(*said)
    answer = [
        facts([*_facts(result)], style, [layer.name for layer in result.layers]),
        *ruler("η", _marks(result, style), style),
    ]
    page = [*said, *([] if result.direction == "random" else answer), Text(""), _layers(result, style)]
    page += _batches(result, style)
    return Group(*page, *([Text(""), *_network(result, style)] if style.verbose else []))


def sentences(result: BreakdownResult) -> Iterator[str]:
    """What stands before the numbers: what was moved, and what is unusual about it."""
    if not result.etas:
        yield "No step was measured."
        return
    if not result.complete:
        yield f"Stopped early, after {counted(len(result.etas), 'step')}."
    tried = counted(len(result.etas), "step")
    if result.direction == "random":
        yield f"A random direction tells how the gradient changes, not how far to go ({tried} tried)."
    elif _without_gradient(result):
        but = first_names([visible(layer.name) for layer in result.layers])
        still = sum(tensor.reason == Still.ZERO_GRADIENT for tensor in result.skipped)
        yield f"Nothing has a gradient but {but}: {counted(still, 'tensor')} cannot learn on this batch."
        yield "Units that never activate, or a head of zeros, pass no gradient on."
    elif result.direction.startswith("to:"):
        yield f"How much of the way to the other weights may be gone in one step ({tried} tried):"
    elif result.direction == FROMAGE.name and not _whole(result):
        yield f"How far one step may move each matrix, as η = ‖ΔW‖/‖W‖ ({tried} tried):"
    else:
        moved = "the network as a whole" if _whole(result) else "the fastest layer"
        title = OPTIMIZER_TITLES.get(result.direction, result.direction)
        if result.decay_left_out is not None:
            yield f"The step is without its weight decay ({number(result.decay_left_out)})."
        yield f"How far one {title} step may move {moved} (η = ‖ΔW‖/‖W‖, {len(result.etas)} tried):"


def _without_gradient(result: BreakdownResult) -> bool:
    """Whether no matrix has a gradient, so that a limit would say nothing."""
    still = [tensor.name for tensor in result.skipped if tensor.reason == Still.ZERO_GRADIENT]
    chosen = all(tensor.reason in (Still.ZERO_GRADIENT, Still.NO_GRADIENT) for tensor in result.skipped)
    return result.direction != "random" and bool(still) and chosen and all(len(x.shape) < 2 for x in result.layers)


def _whole(result: BreakdownResult) -> bool:
    """Whether no layer has a size that a step could be relative to, so that the network's stands in."""
    return bool(result.layers) and all(layer.name in result.without_size for layer in result.layers if layer.shape[1:])


def _facts(result: BreakdownResult) -> Iterator[Fact]:
    """How far a step is sure in every layer and as a whole, where the loss rises, and theory where it allows less."""
    limiting = visible(result.limiting_layer or "")
    shapes = {layer.name: layer.shape for layer in result.layers}
    vectors = len(shapes.get(result.limiting_layer or "", (0, 0))) < 2 and any(len(x) > 1 for x in shapes.values())
    yield _fact(
        result,
        "Sure in every layer",
        "trust",
        {
            "uncertifiable": f"in {limiting} the step points uphill" if limiting else "no layer could be judged",
            "below-grid": f"{limiting} fails below the smallest step tried",
            "above-grid": "every layer helps, as far as looked",
            "crossing": f"vectors fail first, {limiting} most" if vectors else f"{limiting} fails first",
        },
    )
    whole = _fact(
        result,
        "Sure as a whole",
        "aggregate_trust",
        {
            "uncertifiable": "no step size is sure to lower the loss",
            "below-grid": "not even the smallest step tried is sure to lower the loss",
            "above-grid": "the loss is sure to fall, as far as looked",
            "crossing": "the loss is sure to fall",
        },
    )
    yield Fact(whole.label, "none", "the step as a whole goes uphill") if result.goes_uphill else whole
    if not isinstance(result.draws, Missing):
        low, high = number(result.draws.low), number(result.draws.high)
        uphill = "; under one the step goes uphill" if result.draws.low == 0.0 else ""
        yield Fact("", f"{low} to {high}", f"the same under {result.draws.count} other random draws{uphill}")
    upper, losses = result.first_increase_eta_upper, dict(zip(result.etas, result.losses, strict=True))
    lost = upper is not None and not math.isfinite(losses.get(upper, math.inf))
    yield _fact(
        result,
        "Loss rises",
        "first_increase",
        {
            "above-grid": "at no step tried",
            "below-grid": "even the smallest step tried raises the loss",
            "crossing": "the loss is no longer finite" if lost else "one such step raises the loss",
        },
    )
    allowed, trust = theory_step(result), known(result.trust_eta)
    if allowed is not None and trust is not None and FAR * allowed <= trust:
        words = f"for depth {result.depth.count}: less than was measured here"
        yield Fact("Theory (Lemma 2)", number(allowed), words)


def _fact(result: BreakdownResult, label: str, name: str, words: dict[str, str]) -> Fact:
    """A place of the curve by the name of its fields; under an optimizer's rule with its learning rate."""
    eta, relation = getattr(result, f"{name}_eta"), getattr(result, f"{name}_relation")
    upper = getattr(result, f"{name}_eta_upper", None)
    said = words.get(relation, "")
    if isinstance(eta, Missing) and eta in _NOTHING:
        said = _NOTHING[eta]
    place = known(eta)
    if place is not None and result.direction in RULES and result.direction != FROMAGE.name:
        said = f"rate {number(place * result.step_scale)}; {said}"
    return Fact(label, located(eta, relation, result.etas, upper), said)


def _marks(result: BreakdownResult, style: PageStyle) -> list[Mark]:
    """The same places on the ruler, with the step of least loss; Lemma 2's, which is no step to take, under `-v`."""
    places = [
        (known(result.trust_eta), "●", "every layer", "green"),
        (known(result.aggregate_trust_eta), "◆", "as a whole", ""),
        (known(result.argmin_loss_eta), "◇", "least loss", ""),
        (known(result.first_increase_eta), "▲", "loss rises", "red"),
        (theory_step(result) if style.verbose else None, "┊", "Lemma 2", ""),
    ]
    return [Mark(value, sign, words, colour) for value, sign, words, colour in places if value is not None]


def _layers(result: BreakdownResult, style: PageStyle) -> RenderableType:
    """The layers that fail first, those out of line with their siblings, and what is hidden."""

    def trust(layer: LayerBreakdown) -> float:
        return _ORDER[layer.trust_relation] if isinstance(layer.trust_eta, Missing) else layer.trust_eta

    ordered = sorted(result.layers, key=trust)
    odd = {each.name for each in result.out_of_line}
    shown = [layer for place, layer in enumerate(ordered) if style.show_all or place < ROWS or layer.name in odd]
    hidden = [layer for layer in ordered if layer not in shown]
    same = result.direction == FROMAGE.name  # every layer moves by eta, straight against its gradient
    ends = f", η {number(result.etas[0])}–{number(result.etas[-1])}" if result.etas else ""

    def curve_of(layer: LayerBreakdown) -> str:
        return _curve_line([*map(known, layer.breakdown)], style, BREAKDOWN_SCALE)

    def sure_to(layer: LayerBreakdown) -> str:
        return located(layer.trust_eta, layer.trust_relation, result.etas, layer.trust_eta_upper)

    every: list[tuple[bool, Column, Callable[[LayerBreakdown], object]]] = [
        (True, Column("layer", name=True), lambda layer: layer.name),
        (style.verbose, Column("shape", left=True, optional=3), lambda layer: "×".join(map(str, layer.shape))),
        (result.direction != "random", Column("sure to η"), sure_to),
        (style.verbose and not same, Column("step/η", optional=2), lambda layer: layer.relative_step),
        (not same, Column("cos θ", optional=1), lambda layer: layer.cosine),
        (style.verbose, Column("depth", optional=4), lambda layer: layer.implied_depth),
        (style.verbose, Column("× theory", optional=1), lambda layer: layer.violation),
        (True, Column(f"gradient change{ends}", left=True), curve_of),
    ]
    columns = [column for holds, column, _ in every if holds]
    rows = [[cell(layer) for holds, _, cell in every if holds] for layer in shown]
    sure = [eta for layer in hidden if (eta := known(layer.trust_eta)) is not None]
    between = f"sure to {number(min(sure))} or further" if sure else ""
    names = [layer.name for layer in ordered]
    return layer_table(columns, rows, style, names=names, hidden=between, legend=LEGEND)


LEGEND = (
    "Gradient change: relative to its size, from .01 to 10 on a log scale. depth: the layer behaves as in a "
    "network of so many layers. × theory: how many times faster the gradient changes than predicted. step/η: how far "
    "the layer moves for η = 1. cos θ: between step and negative gradient."
)


def _curve_line(values: Sequence[float | None], style: PageStyle, scale: tuple[float, float] | None = None) -> str:
    """A curve over the grid, thinned to at most `SPARKS` points."""
    step = max(1, math.ceil(len(values) / SPARKS))
    return sparkline(values[::step], log=True, scale=scale, ascii_only=style.ascii_only)


def located(eta: float | Missing, relation: str, etas: Sequence[float], upper: float | None = None) -> str:
    """A place on the grid: interpolated, between two points, or beyond an end of the grid."""
    if not isinstance(eta, Missing):
        return number(eta) if upper is None else f"{number(eta)} to {number(upper)}"
    if relation == "below-grid" and etas:
        return _SIGNS[relation] + number(etas[0] if upper is None else upper)
    if eta.code is Why.ABOVE_GRID and etas:
        return _SIGNS[relation] + number(etas[-1])
    return "none" if eta.code is Why.UNCERTIFIABLE else "—"


def _batches(result: BreakdownResult, style: PageStyle) -> list[Text]:
    """Where several batches were given, how far a step of each alone is sure."""
    if not result.batches:
        return []
    found = sorted(eta for batch in result.batches if (eta := known(batch.trust_eta)) is not None)
    without = len(result.batches) - len(found)
    words = [f"{number(found[0])} to {number(found[-1])}, median {number(median(found))}"] if found else []
    words += [f"{without} without such a step among those tried"] if without else []
    said = f"Each of {len(result.batches)} batches alone is sure in every layer to η = {'; '.join(words)}."
    return [prose(said, style)]


def _network(result: BreakdownResult, style: PageStyle) -> list[RenderableType]:
    """What else is known of the whole network: curvature, the least loss, Lemma 2 for each way to count the depth."""
    etas, depth = result.etas, result.depth
    rows = [
        (words, located(getattr(result, f"{name}_eta"), getattr(result, f"{name}_relation"), etas, upper), what)
        for name, upper, words, what in (
            ("linear_trust", None, "from curvature", "sure in every layer, by the slope at η = 0"),
            ("argmin_loss", result.argmin_loss_eta_upper, "least loss", "among the steps tried"),
        )
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
    loss = f"loss {number(result.loss)} at η = 0, then {_curve_line(result.losses, style)}"
    return [house_table(columns, rows, style), Text(loss)]


def advise(result: BreakdownResult, checkpoint: str | None, flags: str = "") -> str:
    """What to do with the answer; empty where nothing was found sure."""
    if result.direction == "random":
        return "for how far a step may go, leave --direction out."
    trust, whole = known(result.trust_eta), known(result.aggregate_trust_eta)
    way = result.direction.startswith("to:")
    if result.goes_uphill:
        stale = "do not take this step: it goes uphill. Check that the optimizer's state belongs to these weights."
        return "go no part of this way: from here it goes uphill." if way else stale
    if way:
        return "" if whole is None else f"go at most {100.0 * whole:.2g} % of the way at once, then measure again."
    if trust is None:
        last = result.etas[-1] if result.etas and result.trust_relation == "above-grid" else None
        return "" if last is None else f"let --eta reach further: --eta {last:.1g}:{100.0 * last:.1g}:17."
    if result.direction == FROMAGE.name:
        place = f"{'CKPT' if checkpoint is None else visible(checkpoint)}{visible(flags)}"
        keep = f"keep each layer's ‖ΔW‖/‖W‖ below {100.0 * trust:.2g} %. In your rate: fromage-diag suggest-lr {place}"
        look = "look between these steps first, where a layer may fail earlier: fromage-diag breakdown"
        grid = finer_grid(result)
        return keep if grid is None else f"{look} {place} --eta {grid}"
    rate = number(trust * result.step_scale)
    return f"a step at a learning rate up to {rate} helps every layer. suggest-lr tells which rate to train at."
