"""From the checkpoints of a run to a NormsResult."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.layers import layer_entries
from fromage_cli.checkpoints.reading.pairs import unchanged
from fromage_cli.checkpoints.reading.reductions import Rows, measure_norms, measure_rows
from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.result import (
    NO_JUMP,
    NO_QUARTER,
    NOT_FINITE,
    ONE_STEP,
    STEADY,
    TWO_STEPS,
    Channels,
    Jump,
    LayerNorms,
    NormsResult,
    Overflow,
    OverflowSteps,
)
from fromage_cli.diagnostics.norms.settings import Settings
from fromage_cli.missing import (
    LEARNING_RATE_UNKNOWN,
    LIMIT_REACHED,
    OPTIMIZER_UNKNOWN,
    STEP_UNKNOWN,
    WEIGHT_DECAY_UNKNOWN,
    Interrupted,
    Missing,
    Why,
    found_of,
)
from fromage_cli.optimizers.effective_rate import NO_NORM, effective_rate, rate_power
from fromage_cli.theory.growth import LARGEST, START, drift, first_passage, is_drift, out_of_line, steps_until
from fromage_cli.theory.scale_invariance import Invariance, untested

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fromage_cli.problem.evaluation.problem import Problem
    from fromage_cli.problem.networks.layers import TrainableTensor

LARGEST_LOG = 700.0
"""Above it the exponential function leaves float64."""
MOST_SIBLINGS = 64
"""Layers like one that its jumps are held against, the nearest in the file: a mixture of experts has thousands."""
NEGLIGIBLE = 1e-6
"""A row's norm over the median below which nothing is left of it: what float32 still resolves beside the others."""


@dataclass(frozen=True)
class LayerTest:
    """What a model shows of a layer."""

    kind: str | None = None
    invariance: Invariance = field(default_factory=Invariance)
    dead_bias: bool | None = None


def examine_layers(
    problem: "Problem", layers: Mapping[str, "TrainableTensor"], advance: Callable[[], None] = lambda: None
) -> dict[str, LayerTest] | Interrupted[dict[str, LayerTest]]:
    """Tests the model's layers, given by their names in the checkpoint."""
    from fromage_cli.probes.structure.invariance import measure_invariance  # brings torch

    found, limit = found_of(measure_invariance(problem, {layer.name for layer in layers.values()}, advance))
    tested = {name: LayerTest(layer.kind, untested(LIMIT_REACHED)) for name, layer in layers.items()}
    for name, layer in layers.items():
        one = found.get(layer.name)
        if one is not None:
            tested[name] = LayerTest(layer.kind, one.invariance, one.dead_bias)
    return tested if limit is None else Interrupted(tested, limit)


def vectors_left_out(checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """A note on the vectors that the globs leave, of which no norms are taken; none where there are none."""
    names = (include, exclude)
    count = len(layer_entries(checkpoint, *names, "all")) - len(layer_entries(checkpoint, *names))
    if not count:
        return ()
    are = f"{counted(count, 'vector')}, such as biases and scales, {'is' if count == 1 else 'are'} left out"
    return (f"norms: {are}; inspect shows their norms in each checkpoint.",)


def measure(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    settings: Settings,
    tested: Mapping[str, LayerTest] | None = None,
    advance: Callable[[float, str], None] = lambda elements, doing: None,
) -> NormsResult:
    """The norms of the named layers along the run and what follows from them.

    `tested`: what a model showed of them; without one their invariance is untested. Tensors of an unknown dtype are
    left out.
    """
    before = measure_norms(checkpoints[:-1], names, advance)
    last = measure_rows(checkpoints[-1], names, advance)
    steps = tuple(checkpoint.step for checkpoint in checkpoints)
    norms = {
        name: (*(one[name] for one in before), last[name].magnitudes.norm)
        for name in names
        if name in last and all(name in one for one in before)
    }
    entries = checkpoints[-1].entries
    family = {name: (entries[name].shape, re.sub("[0-9]+", "", name)) for name in norms}
    members: dict[object, list[str]] = {}
    for name in norms:
        members.setdefault(family[name], []).append(name)
    places = {name: place for alike in members.values() for place, name in enumerate(alike)}
    layers = tuple(
        _layer(
            entries[name],
            steps,
            norms[name],
            last[name],
            siblings=[norms[other] for other in _around(members[family[name]], places[name]) if other != name],
            unchanged=len(set(norms[name])) == 1 and unchanged(checkpoints, name),
            never_updated=name in settings.never_updated,
            settings=settings.layers.get(name, settings),
            tested=(tested or {}).get(name, LayerTest()),
        )
        for name in norms
    )
    no_rate = OPTIMIZER_UNKNOWN if settings.optimizer is None else LEARNING_RATE_UNKNOWN
    decay = settings.weight_decay
    return NormsResult(
        steps=tuple(STEP_UNKNOWN if step is None else step for step in steps),
        optimizer=settings.optimizer,
        learning_rates=tuple(no_rate if rate is None else rate for rate in settings.learning_rates),
        weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
        steps_per_epoch=settings.steps_per_epoch,
        layers=layers,
    )


def _layer(
    entry: TensorEntry,
    steps: tuple[int | None, ...],
    norms: tuple[float, ...],
    last: Rows,
    *,
    siblings: Sequence[tuple[float, ...]],
    unchanged: bool,
    never_updated: bool,
    settings: Settings,
    tested: LayerTest,
) -> LayerNorms:
    """One layer; `last` is what was read of the last checkpoint, `siblings` the norms of layers like it."""
    found = [step for step in steps if step is not None]
    growth: float | Missing = ONE_STEP
    stderr: float | Missing = ONE_STEP
    overflow: OverflowSteps | Missing = ONE_STEP
    halved: float | Missing = ONE_STEP
    if len(found) > 1 and not _have_logarithms(norms):
        growth = stderr = overflow = halved = NO_NORM
    elif len(found) > 1:
        logs = [math.log(norm) for norm in norms]
        growth, error = drift(found, logs)
        stderr = TWO_STEPS if error is None else error
        lasting = growth if is_drift(growth, error, len(norms)) else None
        overflow = STEADY if lasting is None else _overflow(found[-1], last, lasting)
        halved = _halved(found, logs, settings.optimizer, lasting)
    return LayerNorms(
        name=entry.name,
        kind=tested.kind,
        shape=entry.shape,
        parameters=entry.elements,
        dtype=entry.dtype,
        norms=norms,
        first_norm=norms[0],
        last_norm=norms[-1],
        invariance=tested.invariance,
        growth_per_step=growth,
        growth_stderr=stderr,
        predicted_growth=settings.predicted_growth(steps),
        dead_bias=tested.dead_bias,
        overflow_step=overflow,
        halved_step=halved,
        **_changes(found, norms, siblings, settings.optimizer),
        unchanged=unchanged,
        never_updated=never_updated,
        channels=_channels(last.norms),
        effective_learning_rate=tuple(
            effective_rate(settings.optimizer, rate, norm, settings.trust_coefficient, clipped=settings.clipped)
            for rate, norm in zip(settings.learning_rates, norms, strict=True)
        ),
    )


def _overflow(step: int, last: Rows, growth: float) -> OverflowSteps:
    """The steps at which each dtype would be left if growth went on from the last one."""
    found = {}
    for dtype, largest in LARGEST.items():
        entries = steps_until(last.magnitudes.largest, largest, growth)
        squares = steps_until(last.magnitudes.norm, math.sqrt(largest), growth)
        found[dtype] = Overflow(*(NO_NORM if steps is None else step + steps for steps in (entries, squares)))
    return OverflowSteps(**found)


def _halved(steps: list[int], logs: list[float], optimizer: str | None, growth: float | None) -> float | Missing:
    """Where ‖W‖ to the power is twice what it was at first: on the way, or drawn out from the last step by growth."""
    power = rate_power(optimizer)
    if not power:
        return _no_power(optimizer)
    level = logs[0] + math.log(2) / power
    reached = first_passage(steps, logs, level)
    if reached is not None:
        return reached
    return STEADY if growth is None else steps[-1] + (level - logs[-1]) / growth


def _no_power(optimizer: str | None) -> Missing:
    """Why growth does not halve the effective rate."""
    words = f"the effective rate of {optimizer} does not depend on the norm"
    return OPTIMIZER_UNKNOWN if optimizer is None else Missing(Why.NOT_DEFINED, words)


def _have_logarithms(norms: Sequence[float]) -> bool:
    return all(0.0 < norm < math.inf for norm in norms)


def _changes(
    steps: list[int], norms: Sequence[float], siblings: Sequence[Sequence[float]], optimizer: str | None
) -> dict[str, Any]:
    """How far the norm has come since the first step and since a quarter of the run, and where it jumped, by field."""
    if len(steps) < 2:
        return {}
    if not _have_logarithms(norms):
        return dict.fromkeys(("first_to_last", "since_quarter", "effective_rate_fall", "jump"), NO_NORM)
    quarter, power = steps[0] + START * (steps[-1] - steps[0]), rate_power(optimizer)
    first = next(index for index, step in enumerate(steps) if step >= quarter)
    jump: Jump | Missing = NO_JUMP
    others = [[*map(math.log, one)] for one in siblings if _have_logarithms(one)]
    found = out_of_line(steps, [*map(math.log, norms)], others)
    if found is not None:
        place, excess, deviations = found
        factor = norms[place + 1] / norms[place]
        jump = Jump(steps[place], steps[place + 1], factor, math.exp(min(excess, LARGEST_LOG)), deviations)
    return {
        "first_to_last": norms[-1] / norms[0],
        "since_quarter": norms[-1] / norms[first] if first < len(steps) - 1 else NO_QUARTER,
        "effective_rate_fall": (norms[-1] / norms[0]) ** power if power else _no_power(optimizer),
        "jump": jump,
    }


def _around(names: Sequence[str], place: int) -> Sequence[str]:
    """The name at a place and the MOST_SIBLINGS that are nearest to it."""
    begin = max(0, min(place - MOST_SIBLINGS // 2, len(names) - MOST_SIBLINGS - 1))
    return names[begin : begin + MOST_SIBLINGS + 1]


def _channels(rows: "NDArray[Any]") -> Channels | Missing:
    """How far the norms of a layer's rows lie apart, and how many of them are zero, or nearly."""
    import numpy

    if not numpy.isfinite(rows).all():
        return NOT_FINITE
    ordered = numpy.sort(rows)  # numpy.median would import masked arrays
    median = float((ordered[(len(rows) - 1) // 2] + ordered[len(rows) // 2]) / 2)
    return Channels(
        count=len(rows),
        smallest=float(rows.min()),
        median=median,
        largest=float(rows.max()),
        dead=int((rows <= NEGLIGIBLE * median).sum()),
    )
