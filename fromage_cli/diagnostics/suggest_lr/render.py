"""The page a person sees: both answers in a sentence each, the estimates behind them, then groups and layers."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.missing import LIMIT_REACHED, Missing, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, sparkline

FULL = 140
"""Cells from which on the whole assumptions have room in the table."""
ROWS = 8
"""Layers shown without `--all`."""
ESTIMATES = (
    Column("estimate", left=True),
    Column("relative η"),
    Column("learning rate"),
    Column("gradients", optional=2),
    Column("rests on", left=True, optional=1),
)
NAME_IT = (
    "The table of optimizers has each one's own next update, with memory from gradients of these rows. For the rate to "
    "train at, name yours: --optimizer NAME --lr RATE."
)
ALTERNATIVES = (
    Column("optimizer", left=True),
    Column("settings", left=True),
    Column("limit"),
    Column("loss rises from"),
    Column("typical", optional=1),
)
GROUPS = (
    Column("group"),
    Column("tensors", optional=1),
    Column("learning rate"),
    Column("decay", optional=2),
    Column("limit"),
    Column("moves most", name=True),
)
VERIFICATION = (
    Column("verified at", left=True),
    Column("learning rate"),
    Column("loss before"),
    Column("after"),
    Column("±"),
    Column("each step", left=True, optional=1),
)
LAYERS = (
    Column("layer", name=True),
    Column("cos θ", optional=1),
    Column("trust η"),
    Column("‖u‖/‖W‖", optional=2),
    Column("rate at limit"),
)


def render(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    full = style.width >= FULL
    rows: list[tuple[object, ...]] = [
        (e.name, e.eta, e.learning_rate, f"{e.gradient_evaluations:.3g}", e.assumption if full else e.assumption.few)
        for e in result.estimates
    ]
    parts: list[RenderableType] = [Text(summary(result)), Text(""), house_table(ESTIMATES, rows, style)]
    if result.alternatives:
        rows = [(each.name, each.settings, each.limit, each.critical, each.typical) for each in result.alternatives]
        parts.append(house_table(ALTERNATIVES, rows, style))
    if len(groups := result.optimizer.groups) > 1:
        rows = [(g.index, g.tensors, g.learning_rate, g.weight_decay, g.limit, g.limiting_layer or "") for g in groups]
        parts.append(house_table(GROUPS, rows, style))
    if result.probe:
        parts.append(_short_runs(result, style))
    if result.verification:
        rows = [
            (
                f"{number(run.factor)} ×",
                run.learning_rate,
                run.start_loss,
                math.inf if isinstance(run.end_loss, Missing) else run.end_loss,
                run.spread if isinstance(run.spread, Missing) else run.spread / 2.0,
                sparkline(run.losses[:: max(1, len(run.losses) // 24)], log=True, ascii_only=style.ascii_only),
            )
            for run in result.verification
        ]
        parts += [house_table(VERIFICATION, rows, style), Text(verdict(result), "dim")]
    parts.append(_layers(result, style))
    if not isinstance(result.noise_scale, Missing):
        size, low, high = (
            "" if isinstance(value, Missing) else number(float(f"{value:.2g}"))
            for value in (result.noise_scale, result.noise_scale_low, result.noise_scale_high)
        )
        error = f" ({low} to {high})" if low and high else f" ({low} or more)" if low else ""
        parts.append(Text(f"noise equals signal at about {size}{error} rows a batch (noise scale)", "dim"))
    return Group(*parts)


def summary(result: SuggestedRates) -> str:
    """Both answers: how far the next step may go, and the rate to train at."""
    train_at = NAME_IT if result.optimizer.name is None else rate_to_train_at(result)
    return " ".join(filter(None, (_next_step(result), _present_rate(result), train_at)))


def _present_rate(result: SuggestedRates) -> str:
    """The present rate held against today's curvature, and how far that reaches: it promises nothing of training."""
    rate, stability = known(result.optimizer.current_learning_rate), result.stability
    stable, ratio = known(stability.learning_rate), known(stability.ratio)
    if not rate or stable is None or ratio is None:
        return f"You run at {number(rate)}." if rate else ""
    if stability.adam_begins:
        return (
            f"You run at {number(rate)}, {number(ratio)} × what today's curvature tolerates. Where Adam begins, this "
            "ratio did not tell healthy runs from sick ones."
        )
    tolerates = f"what {OPTIMIZER_TITLES[result.optimizer.name or '']} tolerates"
    grow = f"Steps along the sharpest direction grow from a rate of {number(stable)} on."
    if ratio >= 1.0:
        return f"Not stable at your rate of {number(rate)} on today's curvature, {number(ratio)} × {tolerates}. {grow}"
    share, diverged = number(float(f"{100.0 * ratio:.2g}")), stability.diverged_from
    begun = "With momentum, some networks that began at such a ratio diverged. "
    return (
        f"Stable at your rate of {number(rate)} as far as today's curvature tells ({share}% of {tolerates}). {grow} "
        f"{begun if diverged is not None and ratio >= diverged else ''}"
        "Training may raise the curvature, and minibatches add noise. "
        "The command sharpness looks further: it trains the network's quadratic model."
    )


def rate_to_train_at(result: SuggestedRates) -> str:
    """The rate, its range, what it rests on and what it costs; or why there is none and what to do."""
    found, steps = result.recommended, sum(run.steps for run in result.probe)
    low, high, regret = known(found.low), known(found.high), known(found.regret)
    runs = f"{counted(len(result.probe), 'short run')} {_along(result)}, {counted(steps, 'step')}"
    between = "" if low is None or high is None else f"between {number(low)} and {number(high)}"
    if isinstance(found.learning_rate, Missing):
        where = f" Try rates {between}." if between else ""
        return f"Rate to train at: not known here, since {found.reason}.{where}"
    if found.reliable and regret is not None:
        rate = f"Rate to train at: {number(found.learning_rate)}, {between}."
        return f"{rate} About {regret:.0%} of the progress is lost at it ({runs})."
    rate = f"Rate to train at: perhaps {number(found.learning_rate)}, {between} ({runs})."
    return f"{rate} Not sure: {found.reason}."


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
    columns = (Column("short runs at"), *(Column(f"after {steps} steps") for steps in lengths), Column("±", optional=1))
    return house_table(columns, rows, style)


def verdict(result: SuggestedRates) -> str:
    """Which of the verified rates ends lowest, over how many steps that holds, or that they end alike."""
    steps = counted(max(len(run.losses) for run in result.verification), "step")
    best = next((run for run in result.verification if run.best), None)
    if all(isinstance(run.end_loss, Missing) for run in result.verification):
        return "At all of these rates the loss becomes infinite or no number."
    if best is None and not any(known(run.spread) for run in result.verification):
        return (
            f"Over {steps} nothing tells these rates apart: every order of the batches is the same. Give five batches."
        )
    if best is None:
        return f"Over {steps} these rates end alike: another order of batches changes as much."
    return f"Over {steps} {_along(result)} {number(best.learning_rate)} ends lowest."


def _along(result: SuggestedRates) -> str:
    """How the rate goes in the runs."""
    return "at a constant rate" if result.schedule == "constant" else "with your schedule"


def _next_step(result: SuggestedRates) -> str:
    """Up to where the next update lowers the loss, at how many step sizes that was looked at, what fails first."""
    limit, name = result.limit, result.optimizer.name
    if isinstance(limit.eta, Missing) and isinstance(limit.learning_rate, Missing) and name is not None:
        sought = LIMIT_REACHED not in {each.learning_rate for each in result.estimates}
        rise = ", nor a rate from which on the loss rises" if sought else ""
        return f"No step size was found at which the loss must fall{rise}."
    if isinstance(limit.eta, Missing) and name is None:
        return "No optimizer was named. No size of a Fromage update was found at which the loss must fall."
    title = OPTIMIZER_TITLES[name] if name is not None else ""
    if limit.estimator not in ("measured", "measured-sum"):
        return (
            f"The next {title} update raises the loss from a learning rate of {number(limit.learning_rate)} on; at no "
            "smaller one must it fall."
        )
    up_to = "at least up to" if limit.relation == "above-grid" else "up to"
    average = "on average over training batches " if limit.averaged else ""
    inside = [f"relative step {number(limit.eta)}"] if known(limit.eta) and name and not RULES[name].relative else []
    inside += [f"{limit.limiting_layer} gives way first"] if limit.limiting_layer is not None else []
    said = f"lowers the loss of these rows {average}{up_to}"
    looked = f", checked at {counted(len(result.points), 'step size')}" + (f" ({'; '.join(inside)})" if inside else "")
    if name is None:
        return f"No optimizer was named. A Fromage update {said} a relative step of {number(limit.eta)}{looked}."
    return f"The next {title} update {said} a learning rate of {number(limit.learning_rate)}{looked}."


def _layers(result: SuggestedRates, style: PageStyle) -> RenderableType:
    """The layers whose gradient breaks down first; the one that limits stands at the top."""
    limiting = result.limit.limiting_layer
    farthest = max((point.eta for point in result.points), default=0.0)
    order = sorted(
        result.layers,
        key=lambda layer: (
            layer.name != limiting,
            known(layer.trust_eta) or max(known(layer.linear_trust_eta) or 0.0, farthest),
        ),
    )
    shown = result.layers if style.show_all else order[:ROWS]
    rows = []
    for layer in shown:
        stderr, linear, trust = known(layer.cosine_stderr), known(layer.linear_trust_eta), known(layer.trust_eta)
        error = "" if stderr is None else f" ± {number(float(f'{stderr:.1g}'))}"
        where: object = trust
        if trust is None and layer.trust_relation == "above-grid":  # the search ended before it
            where = f"≈ {number(linear)}" if linear is not None and linear > farthest else f"> {number(farthest)}"
        elif trust is None:
            where = "below" if layer.trust_relation == "below-grid" else "none"
        rows.append((layer.name, f"{number(layer.cosine)}{error}", where, layer.relative_step, layer.learning_rate))
    return Group(house_table(LAYERS, rows, style), *hidden_rows(len(shown), len(result.layers)))
