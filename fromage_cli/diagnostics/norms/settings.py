"""The optimizer and its rate along a series: given, found in its state, or declared beside the checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fromage_cli.checkpoints import Checkpoint, OptimizerState
from fromage_cli.checkpoints.optimizer_kind import optimizer_kind
from fromage_cli.errors import UsageError

if TYPE_CHECKING:
    from fromage_cli.problem.beside import Declared

RELATIVE = ("fromage", "lars", "lamb")
"""Optimizers whose rate is a relative step."""
OPTIMIZERS = (*RELATIVE, "sgd", "adam", "adamw", "lion")


@dataclass(frozen=True)
class Settings:
    """What is known of the training."""

    optimizer: str | None
    learning_rates: tuple[float | None, ...]
    weight_decay: float | None


def find_settings(
    checkpoints: Sequence[Checkpoint],
    declared: "Callable[[], Declared]",
    optimizer: str | None,
    learning_rate: float | None,
    weight_decay: float | None,
) -> Settings:
    """The settings along a series; what was given wins over the optimizer's state, that over what is declared.

    Raises UsageError where a rate or a decay is given that says nothing, for want of an optimizer.
    """
    states = [checkpoint.optimizer for checkpoint in checkpoints]
    optimizer = optimizer or next((kind for state in states if (kind := _kind(state))), None)
    if optimizer is None:
        for flag, value in (("--lr", learning_rate), ("--weight-decay", weight_decay)):
            if value is not None:
                raise UsageError(
                    f"{flag} says nothing as long as the optimizer is unknown.",
                    hint=f"Add --optimizer, one of {', '.join(OPTIMIZERS)}.",
                )
        return Settings(None, (None,) * len(checkpoints), None)
    rates = [_first(learning_rate, _setting(state, "lr")) for state in states]
    decay = _first(weight_decay, _setting(states[-1], "weight_decay"))
    if decay is None or None in rates:
        beside = declared()
        rates = [_first(rate, beside.learning_rate) for rate in rates]
        decay = _first(decay, beside.weight_decay)
    return Settings(optimizer, tuple(rates), decay)


def _first(*values: float | None) -> float | None:
    """The first value that is known."""
    return next((value for value in values if value is not None), None)


def _kind(state: OptimizerState | None) -> str | None:
    kind = optimizer_kind(state) if state is not None else None
    return kind if kind in OPTIMIZERS else None


def _setting(state: OptimizerState | None, name: str) -> float | None:
    """A setting that all parameter groups share; None where they differ or have none."""
    values = {float(group.settings[name]) for group in state.groups if name in group.settings} if state else set()
    return values.pop() if len(values) == 1 else None
