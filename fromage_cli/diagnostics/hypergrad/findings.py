"""What the answers mean beside the advice: codes, limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.diagnostics.hypergrad.advice import APART, noise, title
from fromage_cli.diagnostics.hypergrad.result import CONTINUED, UNROLL, HypergradResult
from fromage_cli.findings import Finding
from fromage_cli.missing import known
from fromage_cli.terminal.words import number


def judge(result: HypergradResult) -> tuple[Finding, ...]:
    """The findings of a hypergrad result."""
    return (*_move(result), *_apart(result))


def _move(result: HypergradResult) -> Iterator[Finding]:
    """Each hyperparameter that is better moved."""
    for one in result.hyperparameters:
        if one.scope == "all" and one.direction in ("raise", "lower") and one.advice:
            yield Finding(
                code="raise-hyperparameter" if one.direction == "raise" else "lower-hyperparameter",
                severity="info",
                message=one.advice[0].lower() + one.advice[1:].rstrip("."),
                value=known(one.expected_change),
                hint="Change it a little, train on, and ask again.",
            )


def _apart(result: HypergradResult) -> Iterator[Finding]:
    """A change of 10 % does something else than the derivative says."""
    for one in result.hyperparameters:
        slope, moved = one.by(UNROLL), one.by(CONTINUED)
        first = known(slope.gradient) if slope is not None else None
        second = known(moved.gradient) if moved is not None else None
        if first is None or second is None or moved is None or not math.isfinite(first) or not math.isfinite(second):
            continue
        if abs(first - second) <= max(APART * max(abs(first), abs(second)), noise(moved, result.val_parts)):
            continue
        yield Finding(
            code="derivative-does-not-reach",
            severity="info",
            message=(
                f"{title(one.name, one.scope)}: per unit the derivative is {number(first)}, "
                f"and moving it by 10 % gives {number(second)}"
            ),
            value=second,
            limit=first,
            hint="The loss bends within that move, so the advice rests on the move itself.",
        )
