"""The optimizers inside a file: where their states lie, and those that belong to the weights as one."""

from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from fromage_cli.checkpoints.names.naming import nearest
from fromage_cli.checkpoints.nested.candidates import DICTIONARY_LEVELS, TOP, children_of
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, together
from fromage_cli.checkpoints.optimizers.saved_optimizer import STATE, is_optimizer, parse_optimizer
from fromage_cli.errors import UsageError

Place = tuple[str, ...]
"""The keys on the way to a dictionary."""


def find_optimizer(
    root: object, weights: Place = (), key: str | None = None, read: Callable[[Any], Any] = lambda value: value
) -> OptimizerState | None:
    """What the optimizers of a file that belong to the weights remember, as one state; None where there are none.

    Those are the ones nearest to the weights: they share most of the way there, and lie least deep. `key` is the dotted
    path of one instead, or of what holds several. `read` gives the objects that are still in a file.
    Raises UsageError where there are some, and none at `key`.
    """
    found = dict(_optimizers_in(root))
    if key is not None and found:
        found = _at(key, found)
    elif found:
        nearness = {place: (_shared(place, weights), -len(place)) for place in found}
        found = {place: saved for place, saved in found.items() if nearness[place] == max(nearness.values())}
    states = {}
    for place, saved in found.items():
        settings = {name: value if name == STATE else read(value) for name, value in saved.items()}
        if state := parse_optimizer(settings):
            states[place] = state
    return together(states)


def _optimizers_in(root: object) -> Iterator[tuple[Place, Mapping[Any, Any]]]:
    """Yield the dictionaries that have the form of an optimizer's state, breadth first, each once."""
    seen = {id(root)}
    level: list[tuple[Place, object]] = [((), root)]
    for _ in range(DICTIONARY_LEVELS):
        below: list[tuple[Place, object]] = []
        for place, node in level:
            if isinstance(node, Mapping) and is_optimizer(node):
                yield place, node
                continue
            for name, child in children_of(node):
                if id(child) not in seen:
                    seen.add(id(child))
                    below.append(((*place, name), child))
        level = below


def _at(key: str, found: Mapping[Place, Mapping[Any, Any]]) -> dict[Place, Mapping[Any, Any]]:
    """Return those at a dotted path or below it; raises UsageError where there is none."""
    names = {place: ".".join(place) or TOP for place in found}
    chosen = {place: saved for place, saved in found.items() if f"{names[place]}.".startswith(f"{key}.")}
    if chosen:
        return chosen
    raise UsageError(
        f"--optimizer-key {key!r} does not name an optimizer's state in this file.",
        nearest(key, names.values()),
        list(names.values()),
    )


def _shared(place: Place, weights: Place) -> int:
    """Return how many keys two ways begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(place, weights, strict=False)))
