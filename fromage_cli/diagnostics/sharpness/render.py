"""The page a person sees: a sentence, the eigenvalues, then curvature in its other forms beside the threshold."""

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import number

ROWS = 8
"""Eigenvalues shown without `--all`."""
_REGIMES = {
    "lazy": "below the threshold, so that steps along curvature shrink (lazy)",
    "catapult": "above the threshold, where the loss rises at first and comes back (catapult)",
    "architecture-dependent": "so far above the threshold that survival depends on the architecture",
    "divergent": "beyond what any network measured survived (divergent)",
    "edge-of-stability": "the edge of stability, usual for a trained network",
}


def render(result: SharpnessResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    return Group(
        Text(summary(result)), Text(""), _eigenvalues(result, style), _curvatures(result, style), _absent(result)
    )


def summary(result: SharpnessResult) -> str:
    """The answer in one or two sentences."""
    if not result.eigenvalues:
        return "No eigenvalue was measured."
    sharpness = (
        f"On this batch the Hessian's largest eigenvalue is {number(result.eigenvalues[0].value)} "
        f"± {number(result.eigenvalues[0].residual)}."
    )
    if result.threshold is None or result.learning_rate is None:
        missing = next((absent.reason for absent in result.absent if absent.name == "threshold"), "it is not known")
        return f"{sharpness} There is no threshold to hold it against: {missing}."
    preconditioned = "a preconditioned " if result.optimizer in ("adam", "adamw") else ""
    held = (
        f"{_optimizer(result)} at a rate of {number(result.learning_rate)} is stable up to "
        f"{preconditioned}{number(result.threshold)}"
    )
    if result.ratio is None:
        return f"{sharpness} {held}; there is nothing to hold against it."
    regime = _REGIMES.get(result.regime or "", "above the threshold" if result.ratio >= 1.0 else "below the threshold")
    return f"{sharpness} {held}: ratio {number(result.ratio)}, {regime}."


def _optimizer(result: SharpnessResult) -> str:
    names = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
    name = names.get(result.optimizer or "", "the optimizer")
    return f"{name} with momentum {number(result.momentum)}" if result.momentum else name


def _eigenvalues(result: SharpnessResult, style: PageStyle) -> RenderableType:
    """A table where there are several."""
    if len(result.eigenvalues) < 2:
        return Group()
    shown = result.eigenvalues if style.show_all else result.eigenvalues[:ROWS]
    rows = [(rank, pair.value, pair.residual) for rank, pair in enumerate(shown, 1)]
    columns = [Column("rank"), Column("eigenvalue"), Column("residual")]
    hidden = [hidden_rows(len(shown), len(result.eigenvalues))] if len(shown) < len(result.eigenvalues) else []
    return Group(house_table(columns, rows, style), *hidden)


def _curvatures(result: SharpnessResult, style: PageStyle) -> RenderableType:
    top = result.eigenvalues[0].value if result.eigenvalues else None
    batches = result.batch_sharpness
    rows = [
        ("largest eigenvalue", top, f"Hessian of the loss, {result.parameters} weights"),
        ("Gauss-Newton", result.gauss_newton_eigenvalue, "its part from the output's curvature"),
        ("preconditioned", result.preconditioned_eigenvalue, "as Adam's step sees it"),
        ("critical sharpness", result.critical_sharpness, "2 / rate whose step raises the loss"),
        (
            "batch sharpness",
            f"{number(batches.mean)} ± {number(batches.stderr)}" if batches else None,
            f"along gradients, {batches.batches} batches of {batches.batch_size} rows" if batches else "",
        ),
        ("threshold", result.threshold, f"what {_optimizer(result)} bears"),
        ("ratio", result.ratio, "eigenvalue / threshold"),
    ]
    columns = [Column("curvature", left=True), Column("value"), Column("what it is", left=True, optional=1)]
    return house_table(columns, [row for row in rows if row[1] is not None], style)


def _absent(result: SharpnessResult) -> RenderableType:
    """What could not be measured, in one line each."""
    names = ("gauss_newton_eigenvalue", "critical_sharpness", "batch_sharpness", "ratio", "regime")
    lines = [
        f"no {absent.name.replace('_', ' ')}: {absent.reason}"
        for absent in result.absent
        if absent.name in names and not (absent.name == "regime" and result.ratio is None)
    ]
    return Text("\n".join(lines), style="dim") if lines else Group()
