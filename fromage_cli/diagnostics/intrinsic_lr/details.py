"""What the page adds under `-v`: all numbers of the layers, their forecast, and theory beside the norms so far."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from fromage_cli.diagnostics.intrinsic_lr.result import DOUBT, IntrinsicResult, LayerEquilibrium
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, house_table, not_known, prose
from fromage_cli.terminal.words import number

IF_GROWING = " If growing: if their mean square grows in proportion to the steps. Most norms end between the two."
_TITLES = {
    "intrinsic_learning_rate": "λ_e",
    "effective_learning_rate": "effective rate",
    "equilibrium_norm": "equilibrium norm",
    "log_ratio": "distance from it",
    "relaxation_steps": "time to settle",
    "steps_to_equilibrium": "steps until there",
    "expected_rotation": "expected angle",
    "growth_per_step": "growth",
    "angle_per_step": "angle per step",
    "forecast": "forecast",
    "observed_rotation": "angle turned",
    "drop": "course after a drop",
}


def details(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """The tables of these layers, and why numbers of any that is trained are not known."""
    trained = [layer for layer in result.layers if not (layer.unchanged or layer.never_updated)] or result.layers
    tables = (_numbers, _forecast, _against_theory)
    return [*(part for table in tables for part in table(result, shown, style)), *not_known(trained, _TITLES, style)]


def _numbers(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """All that is known of the layers, in two tables, and what their columns are."""
    series = len(result.steps) > 1
    tables: list[dict[str, Column]] = [
        {
            "name": Column("layer", name=True),
            "shape": Column("shape", optional=2),
            "scale": Column("scale", left=True, optional=1),
            "norm": Column("‖W‖"),
            "equilibrium_norm": Column("‖W*‖"),
            "log_ratio": Column("ln ratio"),
            "relaxation_steps": Column("τ"),
            "relaxation_epochs": Column("epochs", optional=3),
        },
        {
            "name": Column("layer", name=True),
            "intrinsic_learning_rate": Column("λ_e"),
            "effective_learning_rate": Column("η_e"),
            "growth_per_step": Column("growth"),
            "angle_per_step": Column("angle"),
            "expected_rotation": Column("expected"),
            "observed_rotation": Column("turned"),
        },
    ]
    rows = [
        {
            **vars(layer),
            "shape": "×".join(map(str, layer.shape)),
            "scale": None if layer.verdict == "untested" else layer.granularity or layer.verdict,
        }
        for layer in shown
    ]
    page: list[RenderableType] = []
    every: list[str] = []
    for columns in tables:
        kept = [name for name in columns if any(not isinstance(row[name], Missing | None) for row in rows)]
        cells = [[row[name] for name in kept] for row in rows]
        page += [Text(""), house_table([columns[name] for name in kept], cells, style, [x.name for x in result.layers])]
        every += kept
    words = {
        "scale": "scale: the parts that have a scale of their own",
        "equilibrium_norm": "‖W*‖: equilibrium norm",
        "log_ratio": "ln ratio: ln (‖W‖ / ‖W*‖)",
        "relaxation_steps": "τ: steps in which a norm settles",
        "intrinsic_learning_rate": "λ_e: intrinsic learning rate, rate × weight decay × what momentum adds",
        "effective_learning_rate": "η_e: effective learning rate",
        "growth_per_step": "growth: of ln ‖W‖ a step, without equilibrium",
        "angle_per_step": "angle: radians that the next step turns the layer",
        "expected_rotation": "expected: at equilibrium, in radians a step",
    }
    if series:
        first, last = result.steps[-2:]
        place = "along the schedule" if result.changing else "at equilibrium"
        words["expected_rotation"] = f"expected: {place}, for random gradients"
        words["observed_rotation"] = f"turned: in radians, between steps {first} and {last}"
    if result.optimizer in RULES and RULES[result.optimizer].step_size == "sign" and "equilibrium_norm" in every:
        words["equilibrium_norm"] += " for Gaussian noise, which layers of sparse gradients end 10 to 30 % above"
    legend = "; ".join(words[name] for name in every if name in words)
    return [*page, prose(f"{legend}.", style, "dim")] if legend else page


def _forecast(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """Norm, effective rate and angle per step at the quarters of the run that are still ahead."""
    told = [(layer, ahead) for layer in shown if (ahead := known(layer.forecast)) is not None]
    total = result.schedule.total_steps if result.schedule is not None else None
    if not told or total is None:
        return []
    steps = told[0][1].steps
    wanted = {f"{part} %": round(total * part / 100) for part in (25, 50, 75, 100)}
    places = {"now": 0, **{name: steps.index(step) for name, step in wanted.items() if step in steps[1:]}}
    columns = [Column("to the end of the run", name=True), Column("", left=True), *map(Column, places)]
    rows: list[list[object]] = []
    for layer, ahead in told:
        for title, values in (
            ("‖W‖", ahead.norms),
            ("‖W‖ if growing", ahead.norms_if_growing),
            ("η_e", ahead.effective_learning_rates),
            ("angle", ahead.angles_per_step),
            ("angle if growing", ahead.angles_if_growing),
        ):
            if not values:
                continue
            name = f"{layer.name} ?" if layer.forecast_doubtful else layer.name
            rows.append([name if title == "‖W‖" else "", title, *(values[place] for place in places.values())])
    said = "At shares of the run. ‖W‖: norm; η_e: effective rate; angle: radians that one step turns it."
    if any(layer.forecast_doubtful for layer, _ in told):
        said += f" ?: doubtful, as it is off by more than {100.0 * DOUBT:.0f} % for the norm so far."
    if any(layer.calibrated for layer, _ in told):
        said += " Without a model, the size of gradients is read from the norms of the checkpoints."
    said += _gradients(result, any(ahead.norms_if_growing for _, ahead in told))
    return [Text(""), house_table(columns, rows, style), prose(said, style, "dim")]


def _gradients(result: IntrinsicResult, growing: bool) -> str:
    """What a forecast takes the gradients of SGD to become, and why."""
    trend = result.gradient_trend
    if isinstance(trend, Missing):
        said = f" Gradients are assumed to stay as large as now. How they change is not known: {trend.words}."
        return said + IF_GROWING if growing else ""
    ahead = "it is assumed to fall no further" if trend <= 0.0 else "this is assumed to go on"
    if trend > 1.0:
        ahead = "it is assumed to go on in proportion to the steps"
    said = f" By the norms so far, the mean square of gradients went as steps to the power {number(trend)}; {ahead}."
    return said + (IF_GROWING if growing else "") + " Where training begins to fit all its data, layers turn less."


def _against_theory(
    result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle
) -> list[RenderableType]:
    """What theory makes of the first checkpoint's norms, beside those of the last one."""
    rows = [
        (layer.name, layer.norms[0], layer.norms[-1], layer.expected_norms[-1], ratio)
        for layer in shown
        if (ratio := known(layer.norm_ratio)) is not None
    ]
    if not rows:
        return []
    first, last = result.steps[0], result.steps[-1]
    columns = [Column("norms so far", name=True), *map(Column, (f"at {first}", f"at {last}", "expected", "ratio"))]
    said = f"Expected: at step {last}, by theory from the norm at step {first}. Near 1 theory holds for this run."
    if known(result.gradient_trend) is not None:
        said += " The size of gradients is read from the norms before the last one."
    return [Text(""), house_table(columns, rows, style), prose(said, style, "dim")]
