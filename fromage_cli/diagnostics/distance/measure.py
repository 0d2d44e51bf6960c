"""From two checkpoints to a DistanceResult; no model is needed."""

import math
from collections.abc import Callable, Sequence

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.arrays import load_matrix
from fromage_cli.checkpoints.reading.pairs import Pair, measure_pair
from fromage_cli.diagnostics.distance.pairing import Pairing
from fromage_cli.diagnostics.distance.result import (
    Absent,
    ConditionNumber,
    DistanceResult,
    ImpliedStep,
    LayerDistance,
)
from fromage_cli.errors import ResourceError
from fromage_cli.theory.network_distance import straight_step, wandering_step
from fromage_cli.theory.relative_trust import predicted_breakdown
from fromage_cli.theory.spectra import DENSE, extremes

NO_MODEL = "no model was given; --model auto rebuilds perceptrons"
CUT = "a limit was reached before all layers were measured"
FUNCTION_FIELDS = ("function_distance", "largest_function_distance", "log10_bound")


def measure(
    first: Checkpoint,
    second: Checkpoint,
    pairing: Pairing,
    *,
    spectrum: bool = True,
    advance: Callable[[float], None] = lambda elements: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[DistanceResult, ResourceError | None]:
    """The distance of the paired tensors and what follows from it; the function part is left open.

    `check` raises ResourceError where a limit is reached, which is handed back with the layers so far; raised where
    there are none. Raises InputError as reading does.
    """
    layers: list[LayerDistance] = []
    stopped = None
    for name in pairing.names:
        try:
            check()
        except ResourceError as limit:
            if not layers:
                raise
            stopped = limit
            break
        layers.append(_layer(first, second, name, spectrum))
        advance(first.entries[name].elements)
    product, missing = _product("product", [(layer.name, layer.relative_distance) for layer in layers])
    spectral, unknown = _product("product_spectral", _spectral(layers))
    if not spectrum:
        spectral, unknown = None, (Absent("product_spectral", "singular values were not asked for"),)
    if stopped is not None:
        product = spectral = None
        missing = (Absent("product", CUT), Absent("product_spectral", CUT))
        unknown = ()
    result = DistanceResult(
        first_step=first.step,
        second_step=second.step,
        product=product,
        product_spectral=spectral,
        function_distance=None,
        largest_function_distance=None,
        log10_bound=None,
        bound=None,
        layers=tuple(layers),
        unpaired=pairing.unpaired,
        absent=(*missing, *unknown, *_steps(first, second), *_large(layers, spectrum)),
    )
    return result, stopped


def without_function(reason: str = NO_MODEL) -> tuple[Absent, ...]:
    """Why the function part of a result is null."""
    return tuple(Absent(name, reason) for name in FUNCTION_FIELDS)


def _layer(first: Checkpoint, second: Checkpoint, name: str, spectrum: bool) -> LayerDistance:
    entry, pair = first.entries[name], measure_pair(first, second, name)
    relative = pair.difference / pair.first if pair.first > 0.0 else None
    shown = spectrum and len(entry.shape) > 1 and math.isfinite(pair.difference)
    spectral, condition = _singular_values(first, second, name) if shown else (None, ConditionNumber())
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
        cosine=None if pair.angle is None else math.cos(pair.angle),
        angle=pair.angle,
        implied_step=_implied(first, second, pair, relative),
        condition_number=condition,
    )


def _singular_values(first: Checkpoint, second: Checkpoint, name: str) -> tuple[float | None, ConditionNumber]:
    """delta^sigma and the condition numbers of W, W~ and their difference."""
    shape = first.entries[name].shape
    large = min(shape[0], math.prod(shape[1:])) > DENSE
    matrix, other = (load_matrix(checkpoint, name, narrow=large) for checkpoint in (first, second))
    largest, condition = extremes(matrix)
    _, second_condition = (0.0, None) if large else extremes(other)
    other -= matrix
    moved, difference_condition = extremes(other)
    return (
        moved / largest if largest > 0.0 else None,
        ConditionNumber(condition, second_condition, difference_condition if moved > 0.0 else None),
    )


def _implied(first: Checkpoint, second: Checkpoint, pair: Pair, relative: float | None) -> ImpliedStep:
    """The relative step of every training step that would explain the distance, where the steps are known."""
    steps = steps_between(first.step, second.step)
    if not steps or relative is None:
        return ImpliedStep()
    wandering = None if pair.angle is None else wandering_step(pair.angle, steps)
    return ImpliedStep(straight_step(relative, steps), wandering)


def steps_between(first: int | None, second: int | None) -> int | None:
    """How many steps lie between, in either direction; None where one is not known."""
    return None if first is None or second is None else abs(second - first)


def _steps(first: Checkpoint, second: Checkpoint) -> tuple[Absent, ...]:
    steps = steps_between(first.step, second.step)
    if steps is None:
        which = "first" if first.step is None else "second"
        return (Absent("implied_step", f"the step of the {which} checkpoint is not known"),)
    return () if steps else (Absent("implied_step", f"both checkpoints are of step {first.step}"),)


def _product(field: str, distances: Sequence[tuple[str, float | None]]) -> tuple[float | None, tuple[Absent, ...]]:
    """The product of all 1 + delta, less 1, over the layers; None where one of them has no relative distance."""
    missing = [name for name, distance in distances if distance is None]
    if missing or not distances:
        reason = f"{missing[0]} is zero or not finite" if missing else "there is no layer"
        return None, (Absent(field, reason),)
    return predicted_breakdown(distance for _, distance in distances if distance is not None), ()


def _spectral(layers: Sequence[LayerDistance]) -> list[tuple[str, float | None]]:
    """delta^sigma of every layer; a vector's is its relative distance."""
    return [
        (layer.name, layer.spectral_distance if len(layer.shape) > 1 else layer.relative_distance) for layer in layers
    ]


def _large(layers: Sequence[LayerDistance], spectrum: bool) -> tuple[Absent, ...]:
    """The layers whose singular values are too many to find them all."""
    names = [
        layer.name
        for layer in layers
        if spectrum and len(layer.shape) > 1 and min(layer.shape[0], math.prod(layer.shape[1:])) > DENSE
    ]
    if not names:
        return ()
    counted = f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
    return (Absent("condition_number", f"more than {DENSE} rows and columns: {counted}"),)
