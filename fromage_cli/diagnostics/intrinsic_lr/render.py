"""The page a person sees: how near each layer is to its equilibrium norm, how long it takes, and how far it turned."""

import math
from collections.abc import Iterator, Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.intrinsic_lr.details import details
from fromage_cli.diagnostics.intrinsic_lr.findings import FAR, NEAR, untested_layers
from fromage_cli.diagnostics.intrinsic_lr.result import IntrinsicResult, LayerEquilibrium
from fromage_cli.missing import Missing, Why, known, known_values
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import number, sparkline, visible

TOLD = ("scale-invariance-untested", "far-from-equilibrium", "not-scale-invariant")
"""Findings that the page says itself: in its warning, its rows, and its line on layers that it leaves out."""
FAR_OFF = 10
"""Times the steps so far, from which on what a drop ends in is far off."""
_TO_GIVE = {
    Why.LEARNING_RATE_UNKNOWN: "give the learning rate: --lr 0.001.",
    Why.WEIGHT_DECAY_UNKNOWN: "give the weight decay: --weight-decay 0.0005 (0 where there was none).",
}
"""What the reader can do about a number that is missing for this reason."""


def render(result: IntrinsicResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""

    def nearness(layer: LayerEquilibrium) -> tuple[bool, float]:
        if isinstance(layer.log_ratio, Missing):
            return True, -(known(layer.observed_rotation) or 0.0) / (known(layer.expected_rotation) or math.inf)
        return False, -abs(layer.log_ratio)

    page: list[RenderableType] = []
    if untested := untested_layers(result):
        whose = f"{len(untested)} of {len(result.layers)} layers were not" if result.tested else "No layer was"
        said = "Warning: this holds only for scale-invariant layers, whose size does not change the outputs. "
        page.append(prose(f"{said}{whose} tested for that.", style, "yellow"))
    trained = [layer for layer in result.layers if not (layer.unchanged or layer.never_updated)]
    ordered = sorted((layer for layer in trained if layer.verdict != "none"), key=nearness)
    shown, names = shown_rows(ordered, style), [layer.name for layer in result.layers]
    page.append(prose(" ".join(sentences(result)), style))
    if ordered:
        page += [Text(""), _layers(result, shown, style, names)]
        ratios = known_values(layer.log_ratio for layer in ordered[len(shown) :])
        page += hidden_rows(len(shown), len(ordered), f"at {_span(ratios)} of their equilibrium norm" if ratios else "")
        page += [prose(legend, style, "dim")] if (legend := _legend(result, shown)) else []
    page += [prose(sentence, style) for sentence in left_out(result)]
    page += _after_drop(result, shown, style)
    every = shown if ordered else shown_rows(trained or result.layers, style)
    return Group(*page, *(details(result, every, style) if style.verbose else []))


def sentences(result: IntrinsicResult) -> Iterator[str]:
    """The answer: how long a norm takes to settle, and how many layers have settled."""
    yield from _schedule(result)
    times = known_values(layer.relaxation_steps for layer in result.layers)
    ratios = known_values(layer.log_ratio for layer in result.layers)
    if result.changing:
        yield "Equilibrium norms hold for a constant rate only, so they are left out."
    elif times:
        yield "Weight decay and updates balance at an equilibrium norm."
        epochs = known_values(layer.relaxation_epochs for layer in result.layers)
        in_epochs = f" ({counted(round(median(epochs)), 'epoch')})" if epochs else ""
        yield f"A layer takes about {counted(round(median(times)), 'step')}{in_epochs} to settle there."
    elif any(growth > 0.0 for growth in known_values(layer.growth_per_step for layer in result.layers)):
        yield "These norms do not settle: they grow without end."
    elif not result.tested or any(layer.verdict != "none" for layer in result.layers):
        why = next((x.relaxation_steps for x in result.layers if isinstance(x.relaxation_steps, Missing)), None)
        if why is not None:
            nowhere = why.code is Why.NO_EQUILIBRIUM
            said = "These norms do not settle:" if nowhere else "When these norms settle is not known, because"
            yield f"{said} {why.words}."
    else:
        layers = counted(len(result.layers), "layer")
        yield f"This does not apply: none of {layers} is scale-invariant."
        yield "Their sizes change the outputs, so they have no equilibrium norm."
    if ratios:
        there = sum(NEAR[0] <= ratio <= NEAR[1] for ratio in ratios)
        said = f"{there} of {counted(len(ratios), 'layer')} {'has' if there == 1 else 'have'} settled to within a tenth"
        yield f"{said}{'' if there == len(ratios) else f'; the norms are at {_span(ratios)} of equilibrium'}."
        now = result.steps[-1]
        if there < len(ratios) and times and not isinstance(now, Missing) and 0 < now < median(times):
            yield "That is usual so early."


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


def _span(ratios: Sequence[float]) -> str:
    """The least and the greatest of these shares."""
    low, high = f"{100.0 * math.exp(min(ratios)):.0f} %", f"{100.0 * math.exp(min(max(ratios), 700.0)):.0f} %"
    return low if low == high else f"{low} to {high}"


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
    if scaled:
        are, sizes = f"these {len(scaled)} layers are", "their sizes change"
        if len(scaled) == 1:
            are, sizes = "it is", "its size changes"
        yield f"Does not apply to {first_names(scaled)}: {are} not scale-invariant ({sizes} the outputs)."
    if still:
        are = "it is" if len(still) == 1 else f"these {len(still)} layers are"
        yield f"Does not apply to {first_names(still)}: {are} not trained in this run."


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
                "share": None if ratio is None else f"{number(100.0 * math.exp(min(ratio, 700.0)))} %",
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


def _legend(result: IntrinsicResult, shown: Sequence[LayerEquilibrium]) -> str:
    """What the angles in the rows are; empty where there are none."""
    compared = any(known(layer.expected_rotation) is not None for layer in shown)
    if len(result.steps) > 1:
        if all(known(layer.observed_rotation) is None for layer in shown):
            return ""
        before = result.steps[-2]
        since = "at the last checkpoint but one" if isinstance(before, Missing) else f"at step {before}"
        expected = (
            " Expected: with random gradients; settled layers often turn 2 to 4 × less, which is no fault."
            if compared
            else ""
        )
        return f"Turned: the angle between the weights {since} and now.{expected}"
    if all(known(layer.angle_per_step) is None for layer in shown):
        return ""
    return f"Turns: the angle of the next step{'; in the end: once the norm has settled' if compared else ''}."


def _degrees(angle: float | Missing) -> str | None:
    radians = known(angle)
    return None if radians is None else f"{number(math.degrees(radians))}°"


def advise(result: IntrinsicResult) -> str:
    """What to do with the answer; empty where a finding's remedy says it."""
    invariant = [layer for layer in result.layers if layer.verdict not in ("none", "untested")]
    if not invariant:
        return "fromage-diag norms shows how these layers change." if result.tested else ""
    if result.changing:
        return "for the present rate, kept as it is, add --schedule constant."
    waits = known_values(layer.relaxation_steps for layer in invariant)
    if waits:
        last = max(known_values(layer.steps_to_equilibrium for layer in invariant), default=0.0)
        there = f" The last layer settles in {counted(round(last), 'step')}." if last > 0.0 else ""
        return f"wait {counted(round(max(waits)), 'step')} before judging a change of rate or weight decay.{there}"
    if any(growth > 0.0 for growth in known_values(layer.growth_per_step for layer in invariant)):
        return ""
    why = next(layer.relaxation_steps for layer in invariant if isinstance(layer.relaxation_steps, Missing))
    if why.code is Why.NO_EQUILIBRIUM:
        return "there is nothing to wait for, as these norms do not settle."
    return _TO_GIVE.get(why.code, f"no verdict: {why.words}.")


def _after_drop(result: IntrinsicResult, shown: Sequence[LayerEquilibrium], style: PageStyle) -> list[RenderableType]:
    """What dividing the rate does: at once, and in the end."""
    drops = [(layer.name, drop) for layer in shown if (drop := known(layer.drop)) is not None]
    if not drops or result.drop_factor is None:
        return []
    columns = [
        Column("layer", name=True),
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
            f"{number(drop.at_once)} ×",
            f"{number(drop.final)} ×",
            drop.recovery_steps,
            sparkline(drop.ratios[::2], log=True, scale=ends, ascii_only=style.ascii_only),
        )
        for name, drop in drops
    ]
    title = f"With the rate divided by {number(result.drop_factor)}, the effective rate (how fast a layer turns) is:"
    said, now = "After so many steps it is within 10 % of its end.", result.steps[-1]
    if not isinstance(now, Missing) and max(drop.recovery_steps for _, drop in drops) > FAR_OFF * now:
        said += f" Few runs last that long; this one is at step {now}."
    if style.verbose:
        said += " The curve spans four settling times of the new rate, "
        said += f"from {number(ends[0])} to {number(ends[1])} on a log scale."
    if any(drop.from_equilibrium for _, drop in drops):
        said += " Layers of unknown equilibrium norm are assumed to be at it."
    names = [layer.name for layer in result.layers]
    return [Text(""), prose(title, style), house_table(columns, rows, style, names), prose(said, style, "dim")]
