"""The page a person sees: how near each layer is to its equilibrium norm, how long it takes, and how far it turned."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.intrinsic_lr.findings import FAR, untested_layers
from fromage_cli.diagnostics.intrinsic_lr.result import DOUBT, IntrinsicResult, LayerEquilibrium
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.answer import summary as summary_table
from fromage_cli.terminal.page import shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import number, sparkline, visible

GROWING = " If growing: if their mean square grows in proportion to the steps. Most norms end between the two."
EXPECTED = " Expected is for random gradients; a settled layer often turns 2 to 4 × less."
TOLD = ("scale-invariance-untested", "far-from-equilibrium", "not-scale-invariant")
"""Findings that the page says itself: in its warning, its rows, and its line on layers that it leaves out."""
NEAR = math.log(0.9), math.log(1.1)
"""Where ln of a norm over its equilibrium lies for a layer that is at it."""
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


def render(result: IntrinsicResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""

    def nearness(layer: LayerEquilibrium) -> tuple[bool, float]:
        if isinstance(layer.log_ratio, Missing):
            return True, -(known(layer.observed_rotation) or 0.0) / (known(layer.expected_rotation) or math.inf)
        return False, -abs(layer.log_ratio)

    page: list[RenderableType] = []
    if untested := untested_layers(result):
        whose = f"{len(untested)} of {len(result.layers)} layers were not" if result.tested else "no layer was"
        said = f"Warning: this holds for scale-invariant layers only, and {whose} tested for scale invariance."
        page.append(prose(said, style, "yellow"))
    trained = [layer for layer in result.layers if not (layer.unchanged or layer.never_updated)]
    ordered = sorted((layer for layer in trained if layer.verdict != "none"), key=nearness)
    shown, names = shown_rows(ordered, style), [layer.name for layer in result.layers]
    page.append(prose(" ".join(sentences(result)), style))
    if ordered:
        page += [Text(""), _layers(result, shown, style, names)]
        page += hidden_rows(len(shown), len(ordered), _range(ordered[len(shown) :]))
        if any(known(layer.observed_rotation) is not None for layer in shown):
            compared = any(known(layer.expected_rotation) is not None for layer in shown)
            page.append(prose(_angles(result) + EXPECTED * compared, style, "dim"))
    page += [prose(sentence, style) for sentence in left_out(result)]
    page += _after_drop(result, shown, style)
    if style.verbose:
        every = shown if ordered else shown_rows(trained or result.layers, style)
        page += [*_details(result, every, style), *_forecast(result, every, style)]
        page += [*_against_theory(result, every, style), *not_known(trained or result.layers, _TITLES, style)]
    return Group(*page)


def sentences(result: IntrinsicResult) -> Iterator[str]:
    """The answer: how long a norm takes to settle, and how many layers have settled."""
    yield from _schedule(result)
    times = _known(layer.relaxation_steps for layer in result.layers)
    ratios = _known(layer.log_ratio for layer in result.layers)
    if result.changing:
        yield "Equilibrium norms hold for a constant rate only, so they are left out."
    elif times:
        epochs = _known(layer.relaxation_epochs for layer in result.layers)
        in_epochs = f" ({counted(round(median(epochs)), 'epoch')})" if epochs else ""
        yield f"A norm takes about {counted(round(median(times)), 'step')}{in_epochs} to settle."
    elif any(growth > 0.0 for growth in _known(layer.growth_per_step for layer in result.layers)):
        yield "These norms do not settle: they grow without end."
    elif not result.tested or any(layer.verdict != "none" for layer in result.layers):
        why = next((x.relaxation_steps for x in result.layers if isinstance(x.relaxation_steps, Missing)), None)
        if why is not None:
            nowhere = why.code is Why.NO_EQUILIBRIUM
            yield f"{'Norms settle nowhere' if nowhere else 'How long norms take to settle is not known'}: {why.words}."
    else:
        layers = counted(len(result.layers), "layer")
        yield f"This does not apply: none of {layers} is scale-invariant, so none has an equilibrium norm."
    if ratios:
        there = sum(NEAR[0] <= ratio <= NEAR[1] for ratio in ratios)
        said = f"{there} of {counted(len(ratios), 'layer')} {'is' if there == 1 else 'are'} within 10 % of "
        said += "its equilibrium norm" if there == 1 or len(ratios) == 1 else "their equilibrium norm"
        yield f"{said}{'' if there == len(ratios) else f'; they are at {_span(ratios)} of it'}."


def _schedule(result: IntrinsicResult) -> Iterator[str]:
    """How the rate goes, as far as that is known."""
    schedule = result.schedule
    if result.schedule_doubt is not None:
        yield "The learning rate changes, and how it goes on is not known."
    elif schedule is not None:
        steps = "" if schedule.total_steps is None else f" over {number(schedule.total_steps)} steps"
        warmup = f", {number(schedule.warmup_steps)} of them warm-up" if schedule.warmup_steps and steps else ""
        now = "" if schedule.factor is None else f", and is now at {number(100.0 * schedule.factor)} % of its peak"
        given = schedule.shape == "table" and schedule.source is None
        kind = "the table that was given" if given else f"a {schedule.shape} schedule"
        yield f"The learning rate follows {kind}{steps}{warmup}{now}."


def _known(values: Iterable[float | Missing]) -> list[float]:
    return [found for value in values if (found := known(value)) is not None]


def _share(ratio: float) -> str:
    """A norm in per cent of its equilibrium, from ln of the two's ratio."""
    return f"{number(100.0 * math.exp(min(ratio, 700.0)))} %"


def _span(ratios: Sequence[float]) -> str:
    """The least and the greatest of these shares."""
    low, high = f"{100.0 * math.exp(min(ratios)):.0f} %", f"{100.0 * math.exp(min(max(ratios), 700.0)):.0f} %"
    return low if low == high else f"{low} to {high}"


def _range(hidden: Sequence[LayerEquilibrium]) -> str:
    """What rows that are not shown hold."""
    ratios = _known(layer.log_ratio for layer in hidden)
    return f"at {_span(ratios)} of their equilibrium norm" if ratios else ""


def left_out(result: IntrinsicResult) -> Iterator[str]:
    """The layers that this does not apply to, a sentence for each reason."""
    still = [visible(layer.name) for layer in result.layers if layer.unchanged or layer.never_updated]
    scaled = [
        visible(layer.name)
        for layer in result.layers
        if layer.verdict == "none" and not (layer.unchanged or layer.never_updated)
    ]
    if len(scaled) == len(result.layers):
        return  # the first sentence says it
    for names, why in ((scaled, "scale-invariant"), (still, "trained in this run")):
        if names:
            are = "it is" if len(names) == 1 else f"these {len(names)} layers are"
            yield f"Does not apply to {first_names(names)}: {are} not {why}."


def _layers(
    result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle, names: Sequence[str]
) -> RenderableType:
    """A row for each layer, without the columns in which none of them has anything."""
    series, total = len(result.steps) > 1, result.schedule.total_steps if result.schedule is not None else None
    columns = {
        "name": Column("layer", name=True),
        "norm": Column("‖W‖", optional=1),
        "share": Column("of equilibrium"),
        "left": Column("settles in"),
        "doubles": Column("doubles in"),
        "end": Column("‖W‖ at the end" if total is None else f"‖W‖ at step {number(total)}"),
        "turned": Column("turned" if series else "turns a step", optional=2),
        "expected": Column("expected" if series else "in the end", optional=3),
    }
    rows = []
    for layer in shown:
        ratio, left, growth = known(layer.log_ratio), known(layer.steps_to_equilibrium), known(layer.growth_per_step)
        ahead, turned = known(layer.forecast), layer.observed_rotation if series else layer.angle_per_step
        far = ratio is not None and abs(ratio) >= math.log(FAR)
        rows.append(
            {
                "name": Text(layer.name, "yellow" if far or (growth or 0.0) > 0.0 else ""),
                "norm": layer.norm,
                "share": None if ratio is None else _share(ratio),
                "left": None if left is None else f"{number(left)} steps" if left else "settled",
                "doubles": f"{number(math.log(2.0) / growth)} steps" if growth and growth > 0.0 else None,
                "end": ahead.norms[-1] if ahead is not None else None,
                "turned": _degrees(turned),
                "expected": _degrees(layer.expected_rotation),
            }
        )
    kept = [field for field in columns if any(row[field] is not None for row in rows)]
    if "share" in kept and "end" not in kept:
        kept.remove("norm")
    cells = [[row[field] for field in kept] for row in rows]
    return house_table([columns[field] for field in kept], cells, style, names)


def _angles(result: IntrinsicResult) -> str:
    """Between which checkpoints layers turned."""
    before = result.steps[-2]
    return (
        "Turned: since the last checkpoint but one." if isinstance(before, Missing) else f"Turned: since step {before}."
    )


def _degrees(angle: float | Missing) -> str | None:
    radians = known(angle)
    return None if radians is None else f"{number(math.degrees(radians))}°"


def advise(result: IntrinsicResult) -> str:
    """What to do with the answer; empty where a finding's remedy says it."""
    invariant = [layer for layer in result.layers if layer.verdict not in ("none", "untested")]
    if not invariant:
        return (
            "not applicable: no layer is scale-invariant. The command norms shows how they change."
            if result.tested
            else ""
        )
    if result.changing:
        return "for the present rate, kept as it is, add --schedule constant."
    waits = _known(layer.relaxation_steps for layer in invariant)
    if waits:
        last = max(_known(layer.steps_to_equilibrium for layer in invariant), default=0.0)
        there = f" The last layer settles in {counted(round(last), 'step')}." if last > 0.0 else ""
        return f"wait {counted(round(max(waits)), 'step')} before judging a change of rate or weight decay.{there}"
    if any(growth > 0.0 for growth in _known(layer.growth_per_step for layer in invariant)):
        return ""
    why = next(layer.relaxation_steps for layer in invariant if isinstance(layer.relaxation_steps, Missing))
    return f"{'nothing to wait for' if why.code is Why.NO_EQUILIBRIUM else 'no verdict'}: {why.words}."


def headline(result: IntrinsicResult) -> Table:
    """The numbers that the page begins with."""
    ratios = _known(layer.log_ratio for layer in result.layers)
    times = _known(layer.relaxation_steps for layer in result.layers)
    epochs = _known(layer.relaxation_epochs for layer in result.layers)
    left = _known(layer.steps_to_equilibrium for layer in result.layers)
    share = "of the equilibrium norm"
    return summary_table(
        [
            ("layers", len(result.layers), "layers"),
            ("not_scale_invariant", sum(layer.verdict == "none" for layer in result.layers), "layers"),
            ("untested", len(untested_layers(result)), "layers"),
            ("settling_time", median(times) if times else None, "steps"),
            ("settling_time_in_epochs", median(epochs) if epochs else None, "epochs"),
            ("settled", sum(NEAR[0] <= ratio <= NEAR[1] for ratio in ratios) if ratios else None, "layers"),
            ("lowest", math.exp(min(ratios)) if ratios else None, share),
            ("highest", math.exp(max(ratios)) if ratios else None, share),
            ("all_settled_in", max(left) if left else None, "steps"),
        ]
    )


def _details(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """Under `-v`: all that is known of the layers, in two tables, and what their columns are."""
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
        return said + GROWING if growing else ""
    ahead = "it is assumed to fall no further" if trend <= 0.0 else "this is assumed to go on"
    if trend > 1.0:
        ahead = "it is assumed to go on in proportion to the steps"
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
    said = f"Expected: at step {last}, by theory from the norm at step {first}. Near 1 theory holds for this run."
    if known(result.gradient_trend) is not None:
        said += " The size of gradients is read from the norms before the last one."
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
        Column("after steps"),
        Column("effective rate", left=True, optional=1),
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
    said = "The effective rate relative to now, and the steps until it is within 10 % of its end."
    if style.verbose:
        said += " The curve spans four settling times of the new rate, "
        said += f"from {number(ends[0])} to {number(ends[1])} on a log scale."
    if any(drop.from_equilibrium for _, drop in drops):
        said += " Layers of unknown equilibrium norm are assumed to be at it."
    return [Text(""), house_table(columns, rows, style), prose(said, style, "dim")]
