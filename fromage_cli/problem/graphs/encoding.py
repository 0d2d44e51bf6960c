"""Values of a graph in JSON's own types: what JSON does not have is an object of one member that names its kind."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fromage_cli.errors import MismatchError
from fromage_cli.problem.graphs.graph import DTYPES


class NotExportable(MismatchError):
    """Says why a network or a loss does not become a graph."""


def arranged(value: Any, found: list[Any]) -> Any:
    """How values are arranged, with the place in `found` of each tensor, which is put there; objects are left out."""
    if isinstance(value, Tensor | torch.SymInt | torch.SymFloat):
        found.append(value)
        return {"place": len(found) - 1}
    if isinstance(value, Mapping):
        return {"dict": {str(key): arranged(item, found) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [arranged(item, found) for item in value]}
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {"dict": {name: arranged(getattr(value, name), found) for name in value.__dataclass_fields__}}
    return plain(value) if is_plain(value) else None


def placed(result: Any, outputs: Sequence[Any]) -> Any:
    """The same arrangement with the outputs in their places."""
    if not isinstance(result, Mapping):
        return result
    kind, value = next(iter(result.items()))
    if kind == "place":
        return outputs[value]
    if kind == "dict":
        return {"dict": {key: placed(item, outputs) for key, item in value.items()}}
    if kind in ("tuple", "list"):
        items = [placed(item, outputs) for item in value]
        return {"tuple": items} if kind == "tuple" else items
    return dict(result)


def is_plain(value: Any) -> bool:
    """Whether JSON has such values, but for numbers that are not finite."""
    return value is None or isinstance(value, bool | int | float | str)


def plain(value: Any) -> Any:
    """A plain value in JSON's own types."""
    return {"number": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def encoded(value: Any, known: Mapping[str, Any]) -> Any:
    """An argument of an operator; `known`: what stands for each node. Raises NotExportable."""
    if isinstance(value, fx.Node):
        return known[value.name]
    if isinstance(value, list | tuple):
        return [encoded(item, known) for item in value]
    if isinstance(value, slice):
        return {"slice": [encoded(end, known) for end in (value.start, value.stop, value.step)]}
    if is_plain(value):
        return plain(value)
    for kind, encode in _KINDS.items():
        if isinstance(value, kind):
            return encode(value)
    raise NotExportable(f"A step of the graph has an argument of type {type(value).__name__}.", "")


def _word(value: Any) -> str:
    return str(value).removeprefix("torch.")


def _dtype(value: torch.dtype) -> dict[str, str]:
    if _word(value) not in DTYPES:
        raise NotExportable(f"A step of the graph works in {value}.", "")
    return {"dtype": _word(value)}


_KINDS: Mapping[type, Callable[[Any], Any]] = {
    torch.dtype: _dtype,
    torch.device: lambda value: {"device": "weights"},
    torch.layout: lambda value: {"layout": _word(value)},
    torch.memory_format: lambda value: {"memory_format": _word(value)},
    complex: lambda value: {"complex": [plain(value.real), plain(value.imag)]},
}
"""How objects of torch are written."""


def names_in(template: Any) -> Iterator[str]:
    """The names of values in what was encoded."""
    if isinstance(template, Mapping):
        if set(template) == {"value"}:
            yield template["value"]
            return
        template = list(template.values())
    if isinstance(template, list | tuple):
        for item in template:
            yield from names_in(item)


def argument_of(argument: Any) -> Any:
    """A value in a signature of torch.export: a name, or a constant. Raises TypeError for any other."""
    kind = type(argument).__name__
    if kind == "ConstantArgument":
        return plain(argument.value) if is_plain(argument.value) else None
    if kind in ("TensorArgument", "SymIntArgument", "SymFloatArgument", "SymBoolArgument"):
        return {"value": argument.name}
    raise TypeError(kind)


def template_of(value: Any) -> Any:
    """Nested values of a signature; raises TypeError for what is no dict, list or tuple."""
    if isinstance(value, Mapping):
        if set(value) in ({"value"}, {"number"}) and isinstance(next(iter(value.values())), str):
            return dict(value)
        return {"dict": {str(key): template_of(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        items = [template_of(item) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if hasattr(value, "__dataclass_fields__"):
        return {"dict": {name: template_of(getattr(value, name)) for name in value.__dataclass_fields__}}
    if is_plain(value):
        return value
    raise TypeError(type(value).__name__)
