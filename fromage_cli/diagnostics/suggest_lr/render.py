"""The page a person sees: both answers in a sentence each, the estimates behind them, then groups and layers."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.diagnostics.suggest_lr.result import LayerRate, Limit, SuggestedRates
from fromage_cli.missing import LIMIT_REACHED, Missing, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, sparkline

ROWS = 8
"""Layers shown without `--all`."""


def render(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    parts: list[RenderableType] = [Text(summary(result)), Text("")]
    parts.append(_estimates(result, style))
    if result.alternatives:
        parts.append(_alternatives(result, style))
    if len(result.optimizer.groups) > 1:
        parts.append(_groups(result, style))
    if result.verification:
        parts.append(_verification(result, style))
    parts.append(_layers(result, style))
    if result.noise_scale is not None:
        parts.append(Text(f"noise equals signal at about {_noise_scale(result)} rows a batch (noise scale)", "dim"))
    return Group(*parts)


def _noise_scale(result: SuggestedRates) -> str:
    """The noise scale with its range of one standard error."""
    size, low, high = (
        number(float(f"{value:.2g}")) if value is not None else ""
        for value in (result.noise_scale, result.noise_scale_low, result.noise_scale_high)
    )
    return f"{size} ({low} to {high})" if low and high else f"{size} ({low} or more)" if low else size


def summary(result: SuggestedRates) -> str:
    """Both answers."""
    return f"{_limit(result)}{_present(result)} {_recommended(result)}"


def _limit(result: SuggestedRates) -> str:
    limit, name = result.limit, result.optimizer.name
    if isinstance(limit.eta, Missing):
        sought = name is not None and LIMIT_REACHED not in {each.learning_rate for each in result.estimates}
        rise = ", nor a rate from which on the loss rises" if sought else ""
        return f"No step was found that is certain to descend{rise}."
    if name is None:
        return (
            f"The next {_certain(result)} a relative step of {number(limit.eta)}{_limited(limit)}; which "
            "learning rate that is depends on the optimizer, which is not known."
        )
    relative = f"relative step {number(limit.eta)}" if not RULES[name].relative else ""
    sums = (known(each.learning_rate) for each in result.estimates if each.name == "measured-sum")
    whole = next(sums, None) if limit.estimator == "measured" else None
    further = f", and on the whole up to {number(whole)}" if whole is not None else ""
    rate, title = f"a learning rate of {number(limit.learning_rate)}", OPTIMIZER_TITLES[name]
    if limit.estimator not in ("measured", "measured-sum"):
        return f"The next {title} update raises the loss from {rate} on; nothing smaller is certain to descend."
    return f"The next {title} {_certain(result)} {rate}{_limited(limit, relative)}{further}."


def _certain(result: SuggestedRates) -> str:
    alone = f"in all layers but {len(result.uncertain)}" if result.uncertain else "in every layer"
    where = alone if result.limit.criterion == "layers" else "on the whole"
    up_to = "as far as was looked, to" if result.limit.relation == "above-grid" else "up to"
    mean = ", averaged over training batches," if result.limit.averaged else ""
    return f"update{mean} is certain to descend on these rows {where} {up_to}"


def _limited(limit: Limit, relative: str = "") -> str:
    """The relative step and the layer, in brackets."""
    layer = f"{limit.limiting_layer} limits it" if limit.limiting_layer is not None else ""
    inside = "; ".join(text for text in (relative, layer) if text)
    return f" ({inside})" if inside else ""


def _present(result: SuggestedRates) -> str:
    rate, ratio = result.optimizer.current_learning_rate, result.optimizer.current_ratio
    if rate is None or ratio is None:
        return ""
    return f" You run at {number(rate)}, {number(ratio)} × the limit."


def _recommended(result: SuggestedRates) -> str:
    found = result.recommended
    if result.optimizer.name is None:
        return "--optimizer names it."
    if isinstance(found.learning_rate, Missing):
        return f"No rate to train at can be given: {found.reason}."
    if found.reliable:
        between = f", between {number(found.low)} and {number(found.high)}"
        return f"To train at, another question: {number(found.learning_rate)}{between} ({found.reason})."
    return (
        f"To train at, another question: {number(found.learning_rate)}, typical and not measured here: {found.reason}."
    )


def _estimates(result: SuggestedRates, style: PageStyle) -> RenderableType:
    rows = [
        (
            each.name,
            each.eta,
            each.learning_rate,
            f"{each.gradient_evaluations:.3g}",
            each.assumption if style.width >= _FULL else each.assumption.few,
        )
        for each in result.estimates
    ]
    columns = [
        Column("estimate", left=True),
        Column("relative η"),
        Column("learning rate"),
        Column("gradients", optional=2),
        Column("rests on", left=True, optional=1),
    ]
    return house_table(columns, rows, style)


_FULL = 140
"""Cells from which on the assumptions have room in the table."""


def _alternatives(result: SuggestedRates, style: PageStyle) -> RenderableType:
    rows = [(each.name, each.limit, each.critical, each.typical) for each in result.alternatives]
    columns = [Column("optimizer", left=True), Column("limit"), Column("loss rises from"), Column("typical")]
    return house_table(columns, rows, style)


def _groups(result: SuggestedRates, style: PageStyle) -> RenderableType:
    rows = [
        (each.index, each.tensors, each.learning_rate, each.weight_decay, each.limit, each.limiting_layer or "")
        for each in result.optimizer.groups
    ]
    columns = [
        Column("group"),
        Column("tensors", optional=1),
        Column("learning rate"),
        Column("decay", optional=2),
        Column("limit"),
        Column("moves most", name=True),
    ]
    return house_table(columns, rows, style)


def _verification(result: SuggestedRates, style: PageStyle) -> RenderableType:
    rows = [
        (
            f"{number(run.factor)} ×",
            run.learning_rate,
            run.start_loss,
            run.end_loss if run.end_loss is not None else math.inf,
            sparkline(run.losses[:: max(1, len(run.losses) // 24)], log=True, ascii_only=style.ascii_only),
        )
        for run in result.verification
    ]
    columns = [
        Column("verified", left=True),
        Column("learning rate"),
        Column("loss before"),
        Column("after"),
        Column("steps", left=True, optional=1),
    ]
    return house_table(columns, rows, style)


def _layers(result: SuggestedRates, style: PageStyle) -> RenderableType:
    limiting = result.limit.limiting_layer
    farthest = max((point.eta for point in result.points), default=0.0)
    order = sorted(
        result.layers,
        key=lambda layer: (layer.name != limiting, layer.trust_eta or max(layer.linear_trust_eta or 0.0, farthest)),
    )
    shown = result.layers if style.show_all else order[:ROWS]
    rows = [
        (
            layer.name,
            _with_error(layer.cosine, layer.cosine_stderr),
            layer.trust_eta if layer.trust_eta is not None else _unseen(layer, farthest),
            layer.relative_step,
            layer.learning_rate,
        )
        for layer in shown
    ]
    columns = [
        Column("layer", name=True),
        Column("cos θ", optional=1),
        Column("trust η"),
        Column("‖u‖/‖W‖", optional=2),
        Column("rate at limit"),
    ]
    return Group(house_table(columns, rows, style), *hidden_rows(len(shown), len(result.layers)))


def _with_error(value: float | None, error: float | None) -> str:
    return number(value) if error is None else f"{number(value)} ± {number(float(f'{error:.1g}'))}"


def _unseen(layer: LayerRate, farthest: float) -> str:
    """Words for a layer whose place the search did not meet: where a straight line would have it, or beyond what."""
    if layer.trust_relation != "above-grid":
        return "below" if layer.trust_relation == "below-grid" else "none"
    linear = layer.linear_trust_eta
    return f"≈ {number(linear)}" if linear is not None and linear > farthest else f"> {number(farthest)}"
