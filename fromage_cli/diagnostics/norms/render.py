"""The page a person sees: which layers grow, how soon their norms double, when that hurts, and what to do."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.details import details
from fromage_cli.diagnostics.norms.findings import HORIZON, as_it_must, decays, in_steps, remedy, span
from fromage_cli.diagnostics.norms.growing import (
    SCALE_DEPENDENT,
    change,
    claimed_first,
    doubling,
    grows,
    grows_endlessly,
    narrow_overflow,
)
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.effective_rate import rate_power
from fromage_cli.optimizers.rule import NAME_IT
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import number, sparkline, visible
from fromage_cli.theory.growth import is_drift
from fromage_cli.theory.scale_invariance import Invariance

SPARKS = 10
"""Checkpoints that a course draws, the first and the last among them."""
FEW = (3, 4)
"""So few checkpoints that only very even growth counts as steady: it has to be 6.3 and 2.9 times its error."""
TOLD = ("invariant-layer-grows",)
"""Findings that the first sentence of the page says."""
SCALE_INVARIANT = "Scale-invariant: doubling or halving the layer leaves the outputs unchanged."
RESIZABLE = "which layers may change size without changing the outputs (scale-invariant)"
"""What a model tells of layers that were not tested."""
NARROW = ("float16", "bfloat16")
"""Dtypes of weights that overflow early: the page says when."""
_WARNINGS = {
    "norm-not-finite": "the norm of {} is not finite.",
    "norm-overflows": "{} overflows soon if it grows on like this.",
    "layer-out-of-line": "the weights of {} are larger than those of its sibling layers, which have its shape.",
    "norm-far-from-first": "the norm of {} changed more than norms of healthy runs do.",
}
_COLOURS = {"info": "yellow", "warn": "yellow", "fail": "red"}


def render(result: NormsResult, style: PageStyle, findings: Sequence[Finding]) -> RenderableType:
    """The whole page, without the findings themselves."""
    series, ordered = len(result.steps) > 1, claimed_first(result.layers, findings)
    shown = shown_rows(ordered, style)
    page: list[RenderableType] = [prose(" ".join([verdict(result, findings), *sentences(result, ordered)]), style)]
    page += [Text(""), _layers(result, findings, shown, style)]
    hidden = sum(map(grows, ordered[len(shown) :]))
    words = f"{hidden} of them growing steadily" if hidden else "none growing steadily" if series else ""
    page += hidden_rows(len(shown), len(ordered), words)
    legend = [SCALE_INVARIANT] * any(layer.invariance.verdict != "untested" for layer in result.layers)
    if len(result.steps) in FEW and not all(grows(layer) or layer.unchanged for layer in shown):
        legend.append(f"With {len(result.steps)} checkpoints only very even growth counts as steady.")
    page += [prose(" ".join(legend), style, "dim")] * bool(legend)
    if harm := when_it_hurts(result, style.verbose):
        page += [Text(""), prose(harm, style)]
    return Group(*page, *(details(result, shown, style) if style.verbose else []))


def verdict(result: NormsResult, findings: Sequence[Finding]) -> str:
    """Whether anything is wrong: the gravest warning in short, or that there is none."""
    worst = next((finding for finding in findings if finding.severity != "info"), None)
    if worst is not None:
        return f"Warning: {_WARNINGS[worst.code].format(visible(worst.layer or ''))}"
    if len(result.steps) < 2:
        return "No verdict: growth needs a second checkpoint."
    return "No warning: the norms changed no more than in healthy runs."


def sentences(result: NormsResult, ordered: Sequence[LayerNorms]) -> Iterator[str]:
    """The answer: which layers grow, how soon their norms double, and whether they should; what is claimed first."""
    layers, growing = counted(len(result.layers), "layer"), [*filter(grows, ordered)]
    endless = [*filter(grows_endlessly, growing)]
    if len(result.steps) < 2:
        yield f"These are the norms of {layers} at one step."
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
        most = max(result.layers, key=change, default=None)
        if most is not None and change(most) > 0.0:
            ends = f"from {number(most.norms[0])} to {number(most.norms[-1])}"
            yield f"The norm of {visible(most.name)} changed most: {ends}."
    tested = [layer for layer in result.layers if layer.invariance.verdict != "untested"]
    count = sum(layer.invariance.verdict != SCALE_DEPENDENT for layer in tested)
    if tested and not endless:
        whose = f"of {counted(len(tested), 'layer')} {'is' if count < 2 else 'are'} scale-invariant"
        yield f"{count or 'None'} {whose}{'; none of these grows steadily' if count and growing else ''}."


def _doubles(result: NormsResult, growing: Sequence[LayerNorms]) -> str:
    """How soon the norms of these layers double, the fastest first; beyond the run's length only if it goes on."""
    times = [number(doubling(layer)) for layer in growing]
    name, steps = visible(growing[0].name), in_steps(result, doubling(growing[0]))
    several = len(growing) > 1 and len(set(times)) == 1
    subject = "Their norms" if several else f"{name} is the fastest of them: its norm"
    subject = subject if len(growing) > 1 else f"The norm of {name}"
    if not grows_endlessly(growing[0]) and doubling(growing[0]) > span(result)[1]:
        return f"{subject} would double in {steps} if this went on, which it does in few runs"
    return f"{subject} {'double' if several else 'doubles'} every {steps}"


def when_it_hurts(result: NormsResult, verbose: bool = False) -> str:
    """Until when growth does no harm: to the effective rate, and in narrow dtypes; empty where no layer grows.

    `verbose`: when float16 overflows is said for weights of other dtypes too.
    """
    growing = [*filter(grows, result.layers)]
    if not growing:
        return ""
    end, length = span(result)
    insensitive = [layer for layer in growing if layer.invariance.verdict != SCALE_DEPENDENT]
    halved = [step for layer in insensitive if (step := known(layer.halved_step)) is not None]
    rates = [rate for layer in insensitive if (rate := known(layer.effective_learning_rate[-1])) is not None]
    said = "not soon."
    if halved and min(halved) <= end + HORIZON * length:
        past = min(halved) <= end
        turns = f"a layer's effective rate (how fast it turns) {'had halved' if past else 'halves'}"
        said = f"{'' if past else 'at this pace '}{turns} at step {min(halved):.0f}."
        said += "" if past else " Few runs keep their pace."
        tested = all(layer.invariance.verdict != "untested" for layer in insensitive)
        said += "" if tested else " It matters for scale-invariant layers only."
    elif rates and rate_power(result.optimizer) == 0:
        said += f" The effective rate (how fast a layer turns) stays {number(max(rates))} at any norm."
    dtype, squares, entries = narrow_overflow(growing)
    if squares is not None and (verbose or any(layer.dtype in NARROW for layer in growing)):
        # three digits of a step: more would promise too much
        weights = "" if entries is None else f", the weights at {number(float(f'{entries:.3g}'))}"
        said += f" In {dtype} the squares of the weights overflow at step {number(float(f'{squares:.3g}'))}{weights}."
    return f"When it hurts: {said}"


def _layers(
    result: NormsResult, findings: Sequence[Finding], shown: Sequence[LayerNorms], style: PageStyle
) -> RenderableType:
    """A row for each layer: its norm, how far it came, how soon it doubles, and whether its size matters."""
    series, start = len(result.steps) > 1, result.steps[0]
    tested = any(layer.invariance.verdict != "untested" for layer in result.layers)
    severity = {finding.layer: finding.severity for finding in reversed(findings)}
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
        factor, last = known(layer.first_to_last), len(layer.norms) - 1
        drawn = min(last, SPARKS - 1)  # the course is thinned evenly
        places = [round(index * last / drawn) for index in range(drawn + 1)] if drawn else [0]
        colour = _COLOURS.get(severity.get(layer.name, ""), "yellow" if grows_endlessly(layer) else "")
        row = {
            "name": Text(layer.name, colour),
            "norm": layer.last_norm,
            "since": None if factor is None else f"{number(factor)} ×",
            "course": sparkline([layer.norms[place] for place in places], ascii_only=style.ascii_only),
            "doubles": _pace(layer),
            "verdict": _verdict(layer.invariance),
        }
        rows.append([row[field] for field in kept])
    return house_table(list(kept.values()), rows, style, [layer.name for layer in result.layers])


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
    if found.verdict in ("untested", SCALE_DEPENDENT):
        return "no" if found.verdict == SCALE_DEPENDENT else "not tested"
    part = {"tensor": "", "joint": ", with its bias"}.get(found.granularity or "", f", per {found.granularity}")
    return {"invariant": "yes", "eps-limited": "but for ε", "approximate": "nearly"}[found.verdict] + part


def advise(result: NormsResult, findings: Sequence[Finding], tested: str) -> str:
    """What to do with the answer where no warning says it; `tested`: how to test the layers, to be typed."""
    if any(finding.code == "norm-jumps" for finding in findings):
        return ""  # its own remedy stands there
    if any(map(grows_endlessly, result.layers)):
        return remedy(result)
    if len(result.steps) < 2:
        return "give more checkpoints of this run, or the folder that holds them."
    if all(layer.invariance.verdict == "untested" for layer in result.layers):
        optimizer = f" {NAME_IT}." if result.optimizer is None else ""
        return f"{tested}{optimizer}"
    return "nothing to do: no scale-invariant layer grows. Look again later in the run."
