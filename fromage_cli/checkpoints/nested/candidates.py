"""The dictionaries of tensors inside a file, and what their names say about their role."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.names.steps import words_in
from fromage_cli.checkpoints.pickles.repetition import Repetition
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor

WEIGHTS = (  # in order of preference
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "model_state",
    "net",
    "network",
    "params",
    "weights",
    "generator",
    "student",
)
AVERAGED_WORDS = {"ema", "swa", "average", "averaged", "shadow", "teacher"}
OTHER_WORDS = {"opt", "scaler", "amp", "rng", "callbacks", "loops", "sampler", "dataloader", "hyper", "hparams"}
DEEPEST = 16  # levels of dictionaries that are looked into
TOP = "."  # how `key` and messages name the top level
LONGEST_LIST = 16  # lists beyond this are data, not a handful of dictionaries


@dataclass(frozen=True)
class Candidate:
    """A dictionary of tensors inside a file."""

    path: tuple[str, ...]
    tensors: Mapping[str, Any]
    left_out: tuple[str, ...]  # names of values that are not tensors
    other: bool  # belongs to an optimizer, a scheduler, …

    @property
    def name(self) -> str:
        """The dotted path."""
        return ".".join(self.path) or TOP

    @property
    def preference(self) -> tuple[bool, bool, int, int]:
        """The smaller, the better: scalars alone, averaged or not, rank of the name, minus the number of elements."""
        return self.scalars, self.averaged, self.rank, -sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def averaged(self) -> bool:
        """Whether the names around it say that it is an average over training."""
        return any(AVERAGED_WORDS & set(words_in(part)) for part in self.path)

    @property
    def scalars(self) -> bool:
        """Whether there is nothing but single numbers, such as a step or a loss."""
        return all(tensor.dim() == 0 for tensor in self.tensors.values())

    @property
    def rank(self) -> int:
        """The rank of the dictionary's own name among those usual for weights, then of the names around it."""
        ranks = [WEIGHTS.index(part.lower()) if part.lower() in WEIGHTS else len(WEIGHTS) for part in self.path]
        if not ranks:
            return 2 * len(WEIGHTS)
        return ranks[-1] if ranks[-1] < len(WEIGHTS) else len(WEIGHTS) + min(ranks)


def candidates_in(root: object) -> Iterator[Candidate]:
    """Yield every dictionary that holds tensors, itself or only in the dictionaries below it, breadth first."""
    seen, repetition = {id(root)}, Repetition()
    level: list[tuple[tuple[str, ...], object, bool]] = [((), root, False)]
    for _ in range(DEEPEST):
        below = []
        for path, node, is_other in level:
            other = is_other or _is_optimizer(node)
            if isinstance(node, Mapping) and (found := _candidate(path, node, other, repetition)):
                yield found
            for name, child in children_of(node):
                place, child_is_other = (*path, name), other or _is_other(name)
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
    if tensors := _tensors(repetition.look(node)):
        return Candidate(path, tensors, tuple(str(name) for name in node if str(name) not in tensors), other)
    if tensors := _flattened(node, repetition):
        grouped = bool(path) and path[-1].lower() in WEIGHTS and not any(_has_role(str(name)) for name in node)
        return Candidate(path, tensors, (), other or not grouped)
    return None


def _tensors(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in node.items() if is_tensor(value)}


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor, in memory or still in its file."""
    torch = sys.modules.get("torch")
    return isinstance(value, StoredTensor) or (torch is not None and isinstance(value, torch.Tensor))


def _flattened(node: Mapping[Any, Any], repetition: Repetition) -> dict[str, Any]:
    """Return all tensors in the dictionaries below, in stored order, each dictionary once."""
    tensors: dict[str, Any] = {}
    seen: set[int] = set()
    pending: list[tuple[str, Mapping[Any, Any]]] = [("", node)]
    while pending:
        prefix, inner = pending.pop()
        if id(inner) in seen or prefix.count(".") > DEEPEST:
            continue
        seen.add(id(inner))
        tensors.update(_tensors(repetition.look(inner), prefix))
        below = [(f"{prefix}{name}.", value) for name, value in inner.items() if isinstance(value, Mapping)]
        pending.extend(reversed(below))
    return tensors


def children_of(node: object) -> Iterator[tuple[str, object]]:
    """Yield the dictionaries and short lists inside a dictionary or a short list, by name or position."""
    if isinstance(node, Mapping):
        members: list[tuple[Any, object]] = list(node.items())
    elif isinstance(node, list | tuple) and len(node) <= LONGEST_LIST:
        members = list(enumerate(node))
    else:
        return
    for name, child in members:
        if isinstance(child, Mapping | list | tuple):
            yield str(name), child


def _is_optimizer(node: object) -> bool:
    return isinstance(node, Mapping) and "param_groups" in node


def _is_other(name: str) -> bool:
    lower = name.lower()
    return "optim" in lower or "sched" in lower or bool(OTHER_WORDS & set(words_in(lower)))


def _has_role(name: str) -> bool:
    return name.lower() in WEIGHTS or bool(AVERAGED_WORDS & set(words_in(name))) or _is_other(name)
