"""An optimizer's state in each of the forms that training scripts and sharding libraries give it.

torch's own: {"state": {number: slots}, "param_groups": [{"params": [numbers], settings}]}. Sharded training puts fully
qualified names for the numbers, or spells them as text. Or it writes one flat dictionary of state.NAME.SLOT and
param_groups.NAME.SETTING.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fromage_cli.checkpoints.names.naming import strip_prefixes
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, ParameterGroup, UnreadSlot
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor

LONGEST_SETTING = 16
"""Members of a setting that is a list, such as betas."""
LONGEST_NUMBER = 16
"""Digits of a parameter's number."""
STATE, GROUPS, PARAMETERS, NAMES = "state", "param_groups", "params", "param_names"


def is_optimizer(saved: Mapping[Any, Any]) -> bool:
    """Whether a dictionary has the entries of an optimizer's state, in any of the forms."""
    return {STATE, GROUPS} <= set(saved) or any(True for _ in _parts(saved, GROUPS))


def parse_optimizer(saved: Mapping[Any, Any]) -> OptimizerState | None:
    """The state in a dictionary that an optimizer wrote, in any of the forms; None where it is none."""
    if not {STATE, GROUPS} <= set(saved):
        saved = _unflattened(saved)
    groups, slots = saved.get(GROUPS), saved.get(STATE)
    if isinstance(groups, Mapping):  # a list, as torch.distributed.checkpoint numbers its members
        groups = [groups[index] for index in sorted(groups, key=lambda index: (len(str(index)), str(index)))]
    if not isinstance(groups, list | tuple) or not isinstance(slots, Mapping) or not groups:
        return None
    if not all(isinstance(group, Mapping) for group in groups):
        return None
    listed = [held for group in groups if (held := group.get(PARAMETERS))]
    if len({id(held) for held in listed}) < len(listed):  # no optimizer writes one list for two of its groups
        return None
    if not all(_are_parameters(group.get(PARAMETERS)) for group in groups):
        return None
    order: dict[object, int] = {}
    for group in groups:
        for parameter in group[PARAMETERS]:
            order.setdefault(parameter, parameter if isinstance(parameter, int) else len(order))
    stripped = strip_prefixes(name for name in order if isinstance(name, str))
    shorter = {stored: name for name, stored in stripped.names.items()}
    steps = {order[parameter]: group["step"] for group in groups if "step" in group for parameter in group[PARAMETERS]}
    kept, unread = {}, set()
    for key, slot in slots.items():
        number = order.get(key, order.get(_spelled_out(key)))
        if number is None or not isinstance(slot, Mapping):
            continue
        held = {"step": steps[number], **slot} if number in steps else slot  # apex counts updates by group
        step = held.get("step")
        several = isinstance(step, StoredTensor) and step.numel() != 1  # no number of updates
        forms = {n: value.peculiarity for n, value in held.items() if isinstance(value, StoredTensor)}
        unread |= {form for form in forms.values() if form}
        held = {n: None if forms.get(n) else value for n, value in held.items() if n != "step" or not several}
        kept[number] = UnreadSlot(held)
    return OptimizerState(tuple(_group(group, order, shorter) for group in groups), kept, unread=tuple(sorted(unread)))


def _spelled_out(key: object) -> int | None:
    """The number that a key spells, as torch.distributed.checkpoint does."""
    return int(key) if isinstance(key, str) and key.isdecimal() and len(key) < LONGEST_NUMBER else None


def _are_parameters(parameters: object) -> bool:
    """Whether these are numbers, or names."""
    return isinstance(parameters, list | tuple) and (
        all(type(parameter) is int for parameter in parameters)
        or all(isinstance(parameter, str) for parameter in parameters)
    )


def _number(value: Any) -> Any:
    """The number in a tensor of one; anything else as it is."""
    single = isinstance(value, StoredTensor) and value.numel() == 1 and not value.peculiarity
    return value.item() if single else value


def _group(saved: Mapping[str, Any], order: Mapping[object, int], shorter: Mapping[str, str]) -> ParameterGroup:
    settings = {str(name): value for name, value in saved.items() if name not in (PARAMETERS, NAMES)}
    for name, value in settings.items():
        several = isinstance(value, list | tuple) and any(isinstance(part, StoredTensor) for part in value)
        settings[name] = tuple(map(_number, value)) if several else _number(value)
    parameters = saved[PARAMETERS]
    names = saved.get(NAMES)
    if parameters and isinstance(parameters[0], str):
        names = [shorter[name] for name in parameters]
    elif isinstance(names, list | tuple) and len(names) == len(parameters) and all(type(name) is str for name in names):
        stripped = strip_prefixes(names).names
        names = list(stripped) if len(stripped) == len(names) else names
    else:
        names = None
    numbers = tuple(order[parameter] for parameter in parameters)
    return ParameterGroup(settings, numbers, tuple(names) if names else None)


def _unflattened(saved: Mapping[Any, Any]) -> dict[str, Any]:
    """The usual form of a flat dictionary; parameters of equal settings make one group. Empty where it is none."""
    slots: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name, key, value in _parts(saved, STATE):
        slots.setdefault(name, {})[key] = value
    for name, key, value in _parts(saved, GROUPS):
        settings.setdefault(name, {})[key] = value
    groups: dict[object, dict[str, Any]] = {}
    for name, values in settings.items():
        alike = frozenset((setting, _comparable(value)) for setting, value in values.items())
        groups.setdefault(alike, {**values, PARAMETERS: []})[PARAMETERS].append(name)
    return {STATE: slots, GROUPS: list(groups.values())} if groups else {}


def _comparable(value: Any) -> object:
    """What is equal for equal settings: numbers, texts and short lists of them; anything else is only like itself.

    Numbers are spelled: as they are, many could be chosen to have one hash.
    """
    if isinstance(value, list | tuple) and len(value) <= LONGEST_SETTING:
        if all(isinstance(one, str | int | float | type(None)) for one in value):
            return tuple(map(_comparable, value))
    elif isinstance(value, int | float | type(None)):
        return repr(value)
    return value if isinstance(value, str) else id(value)


def _parts(saved: Mapping[Any, Any], kind: str) -> Iterator[tuple[str, str, Any]]:
    """The name, the last component and the value of each entry `kind`.NAME.LAST."""
    for path, value in saved.items():
        if isinstance(path, str) and path.startswith(f"{kind}."):
            name, _, last = path.removeprefix(f"{kind}.").rpartition(".")
            if name:
                yield name, last, value
