"""The settings that an optimizer's state holds for each layer of a checkpoint, matched without a model."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.layers import BUFFERS
from fromage_cli.checkpoints.optimizers.certain_matching import certain_numbers
from fromage_cli.checkpoints.optimizers.matching import match_parameters
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, ParameterGroup, slot_shape
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.settings import (
    UNMATCHED_GROUPS,
    Given,
    Optimizer,
    SavedSettings,
    find_settings,
    first_known,
)


@dataclass(frozen=True)
class LayerSettings:
    """What one checkpoint's state says of its layers."""

    by_layer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Those of its group, for each layer whose group is known; what all share that can hold it, where they agree."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """What all groups have in common."""
    unmatched: bool = False
    """Whether groups differ in rate or decay, and some layer's group is not known."""

    mixed_decay: bool = False
    """Whether groups differ in weight decay."""
    slots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the optimizer remembers of each layer that can be told by its number."""
    unmatched_slots: frozenset[int] = frozenset()
    """Numbers of parameters that the optimizer remembers, of which it is not told which tensor they are."""
    never_updated: frozenset[str] = frozenset()
    """Layers that have no slot beside others that have one: they were frozen."""
    optimizers: Mapping[str, SavedSettings] = field(default_factory=dict)
    """By layer: which of several optimizers moves it."""
    numbered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Unmatched slots as layers called `slot 12 (64×64)`, and their shapes, where they were asked for."""

    def of(self, name: str | None) -> Mapping[str, Any]:
        """Those of a layer's group, else what all groups have in common."""
        return self.by_layer.get(name or "", self.common)


@dataclass(frozen=True)
class RunSettings:
    """How the layers of a run are trained: as the user says, else as a saved state does, else as declared.

    A layer of name None is any of which no more is known than what all groups have in common.
    """

    name: str | None
    """The optimizer's name, or what the state of one that is not covered is called."""
    optimizer: Optimizer
    given: Given
    declared: Given
    found: tuple[LayerSettings, ...]
    """What the state of each checkpoint says."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how they were found."""
        return (*self.optimizer.notes, *([UNMATCHED_GROUPS] if self.found[-1].unmatched else []))

    def optimizer_of(self, layer: str | None) -> Optimizer:
        """The one that moves a layer, with the settings of its group at the last checkpoint."""
        last, optimizer = self.found[-1], self.optimizer
        own = last.optimizers.get(layer or "")
        if optimizer.name is None and own is not None:
            optimizer = find_settings(self.given, own, self.declared)
        return optimizer.of_group(last.of(layer))

    def kind_of(self, layer: str | None) -> str | None:
        """What the one that moves a layer is called, also where it is not covered."""
        own = self.found[-1].optimizers.get(layer or "")
        return self.name if own is None else own.kind

    def rates(self, layer: str | None) -> tuple[float | None, ...]:
        """The learning rate of a layer at each checkpoint."""
        told = (one.of(layer).get("lr") for one in self.found)
        return tuple(first_known(self.given.learning_rate, rate, self.declared.learning_rate) for rate in told)

    def decay(self, layer: str | None) -> float | None:
        """The weight decay of a layer at the last checkpoint."""
        told = self.found[-1].of(layer).get("weight_decay")
        known: float | None = first_known(self.given.weight_decay, told, self.declared.weight_decay)
        return known


def run_settings(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    given: Given,
    declared: Given,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> RunSettings:
    """The settings of the named layers along a run; `shapes` as for `layer_settings`."""
    states = [checkpoint.optimizer for checkpoint in checkpoints]
    known = (state.settings_for(given.name) for state in reversed(states) if state is not None)
    saved = next((one for one in known if one.kind is not None), None)
    optimizer = find_settings(given, saved, declared)
    name = optimizer.name or (saved.kind if saved is not None else None)
    found = []
    for checkpoint, state in zip(checkpoints, states, strict=True):
        of_name = None if state is None or name is None else state if state.kind == name else state.serving(name)
        found.append(layer_settings(checkpoint, of_name, names, shapes))
    return RunSettings(name, optimizer, given, declared.meant_for(name), tuple(found))


def layer_settings(
    checkpoint: Checkpoint,
    state: OptimizerState | None,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> LayerSettings:
    """The settings of the named layers; `shapes`: the trainable tensors, where a model tells them.

    Otherwise the state is matched to the floating-point tensors of the file, without those of BatchNorm or with them.
    Where a file's order is not the model's, a rule tells groups. Shapes and numbers in names tell some slots.
    """
    if state is None:
        return LayerSettings()
    copies = {name for group in checkpoint.tied for name in group[1:]}
    floating = {
        entry.name: entry.shape for entry in checkpoint.entries.values() if entry.floating and entry.name not in copies
    }
    trained = {name: shape for name, shape in floating.items() if not name.endswith(BUFFERS)}
    everyone = state.whole or state
    in_order = checkpoint.ordered or all(group.names for group in everyone.groups)
    candidates = [*([shapes] if shapes is not None else []), *([trained, floating] if in_order else [])]
    numbers = _numbers(everyone, candidates, checkpoint.ordered)
    told_by_shape = {} if numbers or in_order else certain_numbers(everyone, trained)
    owners = {number: group for group in state.groups for number in group.numbers}
    groups = {name: owners[number] for name, number in numbers.items() if number in owners}
    if not numbers:
        members = zip(state.members_by_rule(trained), state.groups, strict=False)
        groups = {name: group for members_of, group in members for name in members_of}
        groups |= {name: owners[number] for name, number in told_by_shape.items() if number in owners}
    still = _never_updated(everyone, numbers, {name: trained[name] for name in names if name in trained})
    others = still | (set(numbers) - set(groups))  # frozen, or of another optimizer
    told = {name: groups[name].settings if name in groups else {} for name in names if name in groups or name in others}
    for name in (set(names) - set(told)) & set(checkpoint.entries):
        possible = [group.settings for group in state.groups if _may_hold(state, group, checkpoint.entries[name].shape)]
        if possible and not _differ(possible):
            told[name] = _common(possible)
    numbers = {**numbers, **told_by_shape}
    unmatched = set(names) - set(told)
    if len(everyone.numbers) < len(names):  # what all have in common is not spread over more than there are
        told |= {name: {} for name in unmatched}
    settings = [group.settings for group in state.groups]
    parts = _by_optimizer(state)
    return LayerSettings(
        told,
        _common(settings),
        _differ(settings) and bool(unmatched),
        len({one.get("weight_decay") for one in settings}) > 1,
        {name: state.slots.get(numbers[name], {}) for name in names if name in numbers},
        frozenset(state.slots) - set(numbers.values()),
        still,
        {name: parts[numbers[name]] for name in names if numbers.get(name) in parts},
    )


def with_numbered_slots(told: LayerSettings, state: OptimizerState | None) -> LayerSettings:
    """The same with every slot without a tensor as a layer, called by number and shape."""
    if state is None or not told.unmatched_slots:
        return told
    found = {number: slot_shape(state.slots[number]) for number in sorted(told.unmatched_slots)}
    shapes = {number: shape for number, shape in found.items() if shape is not None and 0 not in shape}
    names = {number: f"slot {number} ({'×'.join(map(str, shape)) or 'a number'})" for number, shape in shapes.items()}
    groups = {number: group.settings for group in state.groups for number in group.numbers}
    parts = _by_optimizer(state)
    return replace(
        told,
        by_layer={**told.by_layer, **{name: groups[number] for number, name in names.items()}},
        slots={**told.slots, **{name: state.slots[number] for number, name in names.items()}},
        optimizers={**told.optimizers, **{name: parts[number] for number, name in names.items() if number in parts}},
        numbered={name: shapes[number] for number, name in names.items()},
    )


def _by_optimizer(state: OptimizerState) -> dict[int, SavedSettings]:
    """Which of several optimizers moves each parameter, by its settings; empty where there is one."""
    told = [(part.settings, part.numbers) for part in state.parts]
    return {number: settings for settings, numbers in told for number in numbers} if len(told) > 1 else {}


def _numbers(
    state: OptimizerState, candidates: Sequence[Mapping[str, tuple[int, ...]]], ordered: bool
) -> Mapping[str, int]:
    """The parameter numbers of the first of several sets of tensors that fits; empty where none does.

    `ordered`: whether tensors stand in the model's order. Where they do not, order alone tells none that were frozen.
    """
    for shapes in candidates:
        with suppress(MismatchError):
            found = match_parameters(state, shapes)
            if ordered or len(found) == len(shapes) or all(group.names for group in state.groups):
                return found
    return {}


def _never_updated(
    state: OptimizerState, numbers: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
) -> frozenset[str]:
    """The tensors that have no slot beside others that have one: by number, else where no slot has their shape."""
    if not state.slots:
        return frozenset()
    if numbers:
        return frozenset(name for name in shapes if numbers.get(name) not in state.updated)
    if len(state.updated) > len(state.slots):
        return frozenset()
    held = {slot_shape(slot) for slot in state.slots.values()}
    return frozenset(name for name, shape in shapes.items() if None not in held and shape not in held)


def _may_hold(state: OptimizerState, group: ParameterGroup, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the group has this shape, or one that is not told."""
    return any(slot_shape(state.slots.get(number, {})) in (None, shape) for number in group.numbers)


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several groups have in common."""
    return {key: value for key, value in settings[0].items() if all(one.get(key) == value for one in settings)}


def _differ(settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether groups differ in rate or decay."""
    return any(len({_spelled(one.get(key)) for one in settings}) > 1 for key in ("lr", "weight_decay"))


def _spelled(value: object) -> str:
    """A setting as text; of a container, whose text may be far longer than its file, only which one it is."""
    return str(id(value)) if isinstance(value, Collection) and not isinstance(value, str) else str(value)
