"""The page a person sees: a sentence, the eigenvalues, curvature in its other forms, and the quadratic model."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.sharpness.findings import WARM_UP
from fromage_cli.diagnostics.sharpness.result import QuadraticModel, SharpnessResult
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known
from fromage_cli.terminal.words import OPTIMIZER_TITLES, ascii_words, number, sparkline

ROWS = 8
"""Eigenvalues, and blocks, shown without `--all`."""
_TITLES = {
    "gauss_newton_eigenvalue": "Gauss-Newton eigenvalue",
    "critical_sharpness": "critical sharpness",
    "batch_sharpness": "batch sharpness",
    "quadratic": "quadratic model",
    "ratio": "ratio",
}
_REGIMES = {
    "lazy": "Steps along the sharpest direction shrink on it (lazy), but training may raise it.",
    "catapult": "The loss may jump and come back (a catapult), as in 381 of 384 runs studied.",
    "architecture-dependent": "Of the runs studied at such ratios some survived and some diverged.",
    "edge-of-stability": "There the loss falls over many steps, but not in each.",
}
_OUTCOMES = {
    "spikes": "At this rate the loss jumps to {highest} in the network's quadratic model and comes back{ratio}.",
    "rises": "At this rate the loss rises to {highest} in the network's quadratic model, and stays up{ratio}.",
    "diverges": "At this rate the loss diverges in the network's quadratic model{ratio}.",
}
"""Of training in the quadratic model, where it is not good."""

ADAPTIVE = [rule.name for rule in RULES.values() if rule.adaptive]


def render(result: SharpnessResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    parts: list[RenderableType] = [Text(summary(result)), Text("")]
    if len(result.eigenvalues) > 1:
        shown = result.eigenvalues if style.show_all else result.eigenvalues[:ROWS]
        ranked = [(rank, pair.value, pair.residual) for rank, pair in enumerate(shown, 1)]
        parts.append(house_table([Column("rank"), Column("eigenvalue"), Column("residual")], ranked, style))
        parts += hidden_rows(len(shown), len(result.eigenvalues))
    parts.append(_curvatures(result, style))
    if not isinstance(result.draws, Missing):
        low, high = number(result.draws.low), number(result.draws.high)
        said = f"Under {result.draws.count} other random draws the curvature in the sharpest direction is {low} to "
        parts.append(Text(f"{said}{high}. The largest of each draw is no smaller."))
    if result.layers:
        ordered = sorted(
            result.layers, key=lambda layer: math.inf if isinstance(layer.eigenvalue, Missing) else -layer.eigenvalue
        )
        blocks = ordered if style.show_all else ordered[:ROWS]
        columns = [
            Column("layer", name=True),
            Column("shape", left=True, optional=1),
            Column("eigenvalue of its block"),
        ]
        rows = [(layer.name, "×".join(map(str, layer.shape)), layer.eigenvalue) for layer in blocks]
        parts += [house_table(columns, rows, style), *(hidden_rows(len(blocks), len(ordered)) or [Text("")])]
    if not isinstance(result.quadratic, Missing):
        words = _quadratic(result.quadratic, known(result.learning_rate), style)
        parts.append(Text(ascii_words(words) if style.ascii_only else words))
    return Group(*parts, *not_known([result], _TITLES, style))


def summary(result: SharpnessResult) -> str:
    """The answer, what is known beside it, and what to do; training in the quadratic model speaks first."""
    if not result.eigenvalues:
        return "No eigenvalue was measured."
    ratio, stable = known(result.ratio), known(result.stable_learning_rate)
    bad, edge = _bad_course(result), known(result.regime) == "edge-of-stability"
    if ratio is None and bad is None:
        return _without_verdict(result, stable)
    words = [bad or _by_ratio(result, ratio or 0.0)]
    if bad is None and ratio is not None:
        reason = result.regime.words if isinstance(result.regime, Missing) else ""
        if ratio > 0.0 and not result.before_adam:
            words.append(_REGIMES.get(known(result.regime) or "", f"{reason[:1].upper()}{reason[1:]}."))
        if (first := known(result.first_step_sharpness)) is not None:
            words.append(
                f"Adam's first step moves each weight by the rate; it raises the loss from {number(2 / first)} on."
            )
    elif ratio is not None and ratio < 1.0 and not result.before_adam:
        words.append("The curvature of the sharpest direction alone, below the threshold, does not show it.")
    if result.before_adam:
        words.append(WARM_UP if bad else "A later checkpoint, with Adam's state, tells more.")
    elif ratio is None or stable is None or (bad is not None and ratio < 1.0):
        words.append("Lower the rate, or warm it up." if bad else "")
    elif edge:
        words.append(f"The ratio is 1 at a rate of {number(stable)}.")
    elif ratio < 1.0:
        words.append(f"The threshold is at a rate of {number(stable)}.")
    else:
        words.append(f"Lower the rate below {number(stable)}, or warm it up.")
    return " ".join(filter(None, words))


def _bad_course(result: SharpnessResult) -> str | None:
    """What goes wrong when the optimizer takes its steps, in the quadratic model or in the first one."""
    ratio = "" if isinstance(result.ratio, Missing) else f" (ratio {number(result.ratio)})"
    model, first = result.quadratic, known(result.first_step_ratio)
    outcome = None if isinstance(model, Missing) else known(model.outcome)
    if not isinstance(model, Missing) and outcome in _OUTCOMES:
        return _OUTCOMES[outcome].format(highest=_highest(model), ratio=ratio)
    if first is not None and first >= 1.0:
        return f"At this rate the first step raises the loss: it is {number(first)} × the smallest that does{ratio}."
    return None


def _by_ratio(result: SharpnessResult, ratio: float) -> str:
    beside = f"(ratio {number(ratio)})"
    if known(result.regime) == "edge-of-stability":
        return f"Your rate is at the edge of stability {beside}."
    if result.before_adam:
        return f"No verdict: where Adam begins, this ratio ({number(ratio)}) did not tell healthy runs from sick ones."
    if ratio <= 0.0:
        return f"Today's curvature bounds no rate: the loss curves upwards in no direction {beside}."
    if ratio < 1.0:
        return f"Your rate is stable on today's curvature: {_optimizer(result)} tolerates more {beside}."
    model = result.quadratic
    if not isinstance(model, Missing) and model.outcome == "falls":
        return f"At this rate steps along the sharpest direction grow {beside}; the quadratic model's loss still falls."
    return f"At this rate the loss will oscillate or diverge along the sharpest direction {beside}."


def _without_verdict(result: SharpnessResult, stable: float | None) -> str:
    top = result.eigenvalues[0]
    words = f"On this batch the sharpest direction has a curvature of {number(top.value)} ± {number(top.residual)}."
    if result.optimizer is None:
        return f"{words} There is no verdict without optimizer and rate: name yours, as --optimizer sgd --lr 0.1."
    if isinstance(result.learning_rate, Missing) and stable is not None:
        up_to = f"up to a rate of {number(stable)}; --lr gives yours."
        return f"{words} {_optimizer(result)} is stable on today's curvature {up_to}"
    spoilt = isinstance(result.ratio, Missing) and result.ratio.code == Why.ZERO_OR_NOT_FINITE
    if (critical := known(result.critical_sharpness)) is not None and not spoilt:
        return f"{words} {_by_one_step(result, 2.0 / critical)}"
    why = result.threshold if isinstance(result.threshold, Missing) else result.ratio
    return f"{words} There is no verdict: {why.words if isinstance(why, Missing) else 'nothing was measured'}."


def _by_one_step(result: SharpnessResult, rises: float) -> str:
    """The verdict on a rule that has no threshold: whether its next step, at the rate, lowers the loss of the batch.

    `rises`: the rate from which on it raises it.
    """
    rate, title = known(result.learning_rate), _optimizer(result)
    limit = f"No curvature bounds the rate of {title}. Its next step raises the loss from a rate of {number(rises)} on"
    if rate is None:
        return f"{limit}; for a verdict give yours: --lr RATE."
    if rate >= rises:
        return f"{limit}, and you run at {number(rate)}: lower the rate, or warm it up."
    falls = not isinstance(result.quadratic, Missing) and result.quadratic.outcome == "falls"
    further = ", and at yours the loss of the quadratic model falls as well" if falls else ""
    return f"{limit}, {number(rises / rate)} × yours{further}: your rate is stable as far as that tells."


def _highest(model: QuadraticModel) -> str:
    return number(max((loss for loss in model.losses if math.isfinite(loss)), default=math.nan))


def _optimizer(result: SharpnessResult) -> str:
    name = OPTIMIZER_TITLES.get(result.optimizer or "", "the optimizer")
    return f"{name} with momentum {number(result.momentum)}" if known(result.momentum) else name


def _curvatures(result: SharpnessResult, style: PageStyle) -> RenderableType:
    top = [_with_error(pair.value, pair.residual) for pair in result.eigenvalues[:1]]
    held = result.second_moments
    kept, cut = (not isinstance(held, Missing) and word in held for word in ("checkpoint", "gradients"))
    moments = "" if kept else ", by minibatches" if cut else ", by the gradient of all rows"
    adam = f"as Adam's step sees it{moments}"
    batches = known(result.batch_sharpness)
    rows = [
        *(("largest eigenvalue", highest, f"Hessian of the loss, {result.parameters} weights") for highest in top),
        ("Gauss-Newton", result.gauss_newton_eigenvalue, "its part from the output's curvature"),
        (
            "preconditioned",
            _with_error(result.preconditioned_eigenvalue, result.preconditioned_residual),
            adam if result.optimizer in ADAPTIVE else "as rates and decays of groups scale it",
        ),
        (
            "critical sharpness",
            _with_error(result.critical_sharpness, result.critical_sharpness_stderr),
            "2 ÷ rate whose step raises the loss",
        ),
        ("first step", result.first_step_sharpness, "the same of Adam's very first step"),
        (
            "batch sharpness",
            _with_error(batches.mean, batches.stderr) if batches else None,
            f"along gradients, {batches.batches} batches of {counted(batches.batch_size, 'row')}" if batches else "",
        ),
        ("threshold", result.threshold, f"tolerated by {_optimizer(result)}"),
        ("ratio", result.ratio, "eigenvalue ÷ threshold"),
    ]
    columns = [Column("curvature", left=True), Column("value"), Column("what it is", left=True, optional=1)]
    return house_table(columns, [row for row in rows if row[1] is not None and not isinstance(row[1], Missing)], style)


def _with_error(value: float | Missing, error: float | Missing) -> str | Missing:
    if isinstance(value, Missing):
        return value
    return number(value) if isinstance(error, Missing) else f"{number(value)} ± {number(error)}"


def _quadratic(model: QuadraticModel, rate: float | None, style: PageStyle) -> str:
    """How far the quadratic model holds, and how the loss goes when it is trained."""
    if isinstance(model.radius, Missing):
        reach = "every rate looked at" if model.radius_relation == "above-grid" else "no rate looked at"
        words = f"For the next update alone, the network follows its quadratic model at {reach}."
    else:
        times = f", {number(model.radius / rate)} × yours" if rate else ""
        upper = f"{number(model.radius)}{times}"
        words = f"For the next update alone, the network follows its quadratic model up to a rate of {upper}."
    if isinstance(model.outcome, Missing):
        return words
    steps = counted(len(model.losses) - 1, "step")
    if model.losses[0] == model.losses[-1] == 0.0:
        return f"{words} Trained in the model, the loss stays at 0."
    outcome = {
        "falls": f"falls from {number(model.losses[0])} to {number(model.losses[-1])} in {steps}",
        "spikes": f"spikes to {_highest(model)} and is back below its start after {steps}",
        "rises": f"rises to {_highest(model)} and is not back after {steps}",
        "diverges": f"grows without bound within {steps}",
    }[model.outcome]
    curve = sparkline(model.losses, log=min(model.losses) > 0.0, ascii_only=style.ascii_only)
    own = " The network itself may leave that course: many steps may raise its curvature."
    return f"{words} Trained in the model, the loss {outcome}: {curve}.{own if model.outcome == 'falls' else ''}"
