"""The page a person sees: a sentence, the layers that are furthest from equilibrium first, what a drop would do."""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.intrinsic_lr.findings import HOW_TO_TEST, untested_layers
from fromage_cli.diagnostics.intrinsic_lr.result import DOUBT, IntrinsicResult, LayerEquilibrium
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, sparkline

ROWS = 12
"""Layers shown without `--all`."""
GROWING = " If growing: their mean square grows as the steps do. Most norms end between the two."
_TITLES = {
    "intrinsic_learning_rate": "λ_e",
    "effective_learning_rate": "effective rate",
    "equilibrium_norm": "equilibrium norm",
    "log_ratio": "distance from it",
    "relaxation_steps": "relaxation",
    "steps_to_equilibrium": "steps until there",
    "expected_rotation": "expected rotation",
    "growth_per_step": "growth",
    "angle_per_step": "angle per step",
    "forecast": "forecast",
    "observed_rotation": "observed rotation",
    "drop": "course after a drop",
}


def render(result: IntrinsicResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""

    def nearness(layer: LayerEquilibrium) -> float:
        return math.inf if isinstance(layer.log_ratio, Missing) else -abs(layer.log_ratio)

    trained = [layer for layer in result.layers if not (layer.unchanged or layer.never_updated)] or result.layers
    shown = trained if style.show_all else sorted(trained, key=nearness)[:ROWS]
    return Group(
        prose(summary(result), style),
        *_layers(result, shown, len(trained), style),
        *_forecast(result, shown, style),
        *_against_theory(result, shown, style),
        *_after_drop(result, shown, style),
        *not_known(trained, _TITLES, style),
    )


def summary(result: IntrinsicResult) -> str:
    """The answer in a few sentences."""
    rule = OPTIMIZER_TITLES.get(result.optimizer, result.optimizer)
    momentum = f" with momentum {number(result.momentum)}" if result.momentum else ""
    decay = f", decay {result.decay}" if result.decay is not None else ""
    said = [f"{rule}{momentum}{decay}, {counted(len(result.layers), 'layer')}."]
    times = _known(layer.relaxation_steps for layer in result.layers)
    said += _schedule(result)
    if result.changing:
        said.append("Equilibrium norms hold for a constant rate, and are left out.")
    elif times:
        epochs = _known(layer.relaxation_epochs for layer in result.layers)
        in_epochs = f" ({number(median(epochs))} epochs)" if epochs else ""
        said.append(f"Norms relax in {counted(round(median(times)), 'step')}{in_epochs}.")
    ratios = _known(layer.log_ratio for layer in result.layers)
    if ratios:
        there = sum(math.log(0.9) <= ratio <= math.log(1.1) for ratio in ratios)
        ends = " to ".join(
            f"{number(math.exp(abs(end)))} × {'above' if end > 0.0 else 'below'}"
            for end in (min(ratios), max(ratios))[: len(ratios)]
        )
        norms = f"the norms are from {ends} their own" if len(ratios) > 1 else f"the norm is {ends} its own"
        said.append(f"{there} of {len(ratios)} {'is' if there == 1 else 'are'} within 10 % of equilibrium; {norms}.")
    return " ".join([*_doubt(result), *said, _verdict(result)])


def _doubt(result: IntrinsicResult) -> list[str]:
    """A warning where a model did not show that layers are scale-invariant, which all numbers of them assume."""
    untested = untested_layers(result)
    if not untested:
        return []
    whose = f"{len(untested)} of {len(result.layers)} layers" if result.tested else "no layer"
    how = "were not tested" if result.tested else "was tested"
    return [f"Warning: {whose} {how} for scale invariance, without which a layer has no equilibrium."]


def _verdict(result: IntrinsicResult) -> str:
    """What the user may conclude, or why nothing and what to type."""
    invariant = [layer for layer in result.layers if layer.verdict not in ("none", "untested")]
    if not invariant:
        none = "No layer was found to be scale-invariant: intrinsic rates and equilibrium norms do not apply here."
        return none if result.tested else f"No verdict without that test: {HOW_TO_TEST}."
    if result.changing:
        return "No verdict while the rate changes: --schedule constant asks about the present rate kept."
    waits = _known(layer.relaxation_steps for layer in invariant)
    if waits:
        there = _known(layer.steps_to_equilibrium for layer in invariant)
        last = (
            f" The last layer is there in {counted(round(max(there)), 'step')}." if there and max(there) > 0.0 else ""
        )
        return f"Wait {counted(round(max(waits)), 'step')} after a change of rate or decay before you judge it.{last}"
    if any(growth > 0.0 for growth in _known(layer.growth_per_step for layer in invariant)):
        return "Norms never settle without weight decay: they grow, and the effective rate falls or layers turn less."
    why = next(layer.relaxation_steps for layer in invariant if isinstance(layer.relaxation_steps, Missing))
    return f"{'Nothing to wait for' if why.code is Why.NO_EQUILIBRIUM else 'No verdict'}: {why.words}."


def _schedule(result: IntrinsicResult) -> list[str]:
    """How the rate goes, as far as that is known."""
    schedule = result.schedule
    if result.schedule_doubt is not None:
        return ["The learning rate changes, and how it goes on is not known."]
    if schedule is None:
        return []
    steps = "" if schedule.total_steps is None else f" over {number(schedule.total_steps)} steps"
    warmup = f", {number(schedule.warmup_steps)} of them warm-up" if schedule.warmup_steps and steps else ""
    now = "" if schedule.factor is None else f", and is now at {number(100.0 * schedule.factor)} % of its peak"
    kind = (
        "the table that was given" if schedule.shape == "table" and schedule.source is None else f"a {schedule.shape}"
    )
    named = kind if kind.startswith("the") else f"{kind} schedule"
    return [f"The learning rate follows {named}{steps}{warmup}{now}."]


def _known(values: Iterable[float | Missing]) -> list[float]:
    return [found for value in values if (found := known(value)) is not None]


def _layers(
    result: IntrinsicResult, shown: Sequence[LayerEquilibrium], count: int, style: PageStyle
) -> list[RenderableType]:
    """A row for each of so many layers, and what the columns are; those in which no layer shown has anything are left
    out.
    """
    series = len(result.steps) > 1
    columns = {
        "name": Column("layer", name=True),
        "shape": Column("shape", optional=7),
        "scale": Column("scale", left=True, optional=5),
        "intrinsic_learning_rate": Column("λ_e", optional=3),
        "effective_learning_rate": Column("η_e", optional=4),
        "norm": Column("‖W‖", optional=2),
        "equilibrium_norm": Column("‖W*‖", optional=2),
        "log_ratio": Column("ln ratio"),
        "growth_per_step": Column("growth"),
        "relaxation_steps": Column("τ"),
        "relaxation_epochs": Column("epochs", optional=6),
        "steps_to_equilibrium": Column("steps left", optional=1),
        "angle_per_step": Column("angle"),
        "expected_rotation": Column("rotation" if not series else "law" if result.changing else "expected"),
        "observed_rotation": Column("observed"),
    }
    rows = [
        {
            **vars(layer),
            "shape": "×".join(map(str, layer.shape)),
            "scale": None if layer.verdict == "untested" else layer.granularity or layer.verdict,
        }
        for layer in shown
    ]
    kept = [
        field for field in columns if field == "name" or any(not isinstance(row[field], Missing | None) for row in rows)
    ]
    return [
        house_table([columns[field] for field in kept], [[row[field] for field in kept] for row in rows], style),
        *hidden_rows(len(shown), count),
        prose(_legend(result, kept), style, "dim"),
    ]


def _legend(result: IntrinsicResult, kept: Sequence[str]) -> str:
    """What the columns that are kept mean, and the layers that no law is for."""
    series = len(result.steps) > 1
    words, turns = [], "expected_rotation" in kept
    left = "; steps left: until within 10 % of the equilibrium norm ‖W*‖" if "steps_to_equilibrium" in kept else ""
    if "relaxation_steps" in kept:
        words.append(f"τ: relaxation in steps{left}")
    if "growth_per_step" in kept:
        words.append("growth: of ln ‖W‖ a step, without equilibrium")
    if "angle_per_step" in kept:
        words.append("angle: radians that the next step turns it")
    if series:
        first, last = result.steps[-2:]
        words.append(f"rotation in radians between steps {first} and {last}")
        if turns:
            name = "law: along the schedule," if result.changing else "expected: at equilibrium,"
            words.append(f"{name} if every step went its own way, as in free diffusion")
    elif turns:
        words.append("rotation: radians a step, at equilibrium")
    signs = result.optimizer in RULES and RULES[result.optimizer].step_size == "sign"
    if signs and "equilibrium_norm" in kept:
        words.append("‖W*‖ for Gaussian noise: layers of sparse gradients end 10 to 30 % above")
    said = f"{'; '.join(words)}." if words else ""
    if series and turns:
        said += " A settled layer moves back and forth, so its angle is often 2 to 4 × smaller."
    unchanged = [layer.name for layer in result.layers if layer.unchanged]
    if unchanged:
        said += f" {counted(len(unchanged), 'layer')} {'is' if len(unchanged) == 1 else 'are'} unchanged to the byte, "
        said += f"and no law is for {'it' if len(unchanged) == 1 else 'them'}: {first_names(unchanged)}."
    said += (
        " The theory says nothing of layers that were never updated."
        if any(layer.never_updated for layer in result.layers)
        else ""
    )
    return said


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
        said += f" ?: doubtful, as the norm so far is off the equation by more than {100.0 * DOUBT:.0f} %."
    if any(layer.calibrated for layer, _ in told):
        said += " How large gradients are comes from the checkpoints' norms, as no model tells it."
    said += _gradients(result, any(ahead.norms_if_growing for _, ahead in told))
    return [Text(""), house_table(columns, rows, style), prose(said, style, "dim")]


def _gradients(result: IntrinsicResult, growing: bool) -> str:
    """What a forecast takes the gradients of SGD to become, and why."""
    trend = result.gradient_trend
    if isinstance(trend, Missing):
        said = f" Gradients are taken to stay as large as they are now. How they change is not known: {trend.words}."
        return said + GROWING if growing else ""
    ahead = "it is taken to fall no further" if trend <= 0.0 else "this is taken to go on"
    if trend > 1.0:
        ahead = "it is taken to go on as the steps themselves"
    said = f" By the norms so far, the mean square of gradients went as steps to the power {number(trend)}; {ahead}."
    return said + (GROWING if growing else "") + " Where training begins to fit all its data, layers turn less."


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
    said = (
        f"Expected: at step {last}, by theory from the norm at step {first}. A ratio near 1: theory holds for this run."
    )
    if known(result.gradient_trend) is not None:
        said += " Gradients go as the trend has them, as large as the norms before the last one tell."
    return [Text(""), house_table(columns, rows, style), prose(said, style, "dim")]


def _after_drop(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """What dividing the rate does: at once, and in the end."""
    drops = [(layer.name, drop) for layer in shown if (drop := known(layer.drop)) is not None]
    if not drops or result.drop_factor is None:
        return []
    columns = [
        Column("rate ÷ " + number(result.drop_factor), name=True),
        Column("at once"),
        Column("in the end"),
        Column("after"),
        Column("effective rate", left=True),
    ]
    ratios = [ratio for _, drop in drops for ratio in drop.ratios]
    ends = 0.9 * min(ratios), max(1.0, *ratios)
    rows = [
        (
            name,
            drop.at_once,
            drop.final,
            drop.recovery_steps,
            sparkline(drop.ratios[::2], log=True, scale=ends, ascii_only=style.ascii_only),
        )
        for name, drop in drops
    ]
    said = "Effective rate relative to now; after: steps until it is within 10 % of its end. The curve spans four "
    said += f"relaxation times of the new rate, from {number(ends[0])} to {number(ends[1])} on a log scale."
    if any(drop.from_equilibrium for _, drop in drops):
        said += " Layers whose equilibrium norm is not known are taken to be at it."
    return [Text(""), house_table(columns, rows, style), prose(said, style, "dim")]
