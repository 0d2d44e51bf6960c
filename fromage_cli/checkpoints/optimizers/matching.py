"""Which tensor of a model has which number in an optimizer's state: by names, else by order and the shapes of slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile

from fromage_cli.checkpoints.names.naming import strip_prefixes
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, slot_shape
from fromage_cli.counting import counted, first_names
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.rule import RULES

LEAVE_ASIDE = "To go without the state, give --optimizer-state none."
MOST_WORK = 1_000_000
"""Places in groups that are compared, over all ways of interleaving them, before they are called ambiguous."""


def match_parameters(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Which parameter number each tensor of a model has; `shapes` by name, in model order.

    By name where the optimizer knows names, up to wrappers and what all names begin with. Otherwise by order: each
    group holds its parameters in model order. The only way of interleaving the groups that agrees with the shapes of
    the slots is taken; where there are several, that of the rule which made the groups. Tensors that the optimizer
    was never given have no number. They are found likewise, whole modules before parts of them. Of several
    optimizers all are matched together, else the only one that fits alone. Raises MismatchError when the counts, shapes
    or names do not fit, or when more than one way does.
    """
    if state.whole is not None:
        with suppress(MismatchError):
            together, own = match_parameters(state.whole, shapes), set(state.numbers)
            return {name: number for name, number in together.items() if number in own}
    try:
        return _match(state, shapes)
    except MismatchError:
        alone = [part for part in _fitting_alone(state, shapes) if _matches(part, shapes)]
        if len(alone) == 1:
            return _match(alone[0], shapes)
        if not alone:
            raise
    places = first_names([repr(part.groups[0].optimizer) for part in alone])
    raise MismatchError(
        f"The states of {len(alone)} optimizers fit the model equally well: {places}.",
        "Choose one with --optimizer-key PATH.",
    )


def never_updated(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The tensors that no optimizer was given, or that have no slot beside others that have one; none where not told.

    Of an optimizer that takes matrices only, vectors are another's. A group without momentum remembers nothing of its
    tensors, which says nothing.
    """
    whole = state.whole or state
    rule = RULES.get(whole.settings.rule or "")
    taken = {name: shape for name, shape in shapes.items() if rule is None or not rule.matrices_only or len(shape) == 2}
    with suppress(MismatchError):
        numbers = match_parameters(whole, taken)
        updated = whole.updated if whole.slots else frozenset(numbers.values())
        return [name for name in taken if numbers.get(name) not in updated]
    return []


def fitting(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> OptimizerState:
    """That of the only one of several optimizers that has as many parameters of the same shapes; else all of them."""
    alone = [] if _fits(state, shapes) else _fitting_alone(state, shapes)
    return alone[0] if len(alone) == 1 else state


def _fitting_alone(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> list[OptimizerState]:
    """Those of several optimizers that have as many parameters as there are tensors, of the same shapes."""
    parts = state.parts if len(state.parts) > 1 else ()
    return [alone for part in parts if _fits(alone := replace(part, whole=None), shapes)]


def _fits(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether there are as many parameters as tensors, of the same shapes as far as slots tell; in any order."""
    held = Counter(slot_shape(state.slots.get(number, {})) for number in state.numbers)
    del held[None]
    return len(state.numbers) == len(shapes) and not held - Counter[tuple[int, ...] | None](shapes.values())


def _matches(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether it is told which tensor has which number."""
    with suppress(MismatchError):
        return bool(_match(state, shapes))
    return False


def _match(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Which number each tensor has, for `match_parameters`, all optimizers together."""
    if named := _numbers_by_name(state, shapes):
        for name, number in named.items():
            stored = slot_shape(state.slots.get(number, {}))
            if stored not in (None, shapes[name]):
                raise MismatchError(
                    f"The optimizer's state for {name!r} has shape {list(stored or ())}, but the tensor has "
                    f"{list(shapes[name])}.",
                    f"The state belongs to another model. {LEAVE_ASIDE}",
                )
        return named
    found = _in_order(state, shapes)
    saved = _names(state)
    for name, number in found.items():
        if saved.get(name, number) != number:
            raise MismatchError(
                f"The optimizer's state has {name!r} at another place than the model, and other names differ too.",
                f"It belongs to another model, or layers have been renamed since. {LEAVE_ASIDE}",
            )
    return found


def _miscounted(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> MismatchError:
    """Where the state has not as many parameters as there are tensors, and it is not told which these are.

    The hint names those that were frozen, as far as the shapes of slots tell.
    """
    held = Counter(slot_shape(state.slots.get(number, {})) for number in state.numbers)
    wanted = Counter[tuple[int, ...] | None](shapes.values())
    missing, hint = wanted - held, "The state belongs to another model, or to one with other frozen tensors."
    if missing and not held - wanted:
        count, names = missing.total(), [repr(name) for name, shape in shapes.items() if shape in missing]
        lacks = "The state" if count == len(names) else f"By its shapes, the state lacks {count} of these:"
        lacks += f" lacks {first_names(names)}" if count == len(names) else f" {first_names(names)}"
        hint = f"{lacks}. If they were frozen in training, set requires_grad=False on them in the factory of --model."
    return MismatchError(
        f"The optimizer's state has {len(state.numbers)} parameters, but the model has "
        f"{counted(len(shapes), 'trainable tensor')}.",
        f"{hint} {LEAVE_ASIDE}",
    )


def _numbers_by_name(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of each tensor whose name is known, where all are, or all that the optimizer has; else nothing."""
    if not shapes or any(group.names is None for group in state.groups):
        return {}
    saved = _names(state)
    own = {name: short for short, name in strip_prefixes(shapes).names.items()}
    ways = [(saved, {name: name for name in shapes})]
    for theirs, ours in ((0, 0), (1, 0), (0, 1), (_in_common(saved), _in_common(own.values()))):
        numbers = {_without(name, theirs): number for name, number in saved.items()}
        ways.append((numbers, {name: _without(short, ours) for name, short in own.items()}))
    ways = [(numbers, wanted) for numbers, wanted in ways if len(numbers) == len(saved)]
    for numbers, wanted in ways:
        if set(wanted.values()) <= set(numbers):
            return {name: numbers[wanted[name]] for name in shapes}
    for numbers, wanted in ways:  # the others were frozen
        if set(numbers) <= set(wanted.values()):
            return {name: numbers[wanted[name]] for name in shapes if wanted[name] in numbers}
    return {}


def _names(state: OptimizerState) -> dict[str, int]:
    """The numbers by the names that the optimizer knows."""
    return {
        name: number for group in state.groups for name, number in zip(group.names or (), group.numbers, strict=False)
    }


def _without(name: str, count: int) -> str:
    """A name without its first components."""
    return ".".join(name.split(".")[count:])


def _in_common(names: Collection[str]) -> int:
    """With how many components all names begin alike, their last ones left aside."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _in_order(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of each tensor by the order of the groups."""
    if len(state.numbers) < len(shapes):
        for modules in (False, True):
            with suppress(MismatchError):
                return _interleaved(state, shapes, modules)
    if len(state.numbers) != len(shapes):
        raise _miscounted(state, shapes)
    try:
        return _interleaved(state, shapes)
    except _Ambiguous:
        members = state.members_by_rule(shapes)
        pairs = (zip(names, group.numbers, strict=True) for names, group in zip(members, state.groups, strict=False))
        found = {name: number for pair in pairs for name, number in pair}
        fits = (slot_shape(state.slots.get(number, {})) in (None, shapes[name]) for name, number in found.items())
        if not found or not all(fits):
            raise
        return found


_Reached = tuple[tuple[int, ...], bool]
"""How many of each group were placed, and whether the last tensor was frozen with its module."""


@dataclass(frozen=True)
class _Way:
    """One way of having placed the first tensors, or the sign that there are several."""

    several: bool = False
    last: int | None = None
    """The parameter number placed last; None where that tensor was frozen."""
    before: _Way | None = None


def _interleaved(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]], modules: bool = False) -> dict[str, int]:
    """The parameter number of each tensor in model order, but of as many as there are too few.

    `modules`: whether tensors of one module are all frozen, or none is.
    """
    groups = [group.numbers for group in state.groups]
    known = {number: slot_shape(slot) for number, slot in state.slots.items()}
    spare, work, module = len(shapes) - len(state.numbers), 0, ""
    ways: dict[_Reached, _Way] = {((0,) * len(groups), False): _Way()}
    for index, (name, shape) in enumerate(shapes.items()):
        new = not modules or module != (module := name.rpartition(".")[0])
        following: dict[_Reached, _Way] = {}
        for (places, left_out), way in ways.items():
            frozen = index - sum(places) < spare and (new or left_out)
            after: list[tuple[_Reached, int | None]] = [((places, modules), None)] if frozen else []
            for group, at in enumerate(places) if new or not left_out else ():
                if at < len(groups[group]) and known.get(groups[group][at]) in (None, shape):
                    after.append((((*places[:group], at + 1, *places[group + 1 :]), False), groups[group][at]))
            if (work := work + len(groups) * len(after)) > MOST_WORK:
                raise _Ambiguous("too many ways to compare")
            for reached, number in after:
                following[reached] = _Way(way.several or reached in following, number, way)
        ways = following
    ends = list(ways.values())
    if not ends:
        raise MismatchError(
            "The optimizer's state does not fit the model: no order of its parameters matches the tensors' shapes.",
            f"The state belongs to another model. {LEAVE_ASIDE}",
        )
    if len(ends) > 1 or ends[0].several:
        raise _Ambiguous("more than one way")
    found: dict[str, int] = {}
    way = ends[0]
    for name in reversed(list(shapes)):
        if way.last is not None:
            found[name] = way.last
        way = way.before or way
    return {name: found[name] for name in shapes if name in found}


class _Ambiguous(MismatchError):
    """There is more than one way."""

    def __init__(self, ways: str) -> None:
        super().__init__(
            f"The optimizer's parameter groups can be matched to the model in {ways}.",
            f"Save the names with the state: give the optimizer model.named_parameters(). {LEAVE_ASIDE}",
        )
