"""Slots of an optimizer whose tensors are not known: their moments are tested all the same."""

from collections.abc import Mapping
from dataclasses import replace

from fromage_cli.checkpoints import OptimizerState, TensorEntry
from fromage_cli.checkpoints.optimizers.optimizer_state import slot_shape
from fromage_cli.checkpoints.runs.layer_settings import RunSettings
from fromage_cli.diagnostics.state.subjects import Subject, subject_of
from fromage_cli.missing import Missing, Why

NOT_KNOWN = Missing(Why.NO_STATE, "it is not known which tensor it belongs to")
NO_DTYPE = "unknown"
"""Of weights that are not known."""


def slot_subjects(state: OptimizerState, settings: RunSettings) -> Mapping[str, Subject]:
    """Every unmatched slot that has a shape, by a name of number and shape, with the settings of its group."""
    told = settings.found[-1]
    found = {number: slot_shape(state.slots[number]) for number in sorted(told.unmatched_slots)}
    shapes = {number: shape for number, shape in found.items() if shape is not None and 0 not in shape}
    names = {number: f"slot {number} ({'×'.join(map(str, shape)) or 'a number'})" for number, shape in shapes.items()}
    groups = {number: group.settings for group in state.groups for number in group.numbers}
    parts = {number: part.settings for part in state.parts for number in part.numbers} if len(state.parts) > 1 else {}
    as_layers = replace(
        told,
        by_layer={name: groups[number] for number, name in names.items()},
        optimizers={name: parts[number] for number, name in names.items() if number in parts},
    )
    beside = replace(settings, found=(as_layers,))
    return {
        name: subject_of(TensorEntry(name, NO_DTYPE, shapes[number]), state.slots[number], beside)
        for number, name in names.items()
    }
