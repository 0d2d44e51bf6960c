"""Training steps, as metadata and the names of files and directories tell them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

STEP_NAMES = (
    *("global_step", "step", "global_steps", "steps", "iteration", "iterations", "iter", "iter_num", "num_steps"),
)
"""What trainers call the number of steps, in order of preference."""
_NUMBER = r"([0-9]{1,18})(?![0-9A-Za-z])"
_STEP = re.compile(r"(?:^|[^A-Za-z])(?:global[-_ ]?)?(?:steps?|iter(?:ation)?s?)[-_= ]?" + _NUMBER, re.IGNORECASE)
_CHECKPOINT = re.compile(
    r"(?:^|[^A-Za-z])(?:checkpoint|ckpt|chkpt|model|weights|snapshot|state|params)[-_= ]?" + _NUMBER, re.IGNORECASE
)
_STEP_DIRECTORY = re.compile(r"(global[-_ ]?step|step|iter|checkpoint|ckpt|epoch=?[0-9]+-step)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:^|[^A-Za-z])ep(?:och)?s?[-_= ]?" + _NUMBER, re.IGNORECASE)
_BARE = re.compile(r"^([0-9]{1,18})$")
SHARD = re.compile(r"[-_.][0-9]{3,6}-of-[0-9]{3,6}(?=\.|$)")


def step_in_name(stem: str) -> int | None:
    """Return the step in a name without its extension: "step-000400", "checkpoint-500", "epoch=3-step=900"."""
    if SHARD.search(stem):
        return None
    for pattern in (_STEP, _CHECKPOINT, _BARE):
        if found := pattern.search(stem):
            return int(found.group(1))
    return None


def step_of_directory(name: str) -> int | None:
    """Return the step in the name of the directory around a file, where it begins with it: "checkpoint-500"."""
    return step_in_name(name) if _STEP_DIRECTORY.match(name) else None


def epoch_in_name(stem: str) -> int | None:
    """Return the epoch in a name without its extension: "epoch_3", "ep12"."""
    found = None if SHARD.search(stem) else _EPOCH.search(stem)
    return int(found.group(1)) if found else None


def step_in_metadata(metadata: Mapping[str, object]) -> int | None:
    """Return the step that metadata or a training checkpoint's top-level entries tell; epochs are not steps."""
    for name in STEP_NAMES:
        value = metadata.get(name)
        if type(value) is int and value >= 0:
            return value
        if isinstance(value, str) and _BARE.match(value):
            return int(value)
    return None


def first_step(dictionaries: Iterable[Mapping[str, Any]], number: Callable[[Any], object]) -> int | None:
    """Return the step that the first of the dictionaries with one tells; `number` reads values that are not plain."""
    steps = (
        step_in_metadata({name: number(saved[name]) for name in STEP_NAMES if name in saved}) for saved in dictionaries
    )
    return next((step for step in steps if step is not None), None)


def order_in_name(stem: str) -> tuple[str, int] | None:
    """Return ("step", number) or ("epoch", number) as a name tells it; None when it tells neither."""
    if (step := step_in_name(stem)) is not None:
        return "step", step
    if (epoch := epoch_in_name(stem)) is not None:
        return "epoch", epoch
    return None


def words_in(stem: str) -> list[str]:
    """Return the words of a name in lower case: "model_ema-100" -> ["model", "ema", "100"]."""
    return [word for word in re.split(r"[^0-9A-Za-z]+", stem.lower()) if word]
