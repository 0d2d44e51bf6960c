"""The optimizer's settings as typed, refused where no optimizer takes them."""

import math

from fromage_cli.errors import UsageError


def check_numbers(
    *,
    optimizer: str | None,
    lr: float | None,
    momentum: float | None,
    nesterov: bool,
    betas: str | None,
    weight_decay: float | None,
    tolerance: float,
) -> None:
    """Raises UsageError for a number out of range, or a setting that the optimizer named does not have."""
    _require("--lr", lr, lr is None or 0.0 < lr < math.inf, "a number above 0")
    _require("--momentum", momentum, momentum is None or 0.0 <= momentum < 1.0, "a number from 0 to below 1")
    decays = weight_decay is None or 0.0 <= weight_decay < math.inf
    _require("--weight-decay", weight_decay, decays, "a number, 0 or above")
    _require("--tolerance", tolerance, 0.0 < tolerance < 1.0, "a number between 0 and 1")
    foreign = [
        flag
        for flag, given, rules in (
            ("--momentum", momentum is not None, ("sgd",)),
            ("--nesterov", nesterov, ("sgd",)),
            ("--betas", betas is not None, ("adam", "adamw")),
        )
        if given and optimizer is not None and optimizer not in rules
    ]
    if foreign:
        raise UsageError(f"{foreign[0]} is no setting of {optimizer}.", "Leave it out, or choose another --optimizer.")
    if nesterov and momentum == 0.0:
        raise UsageError("--nesterov without momentum is plain descent.", "Give --momentum above 0, or leave it out.")


def pair_of_betas(text: str | None) -> tuple[float, float] | None:
    """`.9,.95` as two numbers from 0 to below 1.

    Raises UsageError.
    """
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first = second = math.nan
    _require("--betas", text, 0.0 <= first < 1.0 and 0.0 <= second < 1.0, "two numbers from 0 to below 1, as .9,.999")
    return first, second


def _require(flag: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise UsageError(f"{flag} {value}: expected {expected}.", f"Give {flag} another value.")
