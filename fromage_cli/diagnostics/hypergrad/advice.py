"""From the answers on one hyperparameter to what to do with it, in one sentence."""

import math
from dataclasses import dataclass, replace

from fromage_cli.diagnostics.hypergrad.result import CONTINUED, UNROLL, HyperparameterAnswers, MethodAnswer
from fromage_cli.missing import Missing, Why, known
from fromage_cli.probes.hypergradients.continued import SMOOTH
from fromage_cli.probes.hypergradients.implicit import TOLERANCE
from fromage_cli.terminal.words import number

SURE = 2.0
"""Standard errors over validation rows that a derivative must differ from 0 by."""
SURE_OF_FEW = 3.2
"""The same over a few draws: Student's t of 95 % for four."""
NEGLIGIBLE = 5e-4
"""Change of the validation loss, over the loss, that is not worth acting on."""
DIVERGED = 10.0
"""Validation loss after the steps, over that before, from which on training has gone wrong in them."""
MOVE, FROM_ZERO = 0.1, 0.01
"""What the advice speaks of: a tenth of the value, or this much where it is 0."""
TITLES = {"weight-decay": "weight decay", "label-smoothing": "label smoothing", "dropout": "dropout"}
Decision = tuple[str, str]
"""A direction, and the reason where there is none."""


@dataclass(frozen=True)
class Advice:
    """What to do."""

    advised_by: str | None
    direction: str
    sentence: str
    expected_change: float | Missing


def title(name: str, scope: str = "all") -> str:
    """A hyperparameter as a sentence calls it."""
    called = TITLES.get(name, name)
    return called if scope == "all" else f"{called} of {scope.replace(':', ' ')}"


def advised(found: HyperparameterAnswers, val_loss: float, after: float | None = None) -> HyperparameterAnswers:
    """The same with the advice that its answers allow; `after`: the validation loss after the further steps."""
    advice = _advise(found, val_loss, after)
    return replace(
        found,
        advised_by=advice.advised_by,
        direction=advice.direction,
        advice=advice.sentence,
        expected_change=advice.expected_change,
    )


def move_of(value: float) -> float:
    """How far the advice moves a hyperparameter."""
    return MOVE * value if value else FROM_ZERO


def _advise(found: HyperparameterAnswers, val_loss: float, after: float | None) -> Advice:
    answer = _leading(found)
    what = title(found.name, found.scope)
    if answer is None:
        reason = next((a.gradient.words for a in found.answers if isinstance(a.gradient, Missing)), "nothing was found")
        missing = Missing(Why.RESTS_ON_MISSING, reason)
        return Advice(None, "unclear", f"Nothing is known of {what}: {reason}.", missing)
    slope = known(answer.gradient)
    assert slope is not None  # by `_leading`
    stderr, move = known(answer.stderr), move_of(found.value)
    change = -abs(slope) * move
    doubt = _doubt(found, answer)
    if answer.horizon is not None and after is not None and after > DIVERGED * abs(val_loss):
        doubt = f"in these steps the validation loss rises from {number(val_loss)} to {number(after)}"
    by, worth = answer.method, NEGLIGIBLE * abs(val_loss)
    small = abs(change) < worth
    if doubt is not None and not (small and stderr is not None and SURE * stderr * move < worth):
        return Advice(by, "unclear", f"Do not act on {what}: {doubt}.", change)
    if small:
        words = f"{number(move)} more or less changes the validation loss by {number(abs(change))} only"
        return Advice(by, "keep", f"Leave {what} at {number(found.value)}: {words}.", change)
    spread = "" if stderr is None else f" ± {_rounded(stderr * move, change)}"
    when = "once training has settled" if answer.horizon is None else f"after {answer.horizon} more steps"
    size = f"the validation loss by {_rounded(abs(change), change)}{spread} {when}"
    if not found.value:
        if slope > 0.0:
            return Advice(by, "keep", f"Leave {what} at 0: {number(FROM_ZERO)} of it would raise {size}.", change)
        return Advice(by, "raise", f"Add {what}: {number(FROM_ZERO)} of it should lower {size}.", change)
    direction, sign = ("raise", "+") if slope < 0.0 else ("lower", "−")
    return Advice(by, direction, f"{direction.capitalize()} {what}: {sign}10 % should lower {size}.", change)


def noise(answer: MethodAnswer) -> float:
    """What a derivative may be off by, at 95 %: 0 where no standard error is known."""
    return (SURE if (known(answer.draws) or 1) == 1 else SURE_OF_FEW) * (known(answer.stderr) or 0.0)


def _leading(found: HyperparameterAnswers) -> MethodAnswer | None:
    """The answer that the advice rests on: what a real change did, else a derivative, the next steps first."""
    for method in (CONTINUED, UNROLL, *(answer.method for answer in found.answers)):
        answer = found.by(method)
        if answer is not None and known(answer.gradient) is not None:
            return answer
    return None


def _doubt(found: HyperparameterAnswers, answer: MethodAnswer) -> str | None:
    """Why the answer is not to be acted on; None where it may be."""
    slope, stderr, smooth = known(answer.gradient), known(answer.stderr), known(answer.metasmoothness)
    assert slope is not None
    if not math.isfinite(slope):
        return "the validation loss is not finite"
    draws = known(answer.draws) or 1
    if stderr is not None and abs(slope) < noise(answer):
        told = "the validation rows do" if draws == 1 else f"{draws} random repeats do"
        move = move_of(found.value)
        return (
            f"{told} not tell the sign ({number(slope * move)} ± {number(stderr * move)} for "
            f"{'10 %' if found.value else number(move)})"
        )
    if draws == 1 and smooth is not None and smooth < SMOOTH:
        return f"both halves of the move lead apart (cosine {number(smooth)}), so what it does is chance"
    return _doubt_of_solve(answer, slope)


def _doubt_of_solve(answer: MethodAnswer, slope: float) -> str | None:
    """What speaks against an answer for weights at rest; None where nothing does."""
    residual = known(answer.residual)
    if residual is not None and residual > TOLERANCE:
        return f"the solve has not settled (residual {number(residual)})"
    if known(answer.negative_curvature):
        return "the curvature is negative somewhere, so training has not settled"
    others = [known(answer.less_damped), known(answer.more_damped)]
    if any(other is not None and other * slope < 0.0 for other in others):
        return "the sign depends on the damping"
    return None


def _rounded(value: float, beside: float) -> str:
    """Two digits of a number, in the decimals of the one that it stands beside."""
    size = math.floor(math.log10(abs(beside))) if beside else -1
    return f"{value:.{max(0, 1 - size)}f}" if -5 < size < 5 else f"{value:.1e}"
