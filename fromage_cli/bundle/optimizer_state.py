"""What a bundle keeps of optimizers: settings of each group, and what they remember of each tensor."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from fromage_cli.bundle.writing import Written, whole

LONGEST = 16
"""Members of a setting that is a list."""


def describe_optimizers(
    model: nn.Module, optimizer: Optimizer | Sequence[Optimizer]
) -> tuple[dict[str, Any], list[Written]]:
    """Settings and numbers in JSON's own types, and the tensors, called by the tensor's and the slot's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizers = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
    groups: list[dict[str, Any]] = []
    numbers: dict[str, dict[str, float]] = {}
    tensors: list[Written] = []
    for one in optimizers:
        one = getattr(one, "optimizer", one)  # inside accelerate's
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


_NONE = object()


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
