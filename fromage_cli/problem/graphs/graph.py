"""A graph as it stands in a file: steps in their order, read and checked before anything of it is run."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from fromage_cli.errors import InputError
from fromage_cli.problem.graphs.operators import find_operator, require_kinds

MOST_STEPS = 200_000
"""Steps of one graph: a network of a thousand layers has a tenth of that."""
DEEPEST = 60
"""Modules inside each other, and lists inside lists: Python's own stack ends at some hundreds of calls."""
LARGEST_NUMBER = 1 << 48
"""No size, index or seed in a graph is larger: 2⁴⁸ numbers are 10¹⁵ bytes."""
TO_THE_END = (1 << 63) - 1
"""The end of a slice that has none."""

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128", "bool"),
        *("uint8", "int8", "int16", "int32", "int64"),
    )
}


@dataclass(frozen=True)
class Value:
    """A value that was computed before, by its name."""

    name: str


@dataclass(frozen=True)
class Held:
    """A tensor that the network or the file holds: `parameter`, `buffer` or `constant`, and its name."""

    kind: str
    name: str


@dataclass(frozen=True)
class Device:
    """The device that the weights are on."""


@dataclass(frozen=True)
class Rows:
    """The number of rows of the batch."""


_WORDS: Mapping[str, Mapping[str, Any]] = {
    "dtype": DTYPES,
    "layout": {"strided": torch.strided},
    "memory_format": {
        name: getattr(torch, name)
        for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
    },
    "number": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan},
    "device": {"weights": Device()},
    "rows": {"all": Rows()},
}
"""What words of each kind stand for."""
KINDS = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": Device,
}
"""What stands for arguments that torch would also take as numbers or texts."""
HELD = ("parameter", "buffer", "constant")
"""Kinds of tensors that the network or the file holds."""
_PARTS: Mapping[str, tuple[tuple[int, ...], Callable[[list[Any]], Any]]] = {
    "tuple": ((), tuple),
    "slice": ((3,), lambda ends: slice(*ends)),
    "complex": ((2,), lambda parts: complex(*parts)),
}
"""Kinds of values that have parts: how many, where that is fixed, and what is made of them."""


@dataclass(frozen=True)
class Operation:
    """The call of one operator."""

    name: str
    """What the result is called from here on."""
    operator: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """Steps that belong together: the call of a module, or what is computed without gradients or in a precision.

    `module`: the module's name; None for steps in a condition.
    """

    module: str | None
    condition: tuple[str, Any] | None
    """`grad` and whether gradients are recorded; `autocast` and the type, or None where it is off."""
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    steps: tuple["Operation | Block", ...]
    result: Any
    """What it returns: values in dicts, lists and tuples."""
    outer: tuple[str, ...] = ()
    """Values from outside that it uses and is not given."""


@dataclass(frozen=True)
class Graph:
    """A program from tensors to tensors."""

    inputs: tuple[str, ...]
    """The names of its inputs, which are the tensors of the batch in their order."""
    body: Block
    held: frozenset[Held] = field(default_factory=frozenset)
    """The tensors that it uses beside its inputs."""


def read_graph(described: Any, where: str) -> Graph:
    """Check what a file says and make a graph of it; `where` names the file in messages.

    Raises InputError for what is no graph, and UnsafeError for an operator that is not in the list.
    """
    return _Reader(where).graph(described)


class _Reader:
    """Reads one graph, and counts its steps."""

    def __init__(self, where: str) -> None:
        self.where, self.count, self.held = where, 0, set[Held]()

    def graph(self, described: Any) -> Graph:
        if not isinstance(described, dict) or not isinstance(described.get("inputs"), list):
            raise self.wrong("it has no inputs")
        inputs = described["inputs"]
        if not inputs or not all(isinstance(name, str) for name in inputs) or len(set(inputs)) < len(inputs):
            raise self.wrong("its inputs are no names")
        body = self.block({"arguments": [], "named": {}, **_mapping(described.get("body"))}, set(inputs), 0)
        return Graph(tuple(inputs), body, frozenset(self.held))

    def block(self, described: Any, known: set[str], depth: int) -> Block:
        """One block; `known`: the values that may be used in it, to which it adds what it defines."""
        if depth > DEEPEST:
            raise self.wrong(f"its modules are nested deeper than {DEEPEST}")
        described = _mapping(described)
        module, condition = described.get("module"), described.get("condition")
        if module is not None and not isinstance(module, str):
            raise self.wrong("a module has no name")
        arguments, named = self.list_of(described.get("arguments"), known), self.dict_of(described.get("named"), known)
        if not isinstance(described.get("steps"), list):
            raise self.wrong("a block has no steps")
        inner, steps = set(known), []
        for step in described["steps"]:
            steps.append(self.step(step, inner, depth))
        result = self.template(described.get("result"), inner, 0)
        known |= {value.name for value in values_in(result)}  # others stay inside
        given = {value.name for value in values_in((arguments, named))}
        found = Block(module, self.condition(condition), arguments, named, tuple(steps), result)
        outer = tuple(dict.fromkeys(name for name in _used(found) if name not in given))
        return Block(found.module, found.condition, arguments, named, found.steps, result, outer)

    def step(self, described: Any, known: set[str], depth: int) -> "Operation | Block":
        self.count += 1
        if self.count > MOST_STEPS:
            raise self.wrong(f"it has more than {MOST_STEPS} steps")
        described = _mapping(described)
        if "steps" in described:
            return self.block(described, known, depth + 1)
        name, operator = described.get("name"), described.get("operator")
        if not isinstance(name, str) or not isinstance(operator, str):
            raise self.wrong("a step has no name or no operator")
        arguments, named = self.list_of(described.get("arguments"), known), self.dict_of(described.get("named"), known)
        function = find_operator(operator)
        try:
            require_kinds(operator, arguments, named, KINDS)
        except TypeError as error:
            raise self.wrong(str(error)) from error
        known.add(name)
        return Operation(name, operator, function, arguments, named)

    def condition(self, described: Any) -> tuple[str, Any] | None:
        if described is None:
            return None
        described = _mapping(described)
        if set(described) == {"grad"} and isinstance(described["grad"], bool):
            return "grad", described["grad"]
        if set(described) == {"autocast"} and described["autocast"] in (None, "bfloat16", "float16"):
            return "autocast", described["autocast"]
        raise self.wrong("a block has an unknown condition")

    def list_of(self, described: Any, known: set[str]) -> tuple[Any, ...]:
        if not isinstance(described, list):
            raise self.wrong("a step has no list of arguments")
        return tuple(self.template(item, known, 0) for item in described)

    def dict_of(self, described: Any, known: set[str]) -> Mapping[str, Any]:
        return {str(key): self.template(value, known, 0) for key, value in _mapping(described).items()}

    def template(self, described: Any, known: set[str], depth: int) -> Any:
        """What stands for an argument or a result."""
        if depth > DEEPEST:
            raise self.wrong(f"its lists are nested deeper than {DEEPEST}")
        if isinstance(described, list):
            return [self.template(item, known, depth + 1) for item in described]
        if isinstance(described, dict):
            return self.marked(described, known, depth + 1)
        large = type(described) is int and abs(described) > LARGEST_NUMBER and described != TO_THE_END
        if large or not (described is None or isinstance(described, bool | str | float | int)):
            raise self.wrong(f"it has the number {str(described)[:30]}, which no size or place can be")
        return described

    def marked(self, described: dict[str, Any], known: set[str], depth: int) -> Any:
        """A value that JSON does not have: an object of one member, whose name says what it is."""
        kind, value = next(iter(described.items()), ("", None))
        found = None
        if len(described) == 1:
            if kind in _PARTS and isinstance(value, list) and len(value) in (_PARTS[kind][0] or (len(value),)):
                parts = [self.template(item, known, depth) for item in value]
                with suppress(TypeError, ValueError):
                    found = _PARTS[kind][1](parts)
            elif kind == "dict":
                found = {str(key): self.template(item, known, depth) for key, item in _mapping(value).items()}
            elif isinstance(value, str):
                found = self.word(kind, value, known)
        if found is None:
            raise self.wrong(f"it has an argument that is not known: {str(described)[:60]}")
        return found

    def word(self, kind: str, value: str, known: set[str]) -> Any:
        """What a word of some kind stands for; None where it stands for nothing."""
        if kind == "value":
            return Value(value) if value in known else None
        if kind in HELD:
            self.held.add(Held(kind, value))
            return Held(kind, value)
        return _WORDS.get(kind, {}).get(value)

    def wrong(self, why: str) -> InputError:
        return InputError(
            f"{self.where} is not a graph: {why}.", "The file is damaged, or was not written by fromage-diag."
        )


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"A part of the graph is {str(value)[:40]!r}; expected an object.",
            "The file is damaged, or was not written by fromage-diag.",
        )
    return value


def values_in(template: Any) -> Iterator[Value]:
    """The values that stand in an argument or a result."""
    if isinstance(template, Value):
        yield template
    elif isinstance(template, list | tuple):
        for item in template:
            yield from values_in(item)
    elif isinstance(template, Mapping):
        for item in template.values():
            yield from values_in(item)
    elif isinstance(template, slice):
        yield from values_in([template.start, template.stop, template.step])


def _used(block: Block) -> Iterator[str]:
    """The names that a block uses from outside."""
    defined: set[str] = set()
    for step in block.steps:
        inside = (step.arguments, step.named)
        names = [value.name for value in values_in(inside)] + ([*step.outer] if isinstance(step, Block) else [])
        yield from dict.fromkeys(name for name in names if name not in defined)
        defined |= {step.name} if isinstance(step, Operation) else {value.name for value in values_in(step.result)}
    yield from (value.name for value in values_in(block.result) if value.name not in defined)
