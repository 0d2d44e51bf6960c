"""Which tensor has which number in an optimizer's state, where the file sorts tensors by name.

Only the model's order of whole blocks is known then, by their numbers; the order within a block is not.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, slot_shape

Shape = tuple[int, ...]
_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")
"""A component of a name that counts blocks, experts or members of a list."""
LONGEST = 9
"""Digits of such a number."""


def certain_numbers(state: OptimizerState, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The parameter number of every tensor that shapes, groups and the numbers in names tell; `shapes` by name.

    A tensor is told by a shape that no other in its group has. Several of one shape are told where their names differ
    in numbers alone, which then stand in the model's order. Empty where the state holds other shapes than the tensors.
    """
    held = {number: slot_shape(state.slots.get(number, {})) for number in state.numbers}
    if Counter(shape for shape in held.values() if shape is not None) - Counter(shapes.values()):
        return {}
    owners = {number: place for place, group in enumerate(state.groups) for number in group.numbers}
    members = state.members_by_rule(shapes)
    by_rule = {name: place for place, names in enumerate(members) for name in names}
    numbers: dict[tuple[int, Shape], list[int]] = defaultdict(list)
    names: dict[tuple[int, Shape], list[str]] = defaultdict(list)
    for number, shape in held.items():
        if shape is not None:
            numbers[owners[number] if members else 0, shape].append(number)
    for name, shape in shapes.items():
        names[by_rule[name] if members else 0, shape].append(name)
    found: dict[str, int] = {}
    for key, alike in numbers.items():
        candidates = names[key]
        together = len({owners[number] for number in alike}) == 1  # a group stands in the model's order
        if len(candidates) == len(alike) and (len(alike) == 1 or (together and differ_in_numbers(candidates))):
            ordered = sorted(candidates, key=numbers_in)
            found |= dict(zip(ordered, sorted(alike, key=state.numbers.index), strict=True))
    return found


def differ_in_numbers(names: Collection[str]) -> bool:
    """Whether names are alike but for the numbers among their components."""
    return len({_NUMBER.sub("#", name) for name in names}) == 1


def numbers_in(name: str) -> tuple[int, ...]:
    """The numbers among the components of a name, those that are too long for one left out."""
    return tuple(int(digits) for digits in _NUMBER.findall(name) if len(digits) <= LONGEST)
