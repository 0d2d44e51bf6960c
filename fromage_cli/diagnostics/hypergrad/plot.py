"""The picture of a hypergradient: what each method says of raising a value, and which way the advice points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fromage_cli.counting import counted
from fromage_cli.diagnostics.hypergrad.advice import NEGLIGIBLE, move_of, title
from fromage_cli.diagnostics.hypergrad.render import advise
from fromage_cli.diagnostics.hypergrad.result import (
    CONTINUED,
    DELTA_STN,
    UNROLL,
    HypergradResult,
    HyperparameterAnswers,
    MethodAnswer,
)
from fromage_cli.missing import known
from fromage_cli.terminal.charts import PALE, QUIET, drawable, head, left_out, legend_below, say_instead, short_names
from fromage_cli.terminal.pictures import BLACK, BLUE, GREEN, ORANGE, VERMILION, picture, tick
from fromage_cli.terminal.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADVICE = {"raise": "↑ raise", "lower": "↓ lower", "keep": "keep", "unclear": "unclear"}
"""What is written beside a hyperparameter, by the direction of its advice."""
METHODS = {
    CONTINUED: (BLACK, "o", "those steps taken, with the value moved"),
    UNROLL: (BLUE, "s", "derivative through those steps"),
    "gauss-newton": (GREEN, "^", "settled, by gauss-newton"),
    "hessian": (ORANGE, "D", "settled, by hessian"),
    "source": (VERMILION, "v", "settled, by source"),
    DELTA_STN: (QUIET, "P", "settled, by delta-stn"),
}
"""Colour and marker of a method, and what the legend calls it."""


@picture("hypergradients of {}")
def draw(result: HypergradResult, subject: str) -> Figure:
    """A row for each hyperparameter with advice; left of the middle raising it lowers the validation loss.

    `subject`: what was measured, for the title. Answers that are not known are left out, and it is said.
    """
    from matplotlib.figure import Figure

    wide = [one for one in result.hyperparameters if one.direction is not None]
    unknown = [
        f"{title(one.name, one.scope)} by {answer.method}"
        for one in wide
        for answer in one.answers
        if not drawable(_change(one, answer))
    ]
    figure = Figure(figsize=(10.0, 3.1 + 0.62 * max(len(wide), 2)))
    rest = len(result.hyperparameters) - len(wide)
    notes = [f"Not drawn: {counted(rest, 'value')} of single layers or without advice."] * (rest > 0)
    notes += left_out(unknown, "answer", "not known")
    losses, after = f"Validation loss {number(result.val_loss)} now", known(result.val_loss_after)
    if result.steps and after is not None:
        losses += f", {number(after)} after {counted(result.steps, 'more step')}"
    rows = f"{counted(result.val_rows, 'validation row')}. Bars: one standard error, where it is known."
    top = head(figure, subject, advise(result), f"{losses}; {rows}", *notes)
    bottom = 1.3 / figure.get_figheight()
    axes = figure.subplots(gridspec_kw={"left": 0.25, "right": 0.83, "top": top, "bottom": bottom})
    if not wide:
        say_instead(axes, "There is no hyperparameter that could be moved.")
    else:
        _answers(axes, result, wide)
    return figure


def _change(one: HyperparameterAnswers, answer: MethodAnswer) -> float | None:
    """Of the validation loss where the value is raised by as much as the advice moves it."""
    slope = known(answer.gradient)
    return None if slope is None else slope * move_of(one)


def _answers(axes: Axes, result: HypergradResult, wide: Sequence[HyperparameterAnswers]) -> None:
    """Each method's answer with its standard error, on an axis that is even within what is not worth acting on."""
    changes = [(one, answer, _change(one, answer)) for one in wide for answer in one.answers]
    found = [(one, answer, change) for one, answer, change in changes if drawable(change)]
    errors = [stderr * move_of(one) if drawable(stderr := known(answer.stderr)) else 0.0 for one, answer, _ in found]
    worth = NEGLIGIBLE * abs(result.val_loss)
    if not drawable(worth) or worth < 1e-100:
        worth = min((abs(change) for *_, change in found if abs(change) > 1e-100), default=1.0)
    reach = max((abs(change) + error for (*_, change), error in zip(found, errors, strict=True)), default=0.0)
    _change_axis(axes, worth, max(1.6 * reach, 2.0 * worth))
    band = axes.axvspan(-worth, worth, color=PALE, linewidth=0, zorder=0.1)
    axes.axvline(0.0, color=QUIET, linewidth=0.8, zorder=0.2)
    drawn: dict[str, Any] = {}
    methods = [method for method in METHODS if any(answer.method == method for _, answer, _ in found)]
    for (one, answer, change), error in zip(found, errors, strict=True):
        colour, marker, _ = METHODS[answer.method]
        height = -wide.index(one) + 0.26 - 0.52 * (methods.index(answer.method) + 0.5) / len(methods)
        drawn[answer.method] = axes.errorbar(
            change, height, xerr=error or None, color=colour, marker=marker, ms=5.5, capsize=2.5, ls="", zorder=3.0
        )
    entries = [(drawn[method], METHODS[method][2]) for method in methods]
    legend_below(axes, [*entries, (band, f"less than {number(worth)}: not worth a move")], columns=3)
    axes.set_ylim(0.5 - len(wide), 0.5)
    moves = [f"{number(one.value)} → {number(one.value + move_of(one))}" for one in wide]
    titles = short_names([title(one.name, one.scope) for one in wide])
    names = [f"{name}\n{move}" for name, move in zip(titles, moves, strict=True)]
    axes.set_yticks([-place for place in range(len(wide))], labels=names)
    axes.tick_params(axis="y", length=0)
    for place, one in enumerate(wide):
        strong = "bold" if one.direction in ("raise", "lower") else "normal"
        words = f"{ADVICE[one.direction or 'unclear']}\n{_number(one)}"
        axes.text(1.02, -place, words, va="center", weight=strong, transform=axes.get_yaxis_transform())
        axes.axhline(-place - 0.5, color=PALE, linewidth=0.7, zorder=0.1)


def _number(one: HyperparameterAnswers) -> str:
    """What the advice rests on: the change, and its standard error; empty where there is none."""
    answer = one.by(one.advised_by)
    change = None if answer is None else _change(one, answer)
    stderr = None if answer is None else known(answer.stderr)
    if not drawable(change):
        return ""
    signed = f"{change:+.2g}"
    return ("−" if change < 0.0 else "+") + signed[1:] + ("" if stderr is None else f" ± {stderr * move_of(one):.1g}")


def _change_axis(axes: Axes, worth: float, reach: float) -> None:
    """An axis of changes either way: even up to `worth`, logarithmic from there to `reach`."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    first, last = math.ceil(math.log10(worth)), math.floor(math.log10(reach))
    powers = [10.0**power for power in range(first, last + 1, 1 + (last - first) // 4)]
    axes.set_xscale("symlog", linthresh=worth, linscale=0.7)
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(FixedLocator([*(-power for power in reversed(powers)), 0.0, *powers]))
    words = [tick(power) for power in powers]
    axes.xaxis.set_major_formatter(FixedFormatter([*(f"−{word}" for word in reversed(words)), "0", *words]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("change of the validation loss if the value is raised (← helps, harms →; units of the loss)")
