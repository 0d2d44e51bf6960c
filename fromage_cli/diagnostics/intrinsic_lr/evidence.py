"""What a model and a batch tell of each layer: whether its scale is felt, in which parts, how large gradients are."""

from collections.abc import Callable, Mapping, Sequence

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.intrinsic_lr.result import Evidence, LayerEvidence
from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step.unit_gradients import (
    UnitGradients,
    Units,
    measure_unit_gradients,
    squares_of_units,
)
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.problem.layers import TrainableTensor
from fromage_cli.problem.problem import Problem


def gather_evidence(
    problem: Problem,
    names: Sequence[str],
    *,
    gradients: bool,
    batch_size: int | None,
    advance: Callable[[], None] = lambda: None,
) -> Evidence:
    """Tests the named layers for scale invariance and, where the rule needs them, measures gradients.

    Raises what the first gradient raises; a limit that is reached leaves layers untested, and a note says so.
    """
    tensors = model_tensors(problem, names)
    test = measure_invariance(problem, {tensor.name for tensor in tensors.values()}, advance)
    units = {}
    for tensor in tensors.values():
        found = test.layers.get(tensor.name)
        parts = found.invariance.parts if found is not None else None
        units[tensor.name] = Units(parts or 1, (found.invariance.axis if found is not None else None) or 0)
    measured, reason = _gradients(problem, units, batch_size) if gradients and test.stopped is None else (None, "")
    layers = {}
    for name, tensor in tensors.items():
        found = test.layers.get(tensor.name)
        squares = measured.squares.get(tensor.name) if measured is not None else None
        layers[name] = LayerEvidence(
            kind=tensor.kind,
            verdict=found.invariance.verdict if found is not None else "untested",
            granularity=found.invariance.granularity if found is not None else None,
            squares=None if squares is None else _scaled(tensor, units[tensor.name], squares),
            squared_gradient=None if squares is None else sum(squares),
        )
    notes = () if test.stopped is None else (f"scale invariance was tested in part: {test.stopped.message}",)
    return Evidence(layers, measured.batch_size if measured else None, reason or Evidence().no_gradients, notes)


def model_tensors(problem: Problem, names: Sequence[str]) -> dict[str, TrainableTensor]:
    """The model's layers by the checkpoint's names, which may have a first component more, or less."""
    own = {name: tensor for tensor in problem.layers for name in (tensor.name, *tensor.aliases)}
    found = {}
    for name in names:
        candidates = (name, name.partition(".")[2], *(other for other in own if other.partition(".")[2] == name))
        match = next((own[candidate] for candidate in candidates if candidate in own), None)
        if match is not None:
            found[name] = match
    return found


def checkpoint_shapes(problem: Problem, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]] | None:
    """The trainable tensors' shapes in model order, by the checkpoint's names; None where names do not agree."""
    shapes = {tensor.name: tuple(tensor.parameter.shape) for tensor in problem.trainable}
    return shapes if set(shapes) <= set(checkpoint.entries) else None


def _gradients(
    problem: Problem, units: Mapping[str, Units], batch_size: int | None
) -> tuple[UnitGradients | None, str]:
    """The gradients, or the reason why there are none."""
    try:
        return measure_unit_gradients(problem, units, batch_size), ""
    except MismatchError as error:
        return None, f"{error.message}. {error.hint}".rstrip(".")


def _scaled(tensor: TrainableTensor, units: Units, squares: Sequence[float]) -> tuple[float, ...]:
    sizes = squares_of_units(tensor.parameter, units).tolist()
    return tuple(size * square for size, square in zip(sizes, squares, strict=True))
