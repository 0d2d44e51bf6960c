"""Reading answers as JSON without trusting them: whatever is of another kind than expected counts as not there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

FARTHEST_STEP = 1e15
"""Steps beyond are no steps of a run."""
LONGEST = 1000
"""Characters of a text that are shown."""


def at(told: Any, *path: str) -> Any:
    """What stands at the end of a path of keys; None where there is none."""
    for key in path:
        told = told.get(key) if isinstance(told, Mapping) else None
    return told


def number_at(told: Any, *path: str) -> float | None:
    """A finite number; None where there is none."""
    return as_number(at(told, *path))


def text_at(told: Any, *path: str) -> str:
    """A text, cut where it is very long; empty where there is none."""
    found = at(told, *path)
    return found[:LONGEST] if isinstance(found, str) else ""


def entries_at(told: Any, *path: str) -> list[Mapping[str, Any]]:
    """The objects of a list; none where there is no list."""
    found = at(told, *path)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def numbers_at(told: Any, *path: str) -> list[float | None]:
    """A list of numbers, None for each entry that is no finite number."""
    found = at(told, *path)
    return [as_number(each) for each in found] if isinstance(found, list) else []


def steps_at(told: Any, *path: str) -> list[float | None]:
    """A list of steps, None for each that no run has."""
    return [step if step is not None and abs(step) < FARTHEST_STEP else None for step in numbers_at(told, *path)]


def as_number(value: Any) -> float | None:
    """The value where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def step_text(step: float | None) -> str:
    """A step with all its digits; a dash where it is not known."""
    return "—" if step is None else f"{step:.15g}"


def known(values: Sequence[float | None]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if value is not None]
