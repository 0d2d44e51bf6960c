"""From two checkpoints to a DistanceResult; no model is needed."""

import math
from collections.abc import Callable, Sequence

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.reading.arrays import load_matrix
from fromage_cli.checkpoints.reading.pairs import measure_pair
from fromage_cli.diagnostics.distance.pairing import Pairing
from fromage_cli.diagnostics.distance.result import ConditionNumber, DistanceResult, ImpliedStep, LayerDistance
from fromage_cli.errors import ResourceError
from fromage_cli.missing import STEP_UNKNOWN, Interrupted, Missing, Why, known
from fromage_cli.theory.relative_trust import predicted_breakdown, straight_step, wandering_step
from fromage_cli.theory.spectra import DENSE, decomposition_work, extremes

NO_MODEL = Missing(Why.NO_MODEL, "no model was given: add --model and --batch")
CUT = Missing(Why.LIMIT_REACHED, "a limit was reached before all layers were measured")
NO_SPECTRUM = Missing(Why.NOT_ASKED, "singular values were not asked for")
NO_SIZE = Missing(Why.ZERO_OR_NOT_FINITE, "it is zero or not finite in one of the two")


def measure(
    first: Checkpoint,
    second: Checkpoint,
    pairing: Pairing,
    *,
    spectrum: bool = True,
    advance: Callable[[float, str], None] = lambda elements, doing: None,
    check: Callable[[], None] = lambda: None,
) -> DistanceResult | Interrupted[DistanceResult]:
    """Measures the distance of the paired tensors and what follows from it, without the function part.

    `check` raises ResourceError where a limit is reached: the result then holds the layers so far; raised where there
    are none. Raises InputError as reading does.
    """
    layers: list[LayerDistance] = []
    stopped = None
    steps: int | Missing
    if first.step is None or second.step is None:
        which = "first" if first.step is None else "second"
        steps = Missing(Why.STEP_UNKNOWN, f"the step of the {which} checkpoint is not known")
    else:
        same = Missing(Why.NO_STEPS_BETWEEN, f"both checkpoints are of step {first.step}")
        steps = abs(second.step - first.step) or same
    for place, name in enumerate(pairing.names, 1):
        doing = f"{name}, {place} of {len(pairing.names)}"
        advance(0.0, doing)
        try:
            check()
        except ResourceError as limit:
            if not layers:
                raise
            stopped = limit
            break
        layers.append(_layer(first, second, name, spectrum, steps))
        advance(work_of(first.entries[name], spectrum), doing)
    cut = None if stopped is None else CUT
    function = cut or NO_MODEL
    spectral = [
        (layer.name, layer.spectral_distance if len(layer.shape) > 1 else layer.relative_distance) for layer in layers
    ]
    result = DistanceResult(
        first_step=STEP_UNKNOWN if first.step is None else first.step,
        second_step=STEP_UNKNOWN if second.step is None else second.step,
        product=cut or _product([(layer.name, layer.relative_distance) for layer in layers]),
        product_spectral=cut or (_product(spectral) if spectrum else NO_SPECTRUM),
        function_distance=function,
        largest_function_distance=function,
        log10_bound=function,
        bound=function,
        layers=tuple(layers),
        unpaired=pairing.unpaired,
    )
    return result if stopped is None else Interrupted(result, stopped)


def work_of(entry: TensorEntry, spectrum: bool) -> float:
    """What a layer takes, about, in elements that are read."""
    return entry.elements + (decomposition_work(entry.shape) if spectrum and len(entry.shape) > 1 else 0.0)


def _layer(first: Checkpoint, second: Checkpoint, name: str, spectrum: bool, steps: int | Missing) -> LayerDistance:
    """One layer in both, `steps` training steps apart."""
    entry, pair = first.entries[name], measure_pair(first, second, name)
    relative = pair.difference / pair.first if pair.first > 0.0 else NO_SIZE
    spectral: float | Missing
    if spectrum and len(entry.shape) > 1 and math.isfinite(pair.difference):
        spectral, condition = singular_values(first, second, name)
    else:
        vector = Missing(Why.NOT_DEFINED, "a vector has no singular values")
        spectral = NO_SPECTRUM if not spectrum else NO_SIZE if len(entry.shape) > 1 else vector
        condition = ConditionNumber(spectral, spectral, spectral)
    if isinstance(steps, Missing) or isinstance(relative, Missing):
        unknown = steps if isinstance(steps, Missing) else NO_SIZE
        implied = ImpliedStep(unknown, unknown)
    else:
        wandering = NO_SIZE if pair.angle is None else wandering_step(pair.angle, steps)
        if wandering is None:
            wandering = Missing(Why.NOT_DEFINED, "steps at right angles to the weights never turn them by 90° or more")
        implied = ImpliedStep(straight_step(relative, steps), wandering)
    return LayerDistance(
        name=name,
        kind=None,
        shape=entry.shape,
        parameters=entry.elements,
        first_dtype=entry.dtype,
        second_dtype=second.entries[name].dtype,
        first_norm=pair.first,
        second_norm=pair.second,
        relative_distance=relative,
        spectral_distance=spectral,
        cosine=NO_SIZE if pair.angle is None else math.cos(pair.angle),
        angle=NO_SIZE if pair.angle is None else pair.angle,
        implied_step=implied,
        condition_number=condition,
    )


def singular_values(first: Checkpoint, second: Checkpoint, name: str) -> tuple[float | Missing, ConditionNumber]:
    """delta^sigma and the condition numbers of W, W~ and their difference."""
    shape = first.entries[name].shape
    large = min(shape[0], math.prod(shape[1:])) > DENSE
    matrix, other = (load_matrix(checkpoint, name, narrow=large) for checkpoint in (first, second))
    largest, condition = extremes(matrix)
    _, second_condition = (0.0, None) if large else extremes(other)
    other -= matrix
    moved, difference_condition = extremes(other)
    too_large = Missing(Why.TOO_LARGE, f"the matrix has more than {DENSE} rows and columns")
    unmoved = Missing(Why.NOTHING_MOVES, "the layer did not move")
    return (
        moved / largest if largest > 0.0 else NO_SIZE,
        ConditionNumber(
            too_large if condition is None else condition,
            too_large if second_condition is None else second_condition,
            unmoved if moved <= 0.0 else too_large if difference_condition is None else difference_condition,
        ),
    )


def _product(distances: Sequence[tuple[str, float | Missing]]) -> float | Missing:
    """The product of all 1 + delta, less 1, over the layers; missing where one of them has no relative distance."""
    without = [name for name, distance in distances if isinstance(distance, Missing)]
    if without:
        return Missing(Why.RESTS_ON_MISSING, f"{without[0]} is zero or not finite")
    if not distances:
        return Missing(Why.RESTS_ON_MISSING, "there is no layer")
    return predicted_breakdown(value for _, distance in distances if (value := known(distance)) is not None)
