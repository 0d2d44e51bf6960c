"""Tensors inside objects of unknown classes: what a placeholder holds, as what its state_dict() would be.

A pickled network keeps its tensors as `_parameters`, `_buffers` and `_modules`, one of TorchScript as plain attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import InputError

SCRIPT = "__torch__"
"""What modules of TorchScript's classes begin with."""
BASE, MOST = 1000, 16
"""Names that all modules may have, and each on average: a network that holds itself has no end of them."""


def opened_up(root: Any) -> Any:
    """The same with every placeholder in a dictionary or list replaced by the dictionary of what it holds.

    Networks become flat dictionaries of tensors. What stands in tuples stays.
    """
    top = [root]
    pending: list[Any] = [top]
    seen: dict[int, Any] = {id(top): top}
    shown: dict[int, Any] = {}
    while pending:
        node = pending.pop()
        for name, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(value, Placeholder) and not isinstance(node, tuple):
                if id(value) not in shown:
                    shown[id(value)] = _shown(value)
                node[name] = shown[id(value)]
        for value in node.values() if isinstance(node, dict) else node:
            if isinstance(value, dict | list | tuple) and id(value) not in seen:
                seen[id(value)] = value
                pending.append(value)
    return top[0]


def _shown(value: Placeholder) -> Any:
    """What an object holds; one that holds nothing stays what it is."""
    if _is_module(value):
        return dict(_tensors(value))
    return {**value.attributes, **value.pairs} or value.items or value


def _is_module(value: Placeholder) -> bool:
    attributes = value.attributes
    return {"_parameters", "_modules"} <= attributes.keys() or value.kind.module.partition(".")[0] == SCRIPT


def _tensors(module: Placeholder) -> Iterator[tuple[str, Any]]:
    """The names and tensors of a network, depth first, in the order in which it would name them."""
    pending: list[tuple[str, Placeholder]] = [("", module)]
    visits, distinct = 0, set()
    while pending:
        prefix, current = pending.pop()
        attributes = current.attributes
        for name, value in _own(attributes):
            yield f"{prefix}{name}", value
        below = attributes.get("_modules", attributes)
        children = [(str(name), child) for name, child in below.items()] if isinstance(below, dict) else []
        modules = [(name, child) for name, child in children if isinstance(child, Placeholder) and _is_module(child)]
        pending.extend((f"{prefix}{name}.", child) for name, child in reversed(modules))
        visits += 1
        distinct.add(id(current))
        if visits > BASE + MOST * len(distinct):
            raise InputError(
                "The network that was pickled holds itself, or parts of itself many times over.",
                hint="Save the weights alone: torch.save(model.state_dict(), 'weights.pt').",
            )


def _own(attributes: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of one module itself, without buffers that its state_dict() would leave out."""
    hidden = attributes.get("_non_persistent_buffers_set")
    unsaved = hidden if isinstance(hidden, set) else set()
    places = (
        [attributes.get("_parameters"), attributes.get("_buffers")] if "_parameters" in attributes else [attributes]
    )
    for place in places:
        for name, value in place.items() if isinstance(place, dict) else ():
            if isinstance(value, StoredTensor) and name not in unsaved:
                yield str(name), value
