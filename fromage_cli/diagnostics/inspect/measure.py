"""From a Checkpoint to an InspectResult."""

from collections.abc import Callable, Mapping, Sequence

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS
from fromage_cli.diagnostics.inspect.optimizer import describe_optimizer
from fromage_cli.diagnostics.inspect.result import (
    NO_WEIGHTS,
    NOT_READ,
    UNKNOWN_DTYPE,
    DtypeTotal,
    InspectResult,
    LogResult,
    TensorResult,
    Totals,
)
from fromage_cli.diagnostics.inspect.safety import named_code
from fromage_cli.missing import STEP_UNKNOWN, Missing, known
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
    logs: Sequence[LogResult] = (),
    digests: dict[str, bytes] | None = None,
    advance: Callable[[float, str], None] = lambda elements, doing: None,
) -> InspectResult:
    """Measures what is in the checkpoint; with `headers` no data is read.

    `logs`: what trainers wrote beside it. `digests` takes a digest of each tensor's bytes.
    """
    advance(0.0, "reading the optimizer's state")
    optimizer = describe_optimizer(checkpoint)
    found: Mapping[str, Magnitudes] = {}
    duplicates: tuple[tuple[str, ...], ...] | Missing = NOT_READ
    if not headers:
        from fromage_cli.checkpoints.reading.duplicates import find_duplicates
        from fromage_cli.checkpoints.reading.reductions import measure_magnitudes

        found = measure_magnitudes(checkpoint, advance=advance, digests=digests)
        advance(0.0, "comparing tensors that look alike")
        duplicates = find_duplicates(checkpoint, found)
    tensors = []
    for entry in checkpoint.entries.values():
        magnitudes, unread = found.get(entry.name), NOT_READ if headers else UNKNOWN_DTYPE
        tensor = TensorResult(
            name=entry.name,
            dtype=entry.dtype,
            shape=entry.shape,
            elements=entry.elements,
            norm=unread if magnitudes is None else magnitudes.norm,
            rms=unread if magnitudes is None else magnitudes.root_mean_square,
            max_abs=unread if magnitudes is None else magnitudes.largest,
            nonfinite=unread if magnitudes is None else magnitudes.nonfinite,
            nan=unread if magnitudes is None else magnitudes.nan,
            zeros=unread if magnitudes is None else magnitudes.zeros,
        )
        tensors.append(tensor)
    if spectrum:
        from fromage_cli.diagnostics.inspect.spectrum import spectrum_work, with_spectrum

        for place, tensor in enumerate(tensors):
            doing = f"singular values of {tensor.name}, {place + 1} of {len(tensors)}"
            advance(0.0, doing)
            tensors[place] = with_spectrum(tensor, checkpoint)
            advance(spectrum_work(checkpoint.entries[tensor.name]), doing)
    return InspectResult(
        format=checkpoint.format,
        step=STEP_UNKNOWN if checkpoint.step is None else checkpoint.step,
        key=checkpoint.key,
        totals=_totals(checkpoint, found, NOT_READ if headers else UNKNOWN_DTYPE if tensors else NO_WEIGHTS),
        optimizer=optimizer,
        tied=checkpoint.tied,
        duplicates=duplicates,
        reading=SAFETY.get(checkpoint.format.partition("-")[0], PICKLED),
        safety=tuple(named_code(checkpoint.names)),
        tensors=tuple(tensors),
        logs=tuple(logs),
        also_holds=checkpoint.also_holds,
    )


def _totals(checkpoint: Checkpoint, found: Mapping[str, Magnitudes], unread: Missing) -> Totals:
    """The whole file, tied tensors once."""
    copies = {name for group in checkpoint.tied for name in group[1:]}
    own = [entry for name, entry in checkpoint.entries.items() if name not in copies]
    dtypes = []
    for dtype in dict.fromkeys(entry.dtype for entry in own):
        elements = [entry.elements for entry in own if entry.dtype == dtype]
        width = WIDTHS.get(dtype)
        size = UNKNOWN_DTYPE if width is None else sum(elements) * width
        dtypes.append(DtypeTotal(dtype, len(elements), sum(elements), size))
    measured = [found[entry.name] for entry in own if entry.name in found]
    return Totals(
        tensors=len(checkpoint.entries),
        parameters=checkpoint.parameters,
        bytes=sum(known(total.bytes) or 0 for total in dtypes),
        nonfinite=sum(magnitudes.nonfinite for magnitudes in measured) if found else unread,
        zeros=sum(magnitudes.zeros for magnitudes in measured) if found else unread,
        dtypes=tuple(dtypes),
    )
