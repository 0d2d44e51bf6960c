"""What a bundle keeps of optimizers: settings of each group, and what they remember of each tensor."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from fromage_cli.bundle.writing import Written, whole
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState

LONGEST = 16
"""Members of a setting that is a list."""


def describe_optimizers(model: nn.Module, optimizer: Any) -> tuple[dict[str, Any], list[Written]]:
    """Settings and numbers in JSON's own types, and the tensors, called by the tensor's and the slot's name.

    `optimizer`: one of torch, several, or the state of one that a checkpoint holds.
    """
    if isinstance(optimizer, OptimizerState):
        return _of_checkpoint(optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) or hasattr(optimizer, "optimizer") else optimizer
    groups: list[dict[str, Any]] = []
    numbers: dict[str, dict[str, float]] = {}
    tensors: list[Written] = []
    for wrapped in optimizers:
        one: Any = getattr(wrapped, "optimizer", wrapped)  # inside accelerate's
        for group in one.param_groups:
            called = [names.get(id(p), f"unnamed.{len(groups)}.{place}") for place, p in enumerate(group["params"])]
            settings = {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
            groups.append({"params": called, **{key: value for key, value in settings.items() if value is not _NONE}})
            for name, parameter in zip(called, group["params"], strict=True):
                for slot, value in (one.state.get(parameter) or {}).items():
                    if isinstance(value, Tensor) and value.dim() and "." not in str(slot):
                        tensors.append(whole(f"{name}.{slot}", value))
                    elif isinstance(number := _plain(value), int | float):
                        numbers.setdefault(name, {})[str(slot)] = number
    return {"groups": groups, "numbers": numbers}, tensors


def _of_checkpoint(state: OptimizerState) -> tuple[dict[str, Any], list[Written]]:
    """The same of a state that a checkpoint holds; parameters without a name are called by their numbers."""
    names: dict[int, str] = {}
    groups = []
    for group in state.groups:
        called = [str(name) for name in group.names or group.numbers]
        names |= dict(zip(group.numbers, called, strict=True))
        settings = {key: _plain(value) for key, value in group.settings.items()}
        groups.append({"params": called, **{key: value for key, value in settings.items() if value is not _NONE}})
    numbers: dict[str, dict[str, float]] = {}
    tensors: list[Written] = []
    for number, slots in state.slots.items():
        for slot in slots:
            value = slots[slot]
            if isinstance(value, Tensor) and value.dim():
                tensors.append(whole(f"{names[number]}.{slot}", value))
            elif isinstance(found := _plain(value), int | float):
                numbers.setdefault(names[number], {})[slot] = found
    return {"groups": groups, "numbers": numbers}, tensors


_NONE = object()
"""What stands for a setting that is left out."""


def _plain(value: Any) -> Any:
    """A setting in JSON's own types; _NONE for what is no number, text or short list of numbers."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 and not value.is_complex() else _NONE
    if isinstance(value, list | tuple) and len(value) <= LONGEST:
        parts = [_plain(part) for part in value]
        return _NONE if any(part is _NONE for part in parts) else parts
    if isinstance(value, Mapping):
        return _NONE
    return value if value is None or isinstance(value, bool | int | float | str) else _NONE
