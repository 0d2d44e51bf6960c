"""Tensors inside objects of unknown classes: what a placeholder holds, as what its state_dict() would be.

A pickled network keeps its tensors as `_parameters`, `_buffers` and `_modules`, one of TorchScript as plain attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.repetition import Repetition, repeated
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor

SCRIPT = "__torch__"
"""What modules of TorchScript's classes begin with."""
DEEPEST = 100
"""Networks inside of each other; one that holds itself has no end of them."""
LONGEST = 10_000
"""Members of a list or tuple that is looked into; longer ones are data."""


def opened_up(root: Any) -> Any:
    """The same with every placeholder in a dictionary or list replaced by the dictionary of what it holds.

    Networks become flat dictionaries of tensors. What stands in tuples stays.
    """
    top, repetition = [root], Repetition()
    pending: list[Any] = [top]
    seen: dict[int, Any] = {id(top): top}
    shown: dict[int, Any] = {}
    while pending:
        node = pending.pop()
        for name, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(value, Placeholder) and not isinstance(node, tuple):
                if id(value) not in shown:
                    shown[id(value)] = _shown(value, repetition)
                node[name] = shown[id(value)]
        for value in node.values() if isinstance(node, dict) else node:
            if _is_open(value) and id(value) not in seen:
                seen[id(value)] = value
                pending.append(value)
    return top[0]


def _is_open(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and len(value) <= LONGEST)


def _shown(value: Placeholder, repetition: Repetition) -> Any:
    """What an object holds; one that holds nothing stays what it is."""
    if _is_module(value):
        return dict(_tensors(value, repetition))
    attributes = value.attributes
    if isinstance(attributes, dict) and attributes and not value.pairs:
        return attributes
    return {**repetition.look(attributes), **value.pairs} or value.items or value


def _is_module(value: Placeholder) -> bool:
    attributes = value.attributes
    return {"_parameters", "_modules"} <= attributes.keys() or value.kind.module.partition(".")[0] == SCRIPT


def _tensors(module: Placeholder, repetition: Repetition) -> Iterator[tuple[str, Any]]:
    """The names and tensors of a network, depth first, in the order in which it would name them."""
    pending: list[tuple[str, int, Placeholder]] = [("", 0, module)]
    while pending:
        prefix, depth, current = pending.pop()
        if depth > DEEPEST:
            raise repeated()
        attributes = current.attributes
        for name, value in _own(attributes, repetition):
            yield f"{prefix}{name}", value
        below = attributes.get("_modules", attributes)
        below = repetition.look(below) if isinstance(below, Mapping) else {}
        children = [(str(name), child) for name, child in below.items()]
        modules = [(name, child) for name, child in children if isinstance(child, Placeholder) and _is_module(child)]
        pending.extend((f"{prefix}{name}.", depth + 1, child) for name, child in reversed(modules))


def _own(attributes: Mapping[str, Any], repetition: Repetition) -> Iterator[tuple[str, Any]]:
    """The tensors of one module itself, without buffers that its state_dict() would leave out."""
    hidden = attributes.get("_non_persistent_buffers_set")
    unsaved = hidden if isinstance(hidden, set) else set()
    places = (
        [attributes.get("_parameters"), attributes.get("_buffers")] if "_parameters" in attributes else [attributes]
    )
    for place in places:
        for name, value in repetition.look(place).items() if isinstance(place, Mapping) else ():
            if isinstance(value, StoredTensor) and name not in unsaved:
                yield str(name), value
