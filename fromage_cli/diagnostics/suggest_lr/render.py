"""The page a person sees: the answer in numbers, a ruler, then parameter groups or layers, and what to do."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.facts import band, fails_first, marks, next_step, runs_made, stability, training
from fromage_cli.diagnostics.suggest_lr.findings import TWO_ANSWERS, estimate, verified_best, what_to_try
from fromage_cli.diagnostics.suggest_lr.result import NO_LAYER_MOVES, LayerRate, SuggestedRates
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import facts, layer_table, ruler, shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, sparkline

SPARKS = 24
"""Characters of a sparkline at most."""
TITLES = {
    "lemma2-count": "theory (Lemma 2)",
    "lemma2-path": "theory, longest path",
    "lemma2-effective": "theory, branches weighed",
    "measured": "sure in every layer",
    "measured-sum": "sure as a whole",
    "critical": "loss rises",
    "critical-independent": "loss of other rows rises",
    "sharpness": "stable by curvature",
    "probe": "rate to train at",
    "probe-init": "rate to train at",
    "typical": "typical for new weights",
}
"""What the estimates are called on the page."""
ESTIMATES = (
    Column("estimate", left=True),
    Column("rate"),
    Column("η"),
    Column("cost", optional=2),
    Column("how", left=True, optional=1),
)
ALTERNATIVES = (
    Column("optimizer", left=True),
    Column("settings", left=True, optional=2),
    Column("sure as a whole"),
    Column("loss rises"),
    Column("typical", optional=1),
)
GROUPS = (
    Column("group"),
    Column("tensors", optional=1),
    Column("decay", optional=2),
    Column("your rate"),
    Column("sure as a whole"),
    Column("moves most", name=True),
)
VERIFICATION = (
    Column("verified rate"),
    Column("loss at start"),
    Column("at end"),
    Column("± by order"),
    Column("each step", left=True, optional=1),
)


def render(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    if result.optimizer.name is None:
        rows = [(each.name, each.settings, each.limit, each.critical, each.typical) for each in result.alternatives]
        said = "A learning rate needs an optimizer, and none is known. The next step of each one from here:"
        page: list[RenderableType] = [prose(said, style), Text(""), house_table(ALTERNATIVES, rows, style)]
    else:
        names = [layer.name for layer in result.layers]
        step, rate = [*next_step(result)], [*training(result, style), *stability(result, style)]
        page = [
            *(prose(sentence, style) for sentence in sentences(result)),
            facts(step, style, names, beside=rate),
            prose(f"For training{runs_made(result)}:", style),
            facts(rate, style, beside=step),
            *ruler("rate", marks(result), style, band(result)),
            *_parts(result, style),
        ]
    return Group(*page, *(_more(result, style) if style.verbose else []))


def sentences(result: SuggestedRates) -> list[str]:
    """What stands before the numbers: whose step it is, and what is unusual about it."""
    title, size = OPTIMIZER_TITLES[result.optimizer.name or ""], result.optimizer.train_batch_size
    built = ", with momentum built up" if result.optimizer.filled else ""
    tried = f" ({counted(len(result.points), 'step')} tried)" if result.points else ""
    mean = f"“Sure” is said of the mean step over batches of {counted(size, 'row')}, not of each."
    said = [f"One step from here, as a learning rate of {title}{built}{tried}:"]
    return [*([mean] if result.limit.averaged else []), *said]


def _parts(result: SuggestedRates, style: PageStyle) -> list[RenderableType]:
    """Parameter groups, or layers where one group has all; beside short runs only groups of different rates."""
    groups, layers = result.optimizer.groups, counted(len(result.layers), "layer")
    several, whole = len(groups) > 1, style.verbose or style.show_all
    if result.probe and not whole and len({known(group.learning_rate) for group in groups}) < 2:
        parts = f"{layers} and {counted(len(groups), 'parameter group')}" if several else layers
        return [Text(f"how far each helps, of {parts}: --all", "dim")]
    tables = [
        *([_groups(result, style)] if several else []),
        *([_layers(result, style)] if whole or not several else []),
    ]
    return [part for table in tables for part in (Text(""), table)]


def _groups(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The parameter groups of the optimizer, those that allow the least first."""
    groups = sorted(result.optimizer.groups, key=lambda group: known(group.limit) or math.inf)
    shown = shown_rows(groups, style)
    rows = [
        (
            str(group.index),
            group.tensors,
            group.weight_decay,
            group.learning_rate,
            "no own limit" if group.limit == NO_LAYER_MOVES else group.limit,
            group.limiting_layer or "",
        )
        for group in shown
    ]
    return Group(house_table(GROUPS, rows, style), *hidden_rows(len(shown), len(groups)))


def _layers(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The layers by how far they help, the one that fails first at the top."""
    scale = max((step for layer in result.layers if (step := known(layer.relative_step)) is not None), default=1.0)
    farthest = max((point.eta for point in result.points), default=0.0)

    def end(layer: LayerRate) -> float:
        if isinstance(layer.trust_eta, Missing) and layer.trust_relation == "above-grid":
            return max(known(layer.linear_trust_eta) or 0.0, farthest)
        return known(layer.trust_eta) or (0.0 if layer.trust_relation == "below-grid" else math.inf)

    def told(layer: LayerRate) -> str:
        if known(layer.trust_eta) is not None:
            return number(end(layer) / scale)
        if layer.trust_relation == "above-grid":
            return f"{'≈' if end(layer) > farthest else '>'} {number(end(layer) / scale)}"
        return "none tried" if layer.trust_relation == "below-grid" else "none alone"

    first, ordered = fails_first(result), sorted(result.layers, key=end)
    shown = shown_rows(ordered, style)
    more = (Column("cos θ", optional=1), Column("relative step", optional=2), Column("own rate"))
    columns = [Column("layer", name=True), Column("helps up to a rate of"), *(more if style.verbose else ())]
    rows = []
    for layer in shown:
        error = known(layer.cosine_stderr)
        cosine = number(layer.cosine) + ("" if error is None else f" ± {number(float(f'{error:.1g}'))}")
        own = (cosine, layer.relative_step, layer.learning_rate) if style.verbose else ()
        rows.append((Text(layer.name, "yellow" if layer.name == first else ""), told(layer), *own))
    hidden = [end(layer) for layer in ordered if layer not in shown and 0.0 < end(layer) < math.inf]
    between = f"to {number(min(hidden) / scale)} or further" if hidden else ""
    names = [layer.name for layer in ordered]
    return layer_table(columns, rows, style, names=names, hidden=between, legend=LEGEND)


LEGEND = (
    "cos θ: between step and descent, less what is noise. ≈: from curvature, beyond the steps tried. relative step: "
    "‖ΔW‖/‖W‖ per unit of rate. own rate: where this layer moves as far as the fastest one does at the largest "
    "rate sure as a whole."
)
COSTS = "η: relative step of the fastest layer. cost: gradients of all rows, with those that estimates share."


def _more(result: SuggestedRates, style: PageStyle) -> list[RenderableType]:
    """What only some readers want: every estimate with its cost, the short runs, those that verify, the noise."""
    rows: list[tuple[object, ...]] = [
        (TITLES[e.name], e.learning_rate, e.eta, f"{e.gradient_evaluations:.3g}", e.assumption.few)
        for e in result.estimates
    ]
    parts: list[RenderableType] = [Text(""), house_table(ESTIMATES, rows, style), prose(COSTS, style, "dim")]
    if result.probe:
        parts += [Text(""), _short_runs(result, style)]
    if result.verification:
        rows = [
            (
                run.learning_rate,
                run.start_loss,
                math.inf if isinstance(run.end_loss, Missing) else run.end_loss,
                run.spread if isinstance(run.spread, Missing) else run.spread / 2.0,
                sparkline(run.losses[:: max(1, len(run.losses) // SPARKS)], log=True, ascii_only=style.ascii_only),
            )
            for run in result.verification
        ]
        parts += [Text(""), house_table(VERIFICATION, rows, style)]
    if not isinstance(result.noise_scale, Missing):
        size, low, high = (
            "" if isinstance(value, Missing) else number(float(f"{value:.2g}"))
            for value in (result.noise_scale, result.noise_scale_low, result.noise_scale_high)
        )
        error = f" ({low} to {high})" if low and high else f" ({low} or more)" if low else ""
        words = f"Gradient noise scale: {size}{error} rows; a smaller batch is mostly noise."
        parts.append(prose(words, style))
    return parts


def _short_runs(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The loss after the runs of each length at each rate, the mean over seeds, and how far the longest are apart."""
    lengths = sorted({run.steps for run in result.probe})
    rows = []
    for rate in sorted({run.learning_rate for run in result.probe}):
        row: list[object] = [rate]
        apart = None
        for steps in lengths:
            losses = [run.loss for run in result.probe if (run.learning_rate, run.steps) == (rate, steps)]
            row.append(math.fsum(losses) / len(losses) if losses else None)
            if len(losses) > 1 and all(map(math.isfinite, losses)):
                apart = (max(losses) - min(losses)) / 2.0
        rows.append((*row, apart))
    said = "Losses are of rows that no run saw. ±: half of how far two runs of other weights and order are apart."
    best = min(result.probe, key=lambda run: run.loss).learning_rate
    recommended = known(result.recommended.learning_rate)
    if recommended is not None and recommended < best:
        said += (
            f" Short runs favour higher rates than long ones: their best is {number(best)}, the rate to train at lower."
        )
    columns = (
        Column("short runs at rate"),
        *(Column(f"loss after {steps} steps") for steps in lengths),
        Column("±", optional=1),
    )
    return Group(house_table(columns, rows, style), prose(said, style, "dim"))


def advise(result: SuggestedRates) -> str:
    """What to do with the answer."""
    if result.optimizer.name is None:
        return "Name your optimizer: add --optimizer adamw --lr 0.001, or yours, to this command."
    found, present = result.recommended, known(result.optimizer.current_learning_rate)
    rate, low, high = (known(each) for each in (found.learning_rate, found.low, found.high))
    best, rises = verified_best(result), estimate(result, "critical")
    if best is not None and best.factor != 1.0:
        return (
            f"Train at {number(best.learning_rate)}, which ended lowest of the rates that were verified. {TWO_ANSWERS}"
        )
    if not found.reliable or rate is None or low is None or high is None:
        return f"{what_to_try(result)} {TWO_ANSWERS}"
    warm = f" Warm up from below {number(rises)}, where one step raises the loss." if rises and rate > rises else ""
    if present is not None and low <= present <= high:
        within = f"Your {number(present)} is within the range ({number(low)} to {number(high)})"
        return f"{within}: no reason to change it.{warm} {TWO_ANSWERS}"
    return f"Train at {number(rate)}.{warm} {TWO_ANSWERS}"
