"""Tensors inside objects of unknown classes: what a placeholder holds, as what its state_dict() would be.

A pickled network keeps its tensors as `_parameters`, `_buffers` and `_modules`, one of TorchScript as plain attributes;
networks of other libraries keep NumPy's arrays as attributes of objects, in lists of objects, and so on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fromage_cli.checkpoints.pickles.allowance import Repetition, repeated
from fromage_cli.checkpoints.pickles.numpy_pickles import StoredArray
from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor

TORCHSCRIPT = "__torch__"
"""What the modules of TorchScript's classes begin with."""
OMEGACONF, CONTENT = "omegaconf", ("_content", "_val")
"""Hydra's settings: a list, a dictionary or a number, each inside of an object, such as an optimizer's betas."""
MOST_NESTED_MODULES = 100
"""Networks inside of each other; one that holds itself has no end of them."""
LONGEST_SEQUENCE = 10_000
"""Members of a list or tuple that is looked into; longer ones are data."""


def without_placeholders(root: Any) -> Any:
    """Return the same with every placeholder in a dictionary or list replaced by the dictionary of what it holds.

    Networks become flat dictionaries of tensors, and so does an object that holds arrays alone. What stands in tuples
    stays.
    """
    repetition = Repetition()
    if isinstance(root, Placeholder) and not _is_module(root) and (arrays := _arrays(root, repetition)):
        return arrays
    top = [root]
    pending: list[Any] = [top]
    seen: dict[int, Any] = {id(top): top}
    replaced: dict[int, Any] = {}
    while pending:
        node = pending.pop()
        for name, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(node, tuple):
                break
            if isinstance(value, StoredArray) and value.tensor is not None:
                node[name] = value.tensor
            elif isinstance(value, Placeholder):
                if id(value) not in replaced:
                    replaced[id(value)] = _held(value, repetition)
                node[name] = replaced[id(value)]
        for value in node.values() if isinstance(node, dict) else node:
            if _is_container(value) and id(value) not in seen:
                seen[id(value)] = value
                pending.append(value)
    return top[0]


def _is_container(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and len(value) <= LONGEST_SEQUENCE)


def _is_module(value: Placeholder) -> bool:
    scripted = value.kind.module.partition(".")[0] == TORCHSCRIPT
    return scripted or {"_parameters", "_modules"} <= value.attributes.keys()


def _held(value: Placeholder, repetition: Repetition) -> Any:
    """Return what an object holds; one that holds nothing stays what it is."""
    if _is_module(value):
        return _state_dict(value, repetition)
    attributes = value.attributes
    if value.kind.module.partition(".")[0] == OMEGACONF and (content := [one for one in CONTENT if one in attributes]):
        return attributes[content[0]]
    if isinstance(attributes, dict) and attributes and not value.pairs:
        return attributes
    return {**repetition.look(attributes), **value.pairs} or value.items or value


def _arrays(root: Placeholder, repetition: Repetition) -> dict[str, StoredTensor]:
    """Return every array in an object, by the path of attributes, keys and places in lists; none if it has tensors."""
    found: dict[str, StoredTensor] = {}
    pending: list[tuple[str, int, Any]] = [("", 0, root)]
    while pending:
        path, depth, value = pending.pop()
        if isinstance(value, StoredTensor) or depth > MOST_NESTED_MODULES:
            return {}
        if isinstance(value, StoredArray):
            found |= {path: value.tensor} if value.tensor is not None else {}
        parts = _parts(value, repetition)
        below = [(repetition.dotted(path, name) if path else name, depth + 1, part) for name, part in parts]
        pending.extend(reversed(below))
    return found


def _parts(value: Any, repetition: Repetition) -> Iterator[tuple[str, Any]]:
    """Yield what an object, a dictionary or a list holds, by name or place."""
    if isinstance(value, Placeholder):
        for held in (value.attributes, value.pairs, value.items):
            yield from _parts(held, repetition)
    elif isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in repetition.look(value).items())
    elif _is_container(value):
        yield from ((str(place), part) for place, part in enumerate(repetition.look(value)))


def _state_dict(module: Placeholder, repetition: Repetition) -> dict[str, StoredTensor]:
    """Return the tensors of a network by name, depth first, in the order in which its state_dict() would have them."""
    found: dict[str, StoredTensor] = {}
    pending: list[tuple[tuple[str, ...], Placeholder]] = [((), module)]
    while pending:
        path, current = pending.pop()
        if len(path) > MOST_NESTED_MODULES:
            raise repeated()
        attributes = current.attributes
        hidden = attributes.get("_non_persistent_buffers_set")
        unsaved = hidden if isinstance(hidden, set) else set()
        own = ("_parameters", "_buffers") if "_parameters" in attributes else ()
        for held in [attributes.get(name) for name in own] or [attributes]:
            for name, value in repetition.look(held).items() if isinstance(held, Mapping) else ():
                if isinstance(value, StoredTensor) and name not in unsaved:
                    found[repetition.dotted(*path, str(name))] = value
        below = attributes.get("_modules", attributes)
        below = repetition.look(below) if isinstance(below, Mapping) else {}
        children = [(str(name), child) for name, child in below.items()]
        modules = [(name, child) for name, child in children if isinstance(child, Placeholder) and _is_module(child)]
        pending.extend(((*path, name), child) for name, child in reversed(modules))
    return found
