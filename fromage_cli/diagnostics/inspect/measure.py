"""From a Checkpoint to an InspectResult."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.trainer_logs import TrainerLog
from fromage_cli.checkpoints.storage.dtypes import WIDTHS
from fromage_cli.diagnostics.inspect.optimizer import describe_optimizer
from fromage_cli.diagnostics.inspect.result import DtypeTotal, InspectResult, LogResult, TensorResult, Totals
from fromage_cli.diagnostics.inspect.safety import named_code
from fromage_cli.theory.magnitudes import Magnitudes

SAFETY = {
    "safetensors": "Safetensors holds numbers only: nothing in it could run",
    "npz": "A NumPy archive of plain numbers; pickled arrays would have been refused",
    "flax": "MessagePack holds values only: nothing in it could run",
    "deepspeed": "Pickles, read without running anything: nothing in them was executed",
}
PICKLED = "Its pickles were read as data: nothing in them was executed"


def measure(
    checkpoint: Checkpoint,
    *,
    headers: bool = False,
    spectrum: bool = False,
    logs: Sequence[TrainerLog] = (),
    advance: Callable[[float], None] = lambda elements: None,
) -> InspectResult:
    """Measures what is in the checkpoint; with `headers` no data is read. `logs`: what trainers wrote beside it."""
    found: Mapping[str, Magnitudes] = {}
    duplicates = None
    if not headers:
        from fromage_cli.checkpoints.reading.duplicates import find_duplicates
        from fromage_cli.checkpoints.reading.reductions import measure_magnitudes

        found = measure_magnitudes(checkpoint, advance=advance)
        duplicates = find_duplicates(checkpoint, found)
    tensors = []
    for entry in checkpoint.entries.values():
        tensor = TensorResult(entry.name, entry.dtype, entry.shape, entry.elements)
        if (magnitudes := found.get(entry.name)) is not None:
            tensor = replace(
                tensor,
                norm=magnitudes.norm,
                rms=magnitudes.root_mean_square,
                max_abs=magnitudes.largest,
                nonfinite=magnitudes.nonfinite,
                nan=magnitudes.nan,
                zeros=magnitudes.zeros,
            )
        tensors.append(tensor)
    if spectrum:
        from fromage_cli.diagnostics.inspect.spectrum import with_spectrum

        tensors = [with_spectrum(tensor, checkpoint) for tensor in tensors]
    folder = (checkpoint.weights or checkpoint.path).absolute().parent
    return InspectResult(
        format=checkpoint.format,
        step=checkpoint.step,
        key=checkpoint.key,
        totals=_totals(checkpoint, found),
        optimizer=describe_optimizer(checkpoint),
        tied=checkpoint.tied,
        duplicates=duplicates,
        reading=SAFETY.get(checkpoint.format.partition("-")[0], PICKLED),
        safety=tuple(named_code(checkpoint.names)),
        tensors=tuple(tensors),
        logs=tuple(
            LogResult(
                os.path.relpath(log.path, folder), log.records, log.step, log.loss, log.learning_rate, log.not_finite
            )
            for log in logs
        ),
    )


def _totals(checkpoint: Checkpoint, found: Mapping[str, Magnitudes]) -> Totals:
    """The whole file, tied tensors once."""
    copies = {name for group in checkpoint.tied for name in group[1:]}
    own = [entry for name, entry in checkpoint.entries.items() if name not in copies]
    dtypes = []
    for dtype in dict.fromkeys(entry.dtype for entry in own):
        elements = [entry.elements for entry in own if entry.dtype == dtype]
        width = WIDTHS.get(dtype)
        size = None if width is None else sum(elements) * width
        dtypes.append(DtypeTotal(dtype, len(elements), sum(elements), size))
    measured = [found[entry.name] for entry in own if entry.name in found]
    return Totals(
        tensors=len(checkpoint.entries),
        parameters=checkpoint.parameters,
        bytes=sum(total.bytes or 0 for total in dtypes),
        nonfinite=sum(magnitudes.nonfinite for magnitudes in measured) if found else None,
        zeros=sum(magnitudes.zeros for magnitudes in measured) if found else None,
        dtypes=tuple(dtypes),
    )
