"""Values as people type them: `90s`, `8GB`, `name=value`."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import typer

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "kib": 2**10,
    "m": 10**6,
    "mb": 10**6,
    "mib": 2**20,
    "g": 10**9,
    "gb": 10**9,
    "gib": 2**30,
    "t": 10**12,
    "tb": 10**12,
    "tib": 2**40,
}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def duration(text: str) -> float:
    """Seconds: `90`, `90s`, `5m`, `1.5h`."""
    return _quantity(str(text), _SECONDS, "a time such as 90, 90s, 5m or 1h")


def memory(text: str) -> int:
    """Bytes: `8GB` (10⁹), `500MiB` (2²⁰) or a plain number."""
    return int(_quantity(str(text), _BYTES, "a size such as 8GB, 500MiB or a number of bytes"))


def _quantity(text: str, units: "dict[str, float] | dict[str, int]", expected: str) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = match[2].lower() if match else ""
    quantity = float(match[1]) * units[unit] if match is not None and unit in units else math.nan
    if not 0 < quantity < math.inf:
        raise typer.BadParameter(f"{text!r} is not {expected}")
    return quantity


def device(text: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    if not _DEVICE.fullmatch(name := str(text).lower()):
        raise typer.BadParameter(f"{text!r} is not one of auto, cpu, cuda, cuda:N")
    return name


def seed(text: str) -> int:
    """A whole number from 0 to 2⁶³ − 1."""
    if not re.fullmatch(r"\d{1,19}", str(text)) or int(text) >= 2**63:
        raise typer.BadParameter(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def choice_or_name(*choices: str) -> Callable[[str], str]:
    """A parser of one of these words in any case, or of a name that stays as it is."""

    def parsed(text: str) -> str:
        return text.lower() if text.lower() in choices else text

    return parsed


def assignment(text: str) -> str:
    """A `NAME=VALUE`, checked for its shape."""
    name, equals, _ = str(text).partition("=")
    if not equals or not name.strip():
        raise typer.BadParameter(f"{text!r} is not of the form NAME=VALUE")
    return str(text)


def assigned(text: str) -> tuple[str, object]:
    """Name and value of `NAME=VALUE`; the value is JSON, or a plain string where it is not."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def output_file(text: str) -> Path:
    """A path that is not empty; `~` is the home directory."""
    if not str(text).strip():
        raise typer.BadParameter("the file name is empty")
    try:
        return Path(str(text)).expanduser()
    except RuntimeError:
        return Path(str(text))


def answer_file(text: str) -> Path | None:
    """The same for the answer, which goes to standard output where it is named `-`."""
    return None if str(text).strip() == "-" else output_file(text)
