"""From results to strict JSON: dataclasses become objects; what is missing or not finite becomes null."""

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypedDict

from fromage_cli.missing import Missing


class NotFinite(TypedDict):
    """A number that JSON cannot hold; null stands in its place."""

    path: str
    """Where it stands: `result.layers[0].norm`."""
    value: str
    """`nan`, `inf` or `-inf`."""


Nonfinite = list[NotFinite]


def plain(value: object, path: str, nonfinite: Nonfinite) -> Any:
    """The value in JSON's own types; each nan or infinity becomes None, its path and kind are added to `nonfinite`.

    A Missing becomes None too; the object that holds it, by itself or in a list, tells why under `missing`.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, Missing):
        return None
    if isinstance(value, str | PurePath):
        return _text(value)
    if isinstance(value, int):
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        nonfinite.append({"path": path, "value": str(float(value))})
        return None
    return _plain_nested(value, path, nonfinite)


def _plain_nested(value: object, path: str, nonfinite: Nonfinite) -> Any:
    """The same for what holds other values: a dataclass, a mapping, a number of torch or numpy, a series."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = {_text(key): item for key, item in value.items()}
        held = {key: plain(item, _member(path, key), nonfinite) for key, item in items.items()}
        reasons = {}
        for key, item in items.items():  # of a list the first of its values that is missing
            for why in item if isinstance(item, list | tuple) else (item,):
                if isinstance(why, Missing):
                    reasons[key] = {"code": why.code.value, "reason": why.words}
                    break
        return held | {"missing": reasons} if reasons else held
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain(value.item(), path, nonfinite)
    if isinstance(value, Iterable):
        return [plain(item, f"{path}[{index}]", nonfinite) for index, item in enumerate(value)]
    raise TypeError(f"{path}: {type(value).__name__} has no form in JSON")


def _text(value: object) -> str:
    """The text as Unicode can store it: bytes of a path that are no UTF-8 are spelled out."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _member(path: str, key: str) -> str:
    """`result.layers`, or `result["a b"]` where the key is no identifier."""
    if not key.isidentifier():
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        return f'{path}["{escaped}"]'
    return f"{path}.{key}" if path else key
