"""The dictionaries of tensors inside a file, and what their names say about their role."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.names.steps import words_in
from fromage_cli.checkpoints.pickles.allowance import Repetition
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor

WEIGHT_NAMES = (
    *("state_dict", "model_state_dict", "model", "module", "model_state", "net", "network", "params", "weights"),
    *("generator", "student"),
)
"""Usual names of the weights, in order of preference."""
AVERAGED_WORDS = {"ema", "swa", "average", "averaged", "shadow", "teacher"}
OTHER_WORDS = {"opt", "scaler", "amp", "rng", "callbacks", "loops", "sampler", "dataloader", "hyper", "hparams"}
DICTIONARY_LEVELS = 16
"""Levels of dictionaries that are looked into: weights lie in the upper three, and each level costs a pass."""
TOP = "."
"""How `key` and messages name the top level."""
LONGEST_LIST = 16
"""Members of a list that is looked into: longer ones are data, not a handful of dictionaries."""


@dataclass(frozen=True)
class Candidate:
    """A dictionary of tensors inside a file."""

    path: tuple[str, ...]
    name: str  # the dotted path
    tensors: Mapping[str, Any]
    left_out: tuple[str, ...]  # names of values that are not tensors
    other: bool  # belongs to an optimizer, a scheduler, …

    @property
    def preference(self) -> tuple[bool, bool, int, int]:
        """Return what sorts candidates, the best first: by scalars alone, averaged, the name's rank, minus elements."""
        return self.scalars, self.averaged, self.rank, -sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def averaged(self) -> bool:
        """Tell whether the names around it say that it is an average over training."""
        return any(AVERAGED_WORDS & set(words_in(part)) for part in self.path)

    @property
    def scalars(self) -> bool:
        """Tell whether there is nothing but single numbers, such as a step or a loss."""
        return all(tensor.dim() == 0 for tensor in self.tensors.values())

    @property
    def rank(self) -> int:
        """Return the rank of the own name among those usual for weights; after these come names around it that are."""
        ranks = [
            WEIGHT_NAMES.index(part.lower()) if part.lower() in WEIGHT_NAMES else len(WEIGHT_NAMES)
            for part in self.path
        ]
        if not ranks:
            return 2 * len(WEIGHT_NAMES)
        return ranks[-1] if ranks[-1] < len(WEIGHT_NAMES) else len(WEIGHT_NAMES) + min(ranks)


def candidates_in(root: object) -> Iterator[Candidate]:
    """Yield every dictionary that holds tensors, itself or only in the dictionaries below it, breadth first."""
    seen, repetition = {id(root)}, Repetition()
    level: list[tuple[tuple[str, ...], object, bool]] = [((), root, False)]
    for _ in range(DICTIONARY_LEVELS):
        below = []
        for path, node, is_other in level:
            other = is_other or (isinstance(node, Mapping) and "param_groups" in node)  # an optimizer's
            if isinstance(node, Mapping) and (found := _candidate(path, node, other, repetition)):
                yield found
            for name, child in children_of(node):
                place, child_is_other = (*path, name), other or _names_other_state(name)
                if id(child) not in seen:
                    seen.add(id(child))
                    below.append((place, child, child_is_other))
                elif isinstance(child, Mapping) and any(map(is_tensor, repetition.look(child).values())):
                    alias = _candidate(place, child, child_is_other, repetition)
                    if alias:
                        yield alias  # a second name; what is inside is not looked into again
        level = below


def _candidate(path: tuple[str, ...], node: Mapping[Any, Any], other: bool, repetition: Repetition) -> Candidate | None:
    """Return the tensors directly in a dictionary; where there are none, those below it, under dotted names.

    The latter are taken unasked only under a name usual for weights, and if no name below tells a whole dictionary.
    """
    tensors = {str(name): value for name, value in repetition.look(node).items() if is_tensor(value)}
    if any(str(name).startswith("param_groups.") for name in node):  # an optimizer's state, flat among the weights
        tensors = {name: value for name, value in tensors.items() if not name.startswith(("state.", "param_groups."))}
    dotted = repetition.dotted(*path) or TOP
    if tensors:
        return Candidate(path, dotted, tensors, tuple(str(name) for name in node if str(name) not in tensors), other)
    if tensors := _tensors_below(node, repetition):
        whole = any(
            name.lower() in WEIGHT_NAMES or AVERAGED_WORDS & set(words_in(name)) or _names_other_state(name)
            for name in map(str, node)
        )
        grouped = bool(path) and path[-1].lower() in WEIGHT_NAMES and not whole
        return Candidate(path, dotted, tensors, (), other or not grouped)
    return None


def is_tensor(value: object) -> bool:
    """Tell whether a value is a tensor, in memory or still in its file."""
    torch = sys.modules.get("torch")
    return isinstance(value, StoredTensor) or (torch is not None and isinstance(value, torch.Tensor))


def _tensors_below(node: Mapping[Any, Any], repetition: Repetition) -> dict[str, Any]:
    """Return all tensors in a dictionary and those below, by dotted path, in stored order, each dictionary once."""
    tensors: dict[str, Any] = {}
    seen: set[int] = set()
    pending: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), node)]
    while pending:
        path, inner = pending.pop()
        if id(inner) in seen or len(path) > DICTIONARY_LEVELS:
            continue
        seen.add(id(inner))
        below = []
        for name, value in repetition.look(inner).items():
            if is_tensor(value):
                tensors[repetition.dotted(*path, str(name))] = value
            elif isinstance(value, Mapping):
                below.append(((*path, str(name)), value))
        pending.extend(reversed(below))
    return tensors


def children_of(node: object) -> Iterator[tuple[str, object]]:
    """Yield the dictionaries and short lists inside a dictionary or a short list, by name or position."""
    members: Iterable[tuple[Any, object]] = ()
    if isinstance(node, Mapping):
        members = list(node.items())
    elif isinstance(node, list | tuple) and len(node) <= LONGEST_LIST:
        members = enumerate(node)
    for name, child in members:
        if isinstance(child, Mapping | list | tuple):
            yield str(name), child


def _names_other_state(name: str) -> bool:
    """Tell whether a name says that a dictionary is an optimizer's, a scheduler's or the like."""
    lower = name.lower()
    return "optim" in lower or "sched" in lower or bool(OTHER_WORDS & set(words_in(lower)))
