"""The page a person sees: the verdict, the numbers behind it on a ruler, and under -v curvature in other forms."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.sharpness.conclusion import (
    REGIMES,
    course,
    optimizer_at_rate,
    optimizer_title,
    situation,
    verdict,
)
from fromage_cli.diagnostics.sharpness.result import LayerBlock, QuadraticModel, SharpnessResult
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Fact, Mark, facts, ruler, shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import number, sparkline

_TITLES = {
    "gauss_newton_eigenvalue": "Gauss-Newton eigenvalue",
    "critical_sharpness": "critical sharpness",
    "batch_sharpness": "batch sharpness",
    "quadratic": "quadratic model",
    "ratio": "ratio",
    "regime": "regime",
}


def render(result: SharpnessResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    first, *more = verdict(result)
    page: list[RenderableType] = [prose(first, style, "yellow" if _is_unstable(result) else "")]
    page += [prose(sentence, style) for sentence in more]
    if found := [*_facts(result, style)]:
        page += [Text(""), facts(found, style)]
    marks = _marks(result, style)
    page += ruler("rate", marks, style) if len(marks) > 1 else []
    if len(result.eigenvalues) > 1:
        ranked = [(rank, pair.value, pair.residual) for rank, pair in enumerate(result.eigenvalues, 1)]
        shown = shown_rows(ranked, style)
        page.append(Text(""))
        page.append(house_table([Column("rank"), Column("eigenvalue"), Column("±")], shown, style))
        page += hidden_rows(len(shown), len(ranked))
    page += _blocks(result.layers, style) if result.layers else []
    if style.verbose:
        page += [Text(""), _curvatures(result, style)]
        page += [] if isinstance(result.quadratic, Missing) else [_quadratic(result.quadratic, result, style)]
        page += not_known([result], _TITLES, style)
    return Group(*page)


def _is_unstable(result: SharpnessResult) -> bool:
    return situation(result) in ("grows", "bad-course")


def _facts(result: SharpnessResult, style: PageStyle) -> Iterator[Fact]:
    """The sharpness, what the optimizer tolerates, and up to which rate that is stable.

    Where one step raises the loss is a second answer, which stands beside the first under `-v` alone.
    """
    if not result.eigenvalues:
        return
    ratio, stable, tolerated = known(result.ratio), known(result.stable_learning_rate), known(result.threshold)
    seen = "" if known(result.preconditioned_eigenvalue) is None else f", as {optimizer_title(result)} scales it"
    alone = "; alone it gives no verdict" if ratio is None else ""
    yield Fact("Sharpness", number(_sharpness(result)), f"largest curvature on these rows{seen}{alone}")
    if not isinstance(result.draws, Missing):
        low, high = number(result.draws.low), number(result.draws.high)
        yield Fact("", f"{low} to {high}", f"at least, under {result.draws.count} other random draws")
    if tolerated is not None:
        momentum = known(result.momentum)
        said = "" if momentum is None else f", momentum {number(momentum)}" if momentum else ", without momentum"
        yield Fact("Tolerated", number(tolerated), f"by {optimizer_at_rate(result)}{said}")
    if ratio is not None:
        usual = "sharpness ÷ tolerated: stable below 1"
        words = REGIMES.get(known(result.regime) or "", usual)
        if result.before_adam:
            words = f"{'without a state of Adam' if result.adam_unsaved else 'where Adam begins'} it tells little"
        yield Fact("Ratio", number(ratio), words)
    if stable is not None:
        if _curvature_decides(result):
            below = "" if situation(result) == "edge" else "train below this rate: "
            if below and result.lowest_learning_rate is not None:
                below = "keep the highest rate below: "
            yield Fact("Stable up to", number(stable), f"{below}there the ratio is 1")
        else:
            yield Fact("Ratio 1 at", number(stable), "the learning rate at which the ratio is 1")
    if (rises := _rises(result, style)) is not None:
        yield Fact("Loss rises", number(rises), "in one step from this rate on; later steps may undo it")
    if (first := known(result.first_step_sharpness)) is not None:
        yield Fact("", number(2.0 / first), "from this learning rate on, after Adam's first step")
    model = result.quadratic
    if not isinstance(model, Missing) and (words := course(model)) and (style.verbose or model.outcome != "falls"):
        steps = counted(len(model.losses) - 1, "step")
        yield Fact("Simulated", steps, f"as if outputs were quadratic in the weights: the loss {words}")


def _curvature_decides(result: SharpnessResult) -> bool:
    """Whether rates below the one of ratio 1 may be called stable: no simulated or first step speaks against them."""
    below = (known(result.ratio) or 0.0) < 1.0
    return not result.before_adam and not (below and situation(result) == "bad-course")


def _rises(result: SharpnessResult, style: PageStyle) -> float | None:
    """The rate from which on one step raises the loss, where curvature alone does not answer or that step does."""
    critical, rate = known(result.critical_sharpness), known(result.learning_rate)
    if critical is None:
        return None
    answered = known(result.stable_learning_rate) is not None and _curvature_decides(result)
    raised = rate is not None and rate * critical >= 2.0
    return 2.0 / critical if style.verbose or raised or not answered else None


def _sharpness(result: SharpnessResult) -> float:
    """The curvature that the optimizer's threshold is held against; the plain one where it has none."""
    ratio, tolerated = known(result.ratio), known(result.threshold)
    return result.eigenvalues[0].value if ratio is None or tolerated is None else ratio * tolerated


def _marks(result: SharpnessResult, style: PageStyle) -> list[Mark]:
    """The same rates on the ruler, with the user's own."""
    places = [
        (known(result.learning_rate), "▼", "you", "yellow" if _is_unstable(result) else ""),
        (
            known(result.stable_learning_rate),
            "●",
            "stable up to here" if _curvature_decides(result) else "ratio 1",
            "green",
        ),
        (_rises(result, style), "▲", "loss rises", "red"),
    ]
    return [Mark(value, sign, words, colour) for value, sign, words, colour in places if value is not None]


def _blocks(layers: Sequence[LayerBlock], style: PageStyle) -> list[RenderableType]:
    """Each layer's own curvature, the sharpest first."""
    ordered = sorted(layers, key=lambda layer: math.inf if isinstance(layer.eigenvalue, Missing) else -layer.eigenvalue)
    shown = shown_rows(ordered, style)
    columns = [Column("layer", name=True), Column("shape", left=True, optional=1), Column("own sharpness")]
    rows = [(layer.name, "×".join(map(str, layer.shape)), layer.eigenvalue) for layer in shown]
    table = house_table(columns, rows, style, [layer.name for layer in ordered])
    rest = next((known(layer.eigenvalue) for layer in ordered[len(shown) :]), None)
    return [Text(""), table, *hidden_rows(len(shown), len(ordered), "" if rest is None else f"{number(rest)} or less")]


def _curvatures(result: SharpnessResult, style: PageStyle) -> RenderableType:
    """Every curvature that was measured, with its error."""
    top = [_with_error(pair.value, pair.residual) for pair in result.eigenvalues[:1]]
    held = result.second_moments
    kept, cut = (not isinstance(held, Missing) and word in held for word in ("checkpoint", "gradients"))
    moments = "" if kept else ", by minibatches" if cut else ", by the gradient of all rows"
    adaptive = result.optimizer in [rule.name for rule in RULES.values() if rule.adaptive]
    batches = known(result.batch_sharpness)
    rows = [
        *(("largest eigenvalue", highest, f"Hessian of the loss, {result.parameters} weights") for highest in top),
        ("Gauss-Newton", result.gauss_newton_eigenvalue, "its part from the output's curvature"),
        (
            "preconditioned",
            _with_error(result.preconditioned_eigenvalue, result.preconditioned_residual),
            f"as Adam's step scales it{moments}" if adaptive else "as rates and decays of groups scale it",
        ),
        (
            "critical sharpness",
            _with_error(result.critical_sharpness, result.critical_sharpness_stderr),
            "2 ÷ smallest rate that raises the loss",
        ),
        ("first step", result.first_step_sharpness, "the same for Adam's very first step"),
        (
            "batch sharpness",
            _with_error(batches.mean, batches.stderr) if batches else None,
            f"along gradients, {batches.batches} batches of {counted(batches.batch_size, 'row')}" if batches else "",
        ),
    ]
    columns = [Column("curvature", left=True), Column("value"), Column("what it is", left=True, optional=1)]
    return house_table(columns, [row for row in rows if row[1] is not None and not isinstance(row[1], Missing)], style)


def _with_error(value: float | Missing, error: float | Missing) -> str | Missing:
    if isinstance(value, Missing):
        return value
    return number(value) if isinstance(error, Missing) else f"{number(value)} ± {number(error)}"


def _quadratic(model: QuadraticModel, result: SharpnessResult, style: PageStyle) -> Text:
    """How far the quadratic model holds, and the course of the loss when it is trained."""
    rate = known(result.learning_rate)
    if isinstance(model.radius, Missing):
        reach = "at every rate tried" if model.radius_relation == "above-grid" else "at no rate tried"
    else:
        times = f", {number(model.radius / rate)} × yours" if rate else ""
        reach = f"up to a rate of {number(model.radius)}{times}"
    words = f"For one step a quadratic model of the network is accurate {reach}."
    if isinstance(model.outcome, Missing):
        return prose(words, style)
    curve = sparkline(model.losses, log=min(model.losses) > 0.0, ascii_only=style.ascii_only)
    own = " The network itself may leave that course: many steps may raise its curvature."
    return prose(f"{words} Its loss in training: {curve}.{own if model.outcome == 'falls' else ''}", style)


def headline(result: SharpnessResult) -> Table:
    """The numbers that the page begins with."""
    critical, model = known(result.critical_sharpness), result.quadratic
    own: Mapping[str, object] = {} if isinstance(model, Missing) else {"outcome": model.outcome, "radius": model.radius}
    return summary(
        [
            ("ratio", result.ratio, "sharpness / tolerated"),
            ("regime", result.regime, "word"),
            ("stable_learning_rate", result.stable_learning_rate, "learning rate"),
            ("learning_rate", result.learning_rate, "learning rate"),
            ("sharpness", result.eigenvalues[0].value if result.eigenvalues else None, "curvature"),
            ("preconditioned_sharpness", result.preconditioned_eigenvalue, "curvature"),
            ("tolerated", result.threshold, "curvature"),
            ("loss_rises", None if critical is None else 2.0 / critical, "learning rate"),
            ("quadratic_model", own.get("outcome"), "word"),
            ("quadratic_model_holds_to", own.get("radius"), "learning rate"),
            ("optimizer", result.optimizer, "name"),
            ("loss", result.loss, "loss"),
        ]
    )
