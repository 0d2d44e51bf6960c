"""What a model and a batch tell of each layer: whether its scale is felt, in which parts, how large gradients are."""

from collections.abc import Callable, Mapping, Sequence

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.intrinsic_lr.result import Evidence, LayerEvidence
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.missing import Missing, Why, found_of
from fromage_cli.probes.optimizer_step.unit_gradients import (
    UnitGradients,
    Units,
    measure_unit_gradients,
    squares_of_units,
)
from fromage_cli.probes.structure.invariance import LayerInvariance, measure_invariance
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.problem.networks.weights import stored_names


def gather_evidence(
    problem: Problem,
    layers: Mapping[str, TrainableTensor],
    *,
    gradients: bool,
    batch_size: int | None,
    advance: Callable[[], None] = lambda: None,
) -> Evidence:
    """Tests the model's layers, given by their names in the checkpoint, for scale invariance; where the rule needs them
    it measures gradients too.

    Raises what the first gradient raises; a limit that is reached leaves the rest untested, or without gradients.
    """
    test, stopped = found_of(measure_invariance(problem, {layer.name for layer in layers.values()}, advance))
    units = {layer.name: _units(test, layer) for layer in layers.values()}
    measured = None
    no_gradients = Missing(Why.NOT_DEFINED, "no law of this optimizer takes gradients")
    if gradients and stopped is None:
        try:
            measured = measure_unit_gradients(problem, units, batch_size)
        except MismatchError as error:
            no_gradients = Missing(Why.NOT_EVALUATED, f"{error.message}. {error.hint}".rstrip("."))
        except ResourceError as limit:
            stopped = limit
    if stopped is not None:
        words = f"a limit was reached before gradients were taken. {stopped.message}".rstrip(".")
        no_gradients = Missing(Why.LIMIT_REACHED, words)
    return Evidence(
        {name: _evidence(layer, test, units[layer.name], measured) for name, layer in layers.items()},
        measured.batch_size if measured is not None else None,
        no_gradients,
        stopped,
    )


def _units(test: Mapping[str, LayerInvariance], layer: TrainableTensor) -> Units:
    """The parts of a layer that have a scale of their own, as far as it was tested."""
    found = test.get(layer.name)
    return Units(found.invariance.parts or 1, found.invariance.axis or 0) if found is not None else Units()


def _evidence(
    layer: TrainableTensor, test: Mapping[str, LayerInvariance], units: Units, measured: UnitGradients | None
) -> LayerEvidence:
    """What was found of one layer."""
    found = test.get(layer.name)
    squares = measured.squares[layer.name] if measured is not None else None
    return LayerEvidence(
        kind=layer.kind,
        verdict=found.invariance.verdict if found is not None else "untested",
        granularity=found.invariance.granularity if found is not None else None,
        squares=None if squares is None else _scaled(layer, units, squares),
        squared_gradient=None if squares is None else sum(squares),
    )


def checkpoint_shapes(problem: Problem, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The trainable tensors' shapes in model order, by the checkpoint's names."""
    stored = stored_names(problem.model, checkpoint, problem.trainable)
    return {stored[tensor.name]: tuple(tensor.parameter.shape) for tensor in problem.trainable}


def _scaled(tensor: TrainableTensor, units: Units, squares: Sequence[float]) -> tuple[float, ...]:
    sizes = squares_of_units(tensor.parameter, units).tolist()
    return tuple(size * square for size, square in zip(sizes, squares, strict=True))
