"""The page a person sees: a sentence, the eigenvalues, curvature in its other forms, and the quadratic model."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.sharpness.result import QuadraticModel, SharpnessResult
from fromage_cli.missing import Missing, known
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
    "lazy": "below the threshold, so that steps along curvature shrink (lazy)",
    "catapult": "above the threshold, where the loss rises at first and comes back (catapult)",
    "architecture-dependent": "so far above the threshold that survival depends on the architecture",
    "divergent": "beyond what any network measured survived (divergent)",
    "edge-of-stability": "the edge of stability, usual for a trained network",
}

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
    titles = _TITLES | ({} if isinstance(result.ratio, Missing) else {"regime": "regime"})
    return Group(*parts, *not_known([result], titles, style))


def summary(result: SharpnessResult) -> str:
    """The answer in one or two sentences."""
    if not result.eigenvalues:
        return "No eigenvalue was measured."
    sharpness = (
        f"On this batch the Hessian's largest eigenvalue is {number(result.eigenvalues[0].value)} "
        f"± {number(result.eigenvalues[0].residual)}."
    )
    if isinstance(result.threshold, Missing):
        return f"{sharpness} There is no threshold to hold it against: {result.threshold.words}."
    adaptive = result.optimizer in ADAPTIVE
    preconditioned = "a preconditioned " if adaptive or known(result.preconditioned_eigenvalue) is not None else ""
    held = (
        f"{_optimizer(result)} at a rate of {number(result.learning_rate)} is stable up to "
        f"{preconditioned}{number(result.threshold)}"
    )
    if isinstance(result.ratio, Missing):
        return f"{sharpness} {held}; there is nothing to hold against it."
    regime = _REGIMES.get(
        known(result.regime) or "", "above the threshold" if result.ratio >= 1.0 else "below the threshold"
    )
    return f"{sharpness} {held}: ratio {number(result.ratio)}, {regime}."


def _optimizer(result: SharpnessResult) -> str:
    name = OPTIMIZER_TITLES.get(result.optimizer or "", "the optimizer")
    return f"{name} with momentum {number(result.momentum)}" if known(result.momentum) else name


def _curvatures(result: SharpnessResult, style: PageStyle) -> RenderableType:
    top = result.eigenvalues[0].value if result.eigenvalues else None
    batches = known(result.batch_sharpness)
    rows = [
        ("largest eigenvalue", top, f"Hessian of the loss, {result.parameters} weights"),
        ("Gauss-Newton", result.gauss_newton_eigenvalue, "its part from the output's curvature"),
        (
            "preconditioned",
            _with_error(result.preconditioned_eigenvalue, result.preconditioned_residual),
            "as Adam's step sees it" if result.optimizer in ADAPTIVE else "as rates and decays of groups scale it",
        ),
        (
            "critical sharpness",
            _with_error(result.critical_sharpness, result.critical_sharpness_stderr),
            "2 / rate whose step raises the loss",
        ),
        (
            "batch sharpness",
            _with_error(batches.mean, batches.stderr) if batches else None,
            f"along gradients, {batches.batches} batches of {counted(batches.batch_size, 'row')}" if batches else "",
        ),
        ("threshold", result.threshold, f"what {_optimizer(result)} bears"),
        ("ratio", result.ratio, "eigenvalue / threshold"),
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
        words = f"Quadratic model: along the next update it holds at {reach}"
    else:
        times = f", {number(model.radius / rate)} × this rate" if rate else ""
        words = f"Quadratic model: along the next update it holds up to a rate of {number(model.radius)}{times}"
    if isinstance(model.outcome, Missing):
        return f"{words}."
    steps = counted(len(model.losses) - 1, "step")
    highest = number(max((loss for loss in model.losses if math.isfinite(loss)), default=math.nan))
    outcome = {
        "falls": f"falls from {number(model.losses[0])} to {number(model.losses[-1])} in {steps}",
        "spikes": f"spikes to {highest} and is back below its start after {steps}",
        "rises": f"rises to {highest} and is not back after {steps}",
        "diverges": f"grows without bound within {steps}",
    }[model.outcome]
    curve = sparkline(model.losses, log=min(model.losses) > 0.0, ascii_only=style.ascii_only)
    return f"{words}; trained in it, the loss {outcome}: {curve}."
