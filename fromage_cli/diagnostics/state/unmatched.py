"""Slots of an optimizer whose tensors are not known: their moments are tested all the same."""

from collections.abc import Mapping

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.checkpoints.runs.layer_settings import RunSettings
from fromage_cli.diagnostics.state.subjects import Subject, subject_of
from fromage_cli.missing import Missing, Why

NOT_KNOWN = Missing(Why.NO_STATE, "it is not known which tensor it belongs to")
NO_DTYPE = "unknown"
"""Of weights that are not known."""


def slot_subjects(settings: RunSettings) -> Mapping[str, Subject]:
    """Every numbered slot of the last checkpoint, with the settings of its group."""
    told = settings.found[-1]
    return {
        name: subject_of(TensorEntry(name, NO_DTYPE, shape), told.slots[name], settings)
        for name, shape in told.numbered.items()
    }
