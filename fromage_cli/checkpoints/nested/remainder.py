"""What a file holds beside its weights: settings, counters, states of generators.

It is described within bounds. A hostile file may hold very much, nest it deeply, or put it into itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.nested.candidates import children_of, is_tensor
from fromage_cli.checkpoints.pickles.numpy_pickles import StoredArray
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder
from fromage_cli.checkpoints.storage.stored_tensor import COUNT_LIMIT, FORMATS, StoredTensor
from fromage_cli.counting import counted
from fromage_cli.errors import InputError

MOST_VALUES = 1000
"""Values that are described of one file."""
MOST_ENTRIES, LONGEST_LIST, DEEPEST, LONGEST_TEXT = 64, 16, 5, 200
"""Entries of a dictionary, members of a list, levels, and characters of a text."""
MORE = "…"
"""The name of the entry that says how many were left out."""
FEW_BYTES = 4096
"""Storages up to this size are read for the number in them: a loss or a step that was saved as a tensor."""


def beside_weights(root: object, path: Sequence[str], left_out: Sequence[str] = ()) -> dict[str, object]:
    """Return what stands around the dictionary at `path`, by dotted name, without states of optimizers.

    Of that dictionary itself the entries that were `left_out` of the weights are described.
    """
    remaining, found, node, own = _Remaining(), dict[str, object](), root, set(left_out)
    for depth, part in enumerate((*path, None)):
        if isinstance(node, Mapping):
            names = (name for name in node if (str(name) in own if part is None else str(name) != part))
            for name in islice(names, MOST_ENTRIES):
                if not _is_of_optimizer(name, node[name]):
                    found[_text(".".join((*path[:depth], _name(name))))] = remaining.described(node[name])
        if part is not None:
            node = dict(children_of(node))[part]
    return found


def described(values: Mapping[str, object]) -> dict[str, object]:
    """Return values from a file in JSON's own types, within the bounds."""
    return beside_weights(values, (), list(values))


@dataclass
class _Remaining:
    """How many values may yet be described."""

    values: int = MOST_VALUES

    def described(self, value: object, depth: int = 0) -> object:
        """Return plain values as they are, dictionaries and lists of them, and anything else in words."""
        self.values -= 1
        if isinstance(value, Mapping):
            return self._dictionary(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        return _plain(value)

    def _dictionary(self, value: Mapping[object, object], depth: int) -> object:
        tensors = sum(is_tensor(one) for one in islice(value.values(), MOST_ENTRIES))
        several = [one for one in islice(value.values(), MOST_ENTRIES) if isinstance(one, StoredTensor) and one.shape]
        if several and tensors == min(len(value), MOST_ENTRIES):
            return counted(len(value), "tensor")
        if (depth >= DEEPEST or self.values <= 0) and value:
            return f"dictionary of {counted(len(value), 'value')}"
        found: dict[str, object] = {}
        for name, held in islice(value.items(), MOST_ENTRIES):
            if self.values <= 0:
                break
            found[_name(name)] = self.described(held, depth + 1)
        return found if len(found) == len(value) else {**found, MORE: f"{len(value) - len(found)} more"}

    def _list(self, value: Sequence[object], depth: int) -> object:
        if (depth >= DEEPEST or self.values <= 0) and value:
            return f"list of {counted(len(value), 'value')}"
        found = [self.described(one, depth + 1) for one in value[: min(LONGEST_LIST, max(self.values, 0))]]
        return found if len(found) == len(value) else [*found, f"{MORE} {len(value) - len(found)} more"]


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < COUNT_LIMIT else f"integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, StoredArray) and value.tensor is not None:
        value = value.tensor
    return _number_or_kind(value) if is_tensor(value) else _in_words(value)


def _in_words(value: object) -> str:
    """What a value is that JSON has no form for."""
    if isinstance(value, bytes | bytearray):
        return counted(len(value), "byte")
    if isinstance(value, set | frozenset):
        return f"set of {counted(len(value), 'value')}"
    if isinstance(value, complex):
        return str(value)
    kind = value.kind if isinstance(value, Placeholder) else value
    return _text(f"object of {kind.dotted if isinstance(kind, Global) else type(kind).__name__}")


def _is_of_optimizer(name: object, value: object) -> bool:
    """Whether an entry is the state of an optimizer, or of several, or a part of one."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    flat = isinstance(name, str) and name.startswith(("state.", "param_groups."))
    return flat or (isinstance(first, Mapping) and "param_groups" in first)


def _name(name: object) -> str:
    return _text(name if isinstance(name, str) else brief(name))


def _text(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _number_or_kind(tensor: object) -> object:
    """The number in a tensor of one element; of others dtype and shape."""
    if not isinstance(tensor, StoredTensor):
        return "tensor"
    kind = f"{tensor.peculiarity} tensor, {tensor.dtype}, {list(tensor.shape)}".lstrip()
    storage, small = tensor.storage, tensor.numel() == 1 and len(tensor.shape) <= 1 and not tensor.peculiarity
    if storage is None or not small or storage.size > FEW_BYTES or tensor.dtype not in (*FORMATS, "bfloat16"):
        return kind
    try:
        number: object = tensor.item()
    except InputError:
        return kind
    return number
