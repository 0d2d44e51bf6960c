"""The page a person sees: which layers grow, how soon their norms double, when that hurts, and what to do."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.findings import FELT, as_it_must, decays, doubling, in_steps, judge, remedy
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.effective_rate import rate_power
from fromage_cli.optimizers.rule import NAME_IT
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.answer import summary as summary_table
from fromage_cli.terminal.page import shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import number, sparkline, visible
from fromage_cli.theory.growth import is_drift
from fromage_cli.theory.scale_invariance import Invariance

SPARKS = 10
"""Checkpoints that a course draws, the first and the last among them."""
TOLD = ("invariant-layer-grows",)
"""Findings that the first sentence of the page says."""
_COLOURS = {"info": "yellow", "warn": "yellow", "fail": "red"}
GROWTH = (
    "growth: change of ln ‖W‖ per step, ± its standard error. A norm grows steadily where that is more than 2 errors "
    "(6.3, 2.9, 2.4 and 2.1 of 3, 4, 5 and 6 checkpoints)."
)
PREDICTED = "predicted: the growth of a scale-invariant layer under this optimizer."
RATE = "rate ×: what its norm alone made of the layer's effective learning rate; above 1 it rose."
TESTED = (
    "scale-invariant: doubling or halving the layer leaves the outputs unchanged (per channel: each output channel on "
    "its own). D(2), D(½): how far the outputs move then. cos: between weights and gradient."
)
VERDICTS = "nearly: the outputs hardly change. but for ε: only the small number in a normalisation changes them."


def render(result: NormsResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    ordered = claimed_first(result)
    shown = shown_rows(ordered, style)
    page: list[RenderableType] = [prose(" ".join(sentences(result)), style), Text(""), _layers(result, shown, style)]
    hidden = sum(map(grows, ordered[len(shown) :]))
    words = f"{hidden} of them growing steadily" if hidden else "none growing steadily" if _series(result) else ""
    page += hidden_rows(len(shown), len(ordered), words)
    if harm := when_it_hurts(result):
        page += [Text(""), prose(harm, style)]
    return Group(*page, *(_details(result, shown, style) if style.verbose else []))


def claimed_first(result: NormsResult) -> list[LayerNorms]:
    """Layers with warnings, then those that grow for ever, those that grow, and the others by how far they changed."""
    warned = {finding.layer for finding in judge(result) if finding.severity != "info"}

    def claim(layer: LayerNorms) -> tuple[bool, bool, float, float]:
        speed = known(layer.growth_per_step) or 0.0
        return layer.name not in warned, not _endless(layer), -speed if grows(layer) else 0.0, -_change(layer)

    return sorted(result.layers, key=claim)


def grows(layer: LayerNorms) -> bool:
    """Whether its norm grows steadily."""
    return known(layer.overflow_step) is not None


def _endless(layer: LayerNorms) -> bool:
    """Whether it grows though nothing depends on its size."""
    return grows(layer) and layer.invariance.verdict not in ("untested", FELT)


def _series(result: NormsResult) -> bool:
    return len(result.steps) > 1


def _change(layer: LayerNorms) -> float:
    """|ln| of the last norm over the first; 0 where it is not known."""
    return abs(math.log(known(layer.first_to_last) or 1.0))


def sentences(result: NormsResult) -> Iterator[str]:
    """The answer: which layers grow, how soon their norms double, and whether they should."""
    layers, growing = counted(len(result.layers), "layer"), [*filter(grows, claimed_first(result))]
    endless = [*filter(_endless, growing)]
    if not _series(result):
        yield f"These are the norms of {layers} at one step. Growth needs a second checkpoint."
    elif endless:
        are, grow = ("is", "grows") if len(endless) == 1 else ("are", "grow")
        yield f"{len(endless)} of {layers} {are} scale-invariant and {grow}{'' if decays(result) else ' without end'}."
        yield f"{_doubles(result, endless)}{as_it_must(result, endless[0])}."
    elif growing:
        yield f"{len(growing)} of {layers} {'grows' if len(growing) == 1 else 'grow'}" + (
            " steadily." if len(result.steps) > 2 else "."
        )
        yield f"{_doubles(result, growing)}."
    else:
        yield f"None of {layers} grows steadily."
        most = max(result.layers, key=_change, default=None)
        if most is not None and _change(most) > 0.0:
            ends = f"from {number(most.norms[0])} to {number(most.norms[-1])}"
            yield f"The norm of {visible(most.name)} changed most: {ends}."
    tested = [layer for layer in result.layers if layer.invariance.verdict != "untested"]
    count = sum(layer.invariance.verdict != FELT for layer in tested)
    if tested and not endless:
        whose = f"of {counted(len(tested), 'layer')} {'is' if count < 2 else 'are'} scale-invariant"
        yield f"{count or 'None'} {whose}{' and none of them grows steadily' if count and _series(result) else ''}."


def _doubles(result: NormsResult, growing: Sequence[LayerNorms]) -> str:
    """How soon the norms of these layers double, the fastest first."""
    times = [number(doubling(layer)) for layer in growing]
    name = visible(growing[0].name)
    if len(growing) == 1:
        subject = f"The norm of {name} doubles"
    elif len(set(times)) == 1:
        subject = "Their norms double"
    else:
        subject = f"{name} is the fastest of them: its norm doubles"
    return f"{subject} every {in_steps(result, doubling(growing[0]))}"


def when_it_hurts(result: NormsResult) -> str:
    """Until when growth does no harm: to the effective rate, and in float16; empty where no layer grows."""
    growing = [*filter(grows, result.layers)]
    if not growing:
        return ""
    felt = [layer for layer in growing if layer.invariance.verdict != FELT]
    halved = [step for layer in felt if (step := known(layer.halved_step)) is not None]
    rates = [rate for layer in felt if (rate := known(layer.effective_learning_rate[-1])) is not None]
    said = "not soon."
    if halved:
        tested = all(layer.invariance.verdict != "untested" for layer in felt)
        condition = "" if tested else ", if it is scale-invariant"
        said = f"at step {min(halved):.0f} the effective rate of a layer has halved{condition}."
    elif rates and rate_power(result.optimizer) == 0:
        said += f" The effective rate stays {number(max(rates))} at any norm."
    dtype, squares, entries = _overflow(growing)
    if squares is not None:
        weights = "" if entries is None else f", the weights at {_rounded(entries)}"
        said += f" In {dtype} the squares of the weights overflow at step {_rounded(squares)}{weights}."
    return f"When it hurts: {said}"


def _overflow(growing: Sequence[LayerNorms]) -> tuple[str, float | None, float | None]:
    """The narrow dtype that layers may be held in, and the first steps at which their squares and entries leave it."""
    dtype = "bfloat16" if {layer.dtype for layer in growing} == {"bfloat16"} else "float16"
    reached = [getattr(found, dtype) for layer in growing if (found := known(layer.overflow_step)) is not None]
    squares, entries = ([known(getattr(one, name)) for one in reached] for name in ("squares", "entries"))
    return dtype, _earliest(squares), _earliest(entries)


def _earliest(steps: Sequence[float | None]) -> float | None:
    return min((step for step in steps if step is not None), default=None)


def _rounded(step: float) -> str:
    """A step to three digits: more would promise too much."""
    return number(float(f"{step:.3g}"))


def _layers(result: NormsResult, shown: Sequence[LayerNorms], style: PageStyle) -> RenderableType:
    """A row for each layer: its norm, how far it came, how soon it doubles, and whether its size matters."""
    series, start = _series(result), result.steps[0]
    tested = any(layer.invariance.verdict != "untested" for layer in result.layers)
    severity = {finding.layer: finding.severity for finding in reversed(judge(result))}
    since = "since the first" if isinstance(start, Missing) else f"since step {start}"
    columns = {
        "name": (True, Column("layer", name=True)),
        "norm": (True, Column("‖W‖", optional=1)),
        "since": (series, Column(since)),
        "course": (series, Column("course", left=True, optional=2)),
        "doubles": (series, Column("doubles in")),
        "verdict": (tested, Column("scale-invariant", left=True)),
    }
    kept = {field: column for field, (holds, column) in columns.items() if holds}
    rows = []
    for layer in shown:
        factor = known(layer.first_to_last)
        colour = _COLOURS.get(severity.get(layer.name, ""), "yellow" if _endless(layer) else "")
        row = {
            "name": Text(layer.name, colour),
            "norm": layer.last_norm,
            "since": None if factor is None else f"{number(factor)} ×",
            "course": _course(layer, style),
            "doubles": _pace(layer),
            "verdict": _verdict(layer.invariance),
        }
        rows.append([row[field] for field in kept])
    return house_table(list(kept.values()), rows, style, [layer.name for layer in result.layers])


def _course(layer: LayerNorms, style: PageStyle) -> str:
    """The norm along the run, thinned evenly, the first and the last checkpoint among those drawn."""
    last = len(layer.norms) - 1
    drawn = min(last, SPARKS - 1)
    places = [round(index * last / drawn) for index in range(drawn + 1)] if drawn else [0]
    return sparkline([layer.norms[place] for place in places], ascii_only=style.ascii_only)


def _pace(layer: LayerNorms) -> str | None:
    """How soon its norm doubles, or why it does not."""
    growth = known(layer.growth_per_step)
    if layer.unchanged or growth is None:
        return "unchanged" if layer.unchanged else None
    if grows(layer):
        return f"{number(doubling(layer))} steps"
    return "shrinks" if is_drift(-growth, known(layer.growth_stderr), len(layer.norms)) and growth else "not steady"


def _verdict(found: Invariance) -> str:
    """`yes, per channel`, `nearly, per head` … ; `no` where the outputs depend on the layer's size."""
    if found.verdict in ("untested", FELT):
        return "no" if found.verdict == FELT else "not tested"
    part = {"tensor": "", "joint": ", with its bias"}.get(found.granularity or "", f", per {found.granularity}")
    return {"invariant": "yes", "eps-limited": "but for ε", "approximate": "nearly"}[found.verdict] + part


def _details(result: NormsResult, shown: Sequence[LayerNorms], style: PageStyle) -> list[RenderableType]:
    """Under `-v`: growth with its error and what theory predicts, effective rates, and the test of scale invariance."""
    series = _series(result)
    predicted = series and any(known(layer.predicted_growth) is not None for layer in result.layers)
    tested = any(layer.invariance.verdict != "untested" for layer in result.layers)
    # where the norm itself divides the rate, "since step 0" tells it already
    scaled = series and any(known(layer.effective_rate_fall) not in (None, layer.first_to_last) for layer in shown)
    names, page = [layer.name for layer in result.layers], []
    columns = [Column("layer", name=True), Column("shape", optional=3), *[Column("first ‖W‖", optional=4)] * series]
    columns += [*[Column("growth"), Column("±", optional=1)] * series, *[Column("predicted")] * predicted]
    columns += [Column("effective rate"), *[Column("rate ×", optional=2)] * scaled]
    rows: list[list[object]] = [
        [
            layer.name,
            "×".join(map(str, layer.shape)),
            *[layer.first_norm] * series,
            *[layer.growth_per_step, layer.growth_stderr] * series,
            *[layer.predicted_growth] * predicted,
            layer.effective_learning_rate[-1],
            *[None if fall is None else 1.0 / fall if fall else math.inf] * scaled,
        ]
        for layer in shown
        for fall in [known(layer.effective_rate_fall)]
    ]
    page += [Text(""), house_table(columns, rows, style, names)]
    if tested:
        columns = [Column("layer", name=True), Column("D(2)"), Column("D(½)"), Column("cos")]
        rows = [
            [layer.name, found.response_double, found.response_half, found.cosine]
            for layer in shown
            for found in [layer.invariance]
        ]
        page += [Text(""), house_table(columns, rows, style, names)]
    legend = [*[GROWTH] * series, *[PREDICTED] * predicted, *[RATE] * scaled, *[TESTED, VERDICTS] * tested]
    page.append(prose(" ".join(legend), style, "dim"))
    asked = series and result.optimizer is not None  # what to do about one that is not known is said at the end
    return [*page, *(not_known(result.layers, {"predicted_growth": "predicted growth"}, style) if asked else [])]


def advise(result: NormsResult) -> str:
    """What to do with the answer where no warning says it."""
    if any(finding.code == "norm-jumps" for finding in judge(result)):
        return ""  # its own remedy stands there
    if any(map(_endless, result.layers)):
        return remedy(result)
    if not _series(result):
        return "give more checkpoints of this run, or the folder that holds them."
    if all(layer.invariance.verdict == "untested" for layer in result.layers):
        optimizer = f" {NAME_IT}." if result.optimizer is None else ""
        return f"add --model SPEC (and --batch SPEC) to learn which layers are scale-invariant.{optimizer}"
    return "nothing: no scale-invariant layer grows. Look again later in the run."


def headline(result: NormsResult) -> Table:
    """The numbers that the page begins with."""
    growing = [*filter(grows, claimed_first(result))]
    fastest = max(growing, key=lambda layer: known(layer.growth_per_step) or 0.0, default=None)
    most = max(result.layers, key=_change, default=None) if _series(result) else None
    tested = [layer for layer in result.layers if layer.invariance.verdict != "untested"]
    invariant = sum(layer.invariance.verdict != FELT for layer in tested) if tested else None
    dtype, squares, _ = _overflow(growing)
    return summary_table(
        [
            ("layers", len(result.layers), "layers"),
            ("growing_steadily", len(growing) if _series(result) else None, "layers"),
            ("scale_invariant", invariant, "layers"),
            ("scale_invariant_and_growing", sum(map(_endless, growing)) if tested else None, "layers"),
            ("grows_fastest", None if fastest is None else fastest.name, "layer"),
            ("doubles_in", None if fastest is None else doubling(fastest), "steps"),
            ("changed_most", None if most is None else most.name, "layer"),
            ("largest_change", None if most is None else most.first_to_last, "times the first norm"),
            (f"squares_overflow_{dtype}", squares, "step"),
        ]
    )


def curve(result: NormsResult) -> Table:
    """One row for each layer and step."""
    rows = [
        (layer.name, step, norm)
        for layer in result.layers
        for step, norm in zip(result.steps, layer.norms, strict=True)
    ]
    return Table(("layer", "step", "norm"), tuple(rows))
