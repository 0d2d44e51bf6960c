"""The optimizer found in a checkpoint, as plain numbers."""

from collections.abc import Mapping
from typing import Any

from fromage_cli.checkpoints import Checkpoint, OptimizerState, match_parameters
from fromage_cli.checkpoints.layers import BUFFERS
from fromage_cli.checkpoints.runs.layer_settings import layer_settings
from fromage_cli.diagnostics.inspect.result import GroupResult, OptimizerResult
from fromage_cli.errors import MismatchError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, STEP_UNKNOWN, WEIGHT_DECAY_UNKNOWN


def describe_optimizer(checkpoint: Checkpoint) -> OptimizerResult | None:
    """Describes the optimizer's kind, step, slots and groups; None where none was saved with the weights or named."""
    state = checkpoint.saved_optimizer
    if state is None:
        return None
    copies = {name for group in checkpoint.tied for name in group[1:]}
    entries = [entry for name, entry in checkpoint.entries.items() if entry.floating and name not in copies]
    names = _names(state, {entry.name: entry.shape for entry in entries}, checkpoint.ordered)
    trained = {entry.name: entry.shape for entry in entries if not entry.name.endswith(BUFFERS)}
    members = state.members_by_rule(trained) or tuple(() for _ in state.groups)
    layers = [name for name, shape in trained.items() if len(shape) > 1]
    never = layer_settings(checkpoint, state, layers).never_updated
    groups = []
    for group, ruled in zip(state.groups, members, strict=True):
        named = tuple(names[number] for number in group.numbers if number in names) or ruled
        single = {str(name): _single(value) for name, value in group.settings.items()}
        betas = group.settings.get("betas")
        first, second = map(_number, betas if isinstance(betas, list | tuple) and len(betas) == 2 else (None, None))
        rate, decay = _number(group.settings.get("lr")), _number(group.settings.get("weight_decay"))
        described = GroupResult(
            parameters=len(group.numbers),
            names=named if len(named) == len(group.numbers) else None,
            learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
            betas=(first, second) if first is not None and second is not None else None,
            momentum=_number(group.settings.get("momentum")),
            weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
            settings={name: value for name, value in single.items() if value is None or value != ""},
        )
        groups.append(described)
    return OptimizerResult(
        kind=state.kind,
        step=STEP_UNKNOWN if state.steps is None else state.steps,
        slots=tuple(dict.fromkeys(str(name) for slot in state.slots.values() for name in slot)),
        never_updated=tuple(name for name in layers if name in never),
        groups=tuple(groups),
    )


def _names(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]], ordered: bool) -> Mapping[int, str]:
    """Parameter numbers' names, from the optimizer itself or by the order of the file's tensors; empty if neither.

    `ordered`: whether that is the model's; safetensors files are sorted by name.
    """
    try:
        matched = match_parameters(state, shapes)
        known = ordered or all(group.names for group in state.groups)
    except MismatchError:
        known = False
    if not known:
        return {
            number: name
            for group in state.groups
            for number, name in zip(group.numbers, group.names or (), strict=False)
        }
    return {number: name for name, number in matched.items()}


def _single(value: Any) -> str | float | bool | None:
    """A setting as JSON can hold it; nothing in text for what is no single value."""
    value = value.item() if getattr(value, "shape", None) == () else value
    return value if value is None or isinstance(value, str | int | float | bool) else ""


def _number(value: Any) -> float | None:
    """A setting as a number; None for what is none."""
    single = _single(value)
    return float(single) if isinstance(single, int | float) and not isinstance(single, bool) else None
