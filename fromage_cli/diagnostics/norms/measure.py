"""From the checkpoints of a run to a NormsResult."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.reading.reductions import Rows, measure_norms, measure_rows
from fromage_cli.diagnostics.norms.result import (
    NO_LOGARITHM,
    NOT_FINITE,
    ONE_STEP,
    STEADY,
    TWO_STEPS,
    Channels,
    LayerNorms,
    NormsResult,
    Overflow,
    OverflowSteps,
)
from fromage_cli.diagnostics.norms.settings import Settings
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.theory.growth import (
    LARGEST,
    drift,
    first_passage,
    is_drift,
    mean_over,
    orthogonal_growth,
    relative_walk,
    steps_until,
)
from fromage_cli.theory.scale_invariance import Invariance

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPONENTS = {name: rule.rate_power for name, rule in RULES.items()}
"""The effective learning rate is η / ‖W‖ to this power."""
DEAD = 1e-6
"""A row's norm over the median below which nothing is left of it."""


@dataclass(frozen=True)
class LayerTest:
    """What a model tells of a layer."""

    kind: str | None = None
    invariance: Invariance = field(default_factory=Invariance)
    dead_bias: bool | None = None


def measure(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    settings: Settings,
    tested: Mapping[str, LayerTest] | None = None,
    advance: Callable[[float], None] = lambda elements: None,
) -> NormsResult:
    """The norms of the named layers along the run and what follows from them.

    `tested`: what a model told of them; without one their invariance is untested. Tensors of an unknown dtype are left
    out.
    """
    before = measure_norms(checkpoints[:-1], names, advance)
    last = measure_rows(checkpoints[-1], names, advance)
    measured = [name for name in names if name in last and all(name in one for one in before)]
    run = _Run(tuple(checkpoint.step for checkpoint in checkpoints), settings)
    layers = tuple(
        _layer(
            checkpoints[-1].entries[name],
            run,
            (*(one[name] for one in before), last[name].norm),
            last[name],
            (tested or {}).get(name, LayerTest()),
        )
        for name in measured
    )
    no_rate = OPTIMIZER_UNKNOWN if settings.optimizer is None else LEARNING_RATE_UNKNOWN
    decay = settings.weight_decay
    return NormsResult(
        steps=run.steps,
        optimizer=settings.optimizer,
        learning_rates=tuple(no_rate if rate is None else rate for rate in settings.learning_rates),
        weight_decay=Missing(Why.WEIGHT_DECAY_UNKNOWN, "the weight decay is not known") if decay is None else decay,
        steps_per_epoch=settings.steps_per_epoch,
        layers=layers,
    )


@dataclass(frozen=True)
class _Run:
    """What all layers share."""

    steps: tuple[int | None, ...]
    settings: Settings


def _layer(
    entry: TensorEntry,
    run: _Run,
    norms: tuple[float, ...],
    last: Rows,
    tested: LayerTest,
) -> LayerNorms:
    """One layer; `last` is what was read of the last checkpoint."""
    steps, settings = run.steps, run.settings.layers.get(entry.name, run.settings)
    growth, stderr = _growth(steps, norms)
    slope, error = known(growth), known(stderr)
    lasting = slope if slope is not None and is_drift(slope, error, len(norms)) else None
    return LayerNorms(
        name=entry.name,
        kind=tested.kind,
        shape=entry.shape,
        parameters=entry.elements,
        dtype=entry.dtype,
        norms=norms,
        invariance=tested.invariance,
        growth_per_step=growth,
        growth_stderr=stderr,
        predicted_growth=_predicted(steps, settings),
        dead_bias=tested.dead_bias,
        overflow_step=_overflow(steps[-1] or 0, last, lasting)
        if lasting
        else growth
        if isinstance(growth, Missing)
        else STEADY,
        halved_step=_halved(steps, norms, settings, lasting),
        channels=_channels(last.norms),
        effective_learning_rate=tuple(
            _effective(rate, norm, settings) for rate, norm in zip(settings.learning_rates, norms, strict=True)
        ),
    )


def _growth(steps: Sequence[int | None], norms: Sequence[float]) -> tuple[float | Missing, float | Missing]:
    """The slope of ln ‖W‖ and its error."""
    found = [step for step in steps if step is not None]
    if len(found) < 2:
        return ONE_STEP, ONE_STEP
    if not all(norm > 0.0 and math.isfinite(norm) for norm in norms):
        return NO_LOGARITHM, NO_LOGARITHM
    slope, error = drift(found, [math.log(norm) for norm in norms])
    return slope, TWO_STEPS if error is None else error


def _predicted(steps: Sequence[int | None], settings: Settings) -> float | Missing:
    """What a scale-invariant layer grows by in a step: the mean of the law at the known rates."""
    if settings.no_law is not None:
        return settings.no_law
    rates = [(step, rate) for step, rate in zip(steps, settings.learning_rates, strict=True) if rate is not None]
    return mean_over([step for step, _ in rates], [_law(settings, rate) for _, rate in rates])


def _law(settings: Settings, rate: float) -> float:
    """½ ln(1+δ²) less what decoupled decay takes off, η·wd, at one rate."""
    relative = settings.trust_coefficient * rate
    averages = RULES[settings.optimizer].averages if settings.optimizer is not None else None
    walk = relative_walk(averages, relative, settings.gains.total, settings.first_beta)
    return orthogonal_growth(walk) - rate * (settings.weight_decay or 0.0)


def _overflow(step: int, found: Rows, growth: float) -> OverflowSteps:
    def of(dtype: str) -> Overflow:
        entries = steps_until(found.largest, LARGEST[dtype], growth)
        squares = steps_until(found.norm, math.sqrt(LARGEST[dtype]), growth)
        return Overflow(*(NO_LOGARITHM if steps is None else step + steps for steps in (entries, squares)))

    return OverflowSteps(of("float16"), of("bfloat16"), of("float32"))


def _halved(
    steps: Sequence[int | None], norms: Sequence[float], settings: Settings, lasting: float | None
) -> float | Missing:
    """Where ‖W‖ to the power is twice what it was at first: on the way, or drawn out from the last step by growth."""
    growth, power = _growth(steps, norms)[0], EXPONENTS.get(settings.optimizer or "")
    if isinstance(growth, Missing):
        return growth
    if not power:
        words = f"the effective rate of {settings.optimizer} does not depend on the norm"
        return OPTIMIZER_UNKNOWN if settings.optimizer is None else Missing(Why.NOT_DEFINED, words)
    found, logs = [step for step in steps if step is not None], [math.log(norm) for norm in norms]
    level = logs[0] + math.log(2) / power
    reached = first_passage(found, logs, level)
    if reached is not None:
        return reached
    return STEADY if lasting is None else found[-1] + (level - logs[-1]) / lasting


def _channels(rows: "NDArray[Any]") -> Channels | Missing:
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
        dead=int((rows <= DEAD * median).sum()),
    )


def _effective(rate: float | None, norm: float, settings: Settings) -> float | Missing:
    if settings.optimizer is None:
        return OPTIMIZER_UNKNOWN
    if rate is None:
        return LEARNING_RATE_UNKNOWN
    power = None if settings.clipped else EXPONENTS.get(settings.optimizer)
    if power is None:
        what = f"{settings.optimizer} with a clipped trust ratio" if settings.clipped else settings.optimizer
        return Missing(Why.NO_FORMULA, f"it is not defined for {what}")
    if power and not (norm > 0.0 and math.isfinite(norm)):
        return NO_LOGARITHM
    return float(rate * settings.trust_coefficient / norm**power)
