"""From the answers on one hyperparameter to what to do with it, in one sentence."""

import math
from dataclasses import dataclass, replace

from fromage_cli.diagnostics.hypergrad.result import CONTINUED, UNROLL, HyperparameterAnswers, MethodAnswer
from fromage_cli.missing import Missing, Why, known
from fromage_cli.probes.hypergradients.continued import CHANGE, FROM_ZERO, PROBABILITIES, SMOOTH
from fromage_cli.probes.hypergradients.implicit import TOLERANCE
from fromage_cli.probes.hypergradients.validation import PARTS
from fromage_cli.terminal.words import number
from fromage_cli.theory.students_t import sure

NEGLIGIBLE = 5e-4
"""Change of the validation loss, over the loss, that is not worth acting on."""
APART = 0.25
"""Relative gap between two answers from which on they are two."""
DIVERGED = 10.0
"""Validation loss after the steps, over that before, from which on training has gone wrong in them."""
TITLES = {"weight-decay": "weight decay", "label-smoothing": "label smoothing", "dropout": "dropout"}


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


def advised(
    found: HyperparameterAnswers, val_loss: float, after: float | None = None, parts: int = PARTS
) -> HyperparameterAnswers:
    """The same with the advice that its answers allow.

    `after`: the validation loss after the further steps; `parts`: of the validation rows, in standard errors.
    """
    advice = _advise(found, val_loss, after, parts)
    return replace(
        found,
        advised_by=advice.advised_by,
        direction=advice.direction,
        advice=advice.sentence,
        expected_change=advice.expected_change,
    )


def move_of(found: HyperparameterAnswers) -> float:
    """How far the advice moves a hyperparameter, either way; a probability stays below 1."""
    value = found.value
    if not value:
        return FROM_ZERO
    return min(CHANGE * value, 0.5 * (1.0 - value)) if found.name in PROBABILITIES else CHANGE * abs(value)


def _advise(found: HyperparameterAnswers, val_loss: float, after: float | None, parts: int) -> Advice:
    answer = _leading(found)
    what = title(found.name, found.scope)
    if answer is None:
        reason = next((a.gradient.words for a in found.answers if isinstance(a.gradient, Missing)), "nothing was found")
        missing = Missing(Why.RESTS_ON_MISSING, reason)
        return Advice(None, "unclear", f"Nothing is known of {what}: {reason}.", missing)
    slope = known(answer.gradient)
    assert slope is not None  # by `_leading`
    move, stderr, by = move_of(found), known(answer.stderr), answer.method
    change, worth = -abs(slope) * move, NEGLIGIBLE * abs(val_loss)
    doubt = _doubt(found, answer, parts)
    if answer.horizon is not None and after is not None and after > DIVERGED * abs(val_loss):
        doubt = f"in these steps the validation loss rises from {number(val_loss)} to {number(after)}"
    small = abs(change) < worth
    if doubt is not None and not (small and stderr is not None and noise(answer, parts) * move < worth):
        return Advice(by, "unclear", f"Do not act on {what}: {doubt}.", Missing(Why.INDISTINCT, doubt))
    if small:
        words = f"{number(move)} more or less changes the validation loss by {number(abs(change))} only"
        return Advice(by, "keep", f"Leave {what} at {number(found.value)}: {words}.", change + 0.0)
    spread = "" if stderr is None else f" ± {_rounded(stderr * move, change)}"
    when = "once training has settled" if answer.horizon is None else f"after {answer.horizon} more steps"
    size = f"the validation loss by {_rounded(abs(change), change)}{spread} {when}"
    expected: float | Missing = change
    others = [known(answer.less_damped), known(answer.more_damped)]
    if any(other is not None and abs(other - slope) > APART * abs(slope) for other in others):
        size = f"the validation loss {when}; the damping decides by how much"
        expected = Missing(Why.INDISTINCT, "it depends on the damping")
    if not found.value and slope > 0.0:
        expected = expected if isinstance(expected, Missing) else -expected
        return Advice(by, "keep", f"Leave {what} at 0: {number(FROM_ZERO)} of it would raise {size}.", expected)
    if not found.value:
        return Advice(by, "raise", f"Add {what}: {number(FROM_ZERO)} of it should lower {size}.", expected)
    direction, sign = ("raise", "+") if slope < 0.0 else ("lower", "−")
    return Advice(
        by, direction, f"{direction.capitalize()} {what}: {sign}{_amount(found)} should lower {size}.", expected
    )


def _amount(found: HyperparameterAnswers) -> str:
    """How far the advice moves it, in words."""
    move = move_of(found)
    return "10 %" if found.value > 0.0 and move == CHANGE * found.value else number(move)


def noise(answer: MethodAnswer, parts: int) -> float:
    """What a derivative may be off by, at 95 %: 0 where no standard error is known."""
    draws = known(answer.draws) or 1
    stderr = known(answer.stderr)
    return 0.0 if stderr is None else sure(min(parts, draws) if draws > 1 and parts > 1 else max(parts, draws)) * stderr


def _leading(found: HyperparameterAnswers) -> MethodAnswer | None:
    """The answer that the advice rests on: what a real change did, else a derivative, the next steps first."""
    for method in (CONTINUED, UNROLL, *(answer.method for answer in found.answers)):
        answer = found.by(method)
        if answer is not None and known(answer.gradient) is not None:
            return answer
    return None


def _doubt(found: HyperparameterAnswers, answer: MethodAnswer, parts: int) -> str | None:
    """Why the answer is not to be acted on; None where it may be."""
    slope, smooth, moved = known(answer.gradient), known(answer.metasmoothness), found.by(CONTINUED)
    assert slope is not None
    if moved is not None and isinstance(moved.gradient, Missing):
        words = moved.gradient.words.rstrip(".")
        return f"with it moved, {words[:1].lower()}{words[1:]}"
    if (doubt := _doubt_of_solve(answer, slope)) is not None:
        return doubt
    if isinstance(answer.stderr, Missing):
        return f"its standard error is not known ({answer.stderr.words})"
    draws = known(answer.draws) or 1
    if abs(slope) < noise(answer, parts):
        told, move = "the validation rows do" if draws == 1 else f"{draws} random repeats do", move_of(found)
        return (
            f"{told} not tell the sign ({number(slope * move)} ± {number(answer.stderr * move)} for {_amount(found)})"
        )
    if draws == 1 and smooth is not None and smooth < SMOOTH:
        return f"both halves of the move lead apart (cosine {number(smooth)}), so what it does is chance"
    return None


def _doubt_of_solve(answer: MethodAnswer, slope: float) -> str | None:
    """What speaks against an answer before its noise does, most of all one for weights at rest; None: nothing."""
    if not math.isfinite(slope):
        return "the validation loss is not finite"
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
