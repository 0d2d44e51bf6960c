"""The settings that an optimizer's state holds for each layer of a checkpoint, matched without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, match_parameters
from fromage_cli.errors import MismatchError

BUFFERS = ("running_mean", "running_var")
"""Floating-point tensors that no optimizer moves."""


@dataclass(frozen=True)
class LayerSettings:
    """What one checkpoint's state says of its layers."""

    by_layer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Those of its group, for each layer whose group is known."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """What all groups have in common."""
    untold: bool = False
    """Whether groups differ in rate or decay, and some layer's group is not known."""

    def of(self, name: str) -> Mapping[str, Any]:
        """Those of a layer's group, else what all groups have in common."""
        return self.by_layer.get(name, self.common)


def layer_settings(
    checkpoint: Checkpoint,
    state: OptimizerState | None,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> LayerSettings:
    """The settings of the named layers; `shapes`: the trainable tensors, where a model tells them.

    Otherwise the state is matched to the floating-point tensors of the file, without those of BatchNorm or with them.
    """
    if state is None:
        return LayerSettings()
    copies = {name for group in checkpoint.tied for name in group[1:]}
    floating = {
        entry.name: entry.shape for entry in checkpoint.entries.values() if entry.floating and entry.name not in copies
    }
    trained = {name: shape for name, shape in floating.items() if not name.endswith(BUFFERS)}
    numbers: Mapping[str, int] = {}
    for candidates in (shapes, trained, floating):
        try:
            numbers = match_parameters(state, candidates) if candidates is not None else {}
        except MismatchError:
            continue
        if numbers:
            break
    settings = [group.settings for group in state.groups]
    common = {key: value for key, value in settings[0].items() if all(one.get(key) == value for one in settings)}
    groups = {number: group.settings for group in state.groups for number in group.numbers}
    differ = any(len({str(one.get(key)) for one in settings}) > 1 for key in ("lr", "weight_decay"))
    return LayerSettings(
        {name: groups[numbers[name]] for name in names if name in numbers},
        common,
        differ and not set(names) <= set(numbers),
    )
