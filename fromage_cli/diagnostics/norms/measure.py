"""From the checkpoints of a run to a NormsResult."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.reading.reductions import Rows, measure_norms, measure_rows
from fromage_cli.diagnostics.norms.result import Channels, LayerNorms, NormsResult, Overflow, OverflowSteps
from fromage_cli.diagnostics.norms.settings import FIRST_BETA, Settings
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
    return NormsResult(
        steps=run.steps,
        optimizer=settings.optimizer,
        learning_rates=settings.learning_rates,
        weight_decay=settings.weight_decay,
        steps_per_epoch=settings.steps_per_epoch,
        layers=layers,
        no_law=settings.no_law,
        assumed=() if settings.no_law else settings.assumed,
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
    steps, settings = run.steps, run.settings
    growth, stderr = _growth(steps, norms)
    lasting = growth if growth is not None and is_drift(growth, stderr, len(norms)) else None
    power = EXPONENTS.get(settings.optimizer or "")
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
        overflow_step=_overflow(steps[-1] or 0, last, lasting) if lasting else None,
        halved_step=_halved(steps, norms, power, lasting) if growth is not None and power else None,
        channels=_channels(last.norms),
        effective_learning_rate=tuple(
            _effective(rate, norm, None if settings.clipped else power, settings.trust_coefficient)
            for rate, norm in zip(settings.learning_rates, norms, strict=True)
        ),
    )


def _growth(steps: Sequence[int | None], norms: Sequence[float]) -> tuple[float | None, float | None]:
    """The slope of ln ‖W‖ and its error; None where there are too few points, or one is zero or not finite."""
    known = [step for step in steps if step is not None]
    if len(known) < 2 or not all(norm > 0.0 and math.isfinite(norm) for norm in norms):
        return None, None
    return drift(known, [math.log(norm) for norm in norms])


def _predicted(steps: Sequence[int | None], settings: Settings) -> float | None:
    """What a scale-invariant layer grows by in a step: the mean of the law at the known rates."""
    if settings.no_law is not None:
        return None
    known = [(step, rate) for step, rate in zip(steps, settings.learning_rates, strict=True) if rate is not None]
    return mean_over([step for step, _ in known], [_law(settings, rate) for _, rate in known])


def _law(settings: Settings, rate: float) -> float:
    """½ ln(1+δ²) less what decoupled decay takes off, η·wd, at one rate."""
    first_beta = FIRST_BETA if settings.first_beta is None else settings.first_beta
    relative = settings.trust_coefficient * rate
    averages = RULES[settings.optimizer].averages if settings.optimizer is not None else None
    walk = relative_walk(averages, relative, settings.gains.total, first_beta)
    return orthogonal_growth(walk) - rate * (settings.weight_decay or 0.0)


def _overflow(step: int, found: Rows, growth: float) -> OverflowSteps:
    def of(dtype: str) -> Overflow:
        entries = steps_until(found.largest, LARGEST[dtype], growth)
        squares = steps_until(found.norm, math.sqrt(LARGEST[dtype]), growth)
        return Overflow(*(None if steps is None else step + steps for steps in (entries, squares)))

    return OverflowSteps(of("float16"), of("bfloat16"), of("float32"))


def _halved(steps: Sequence[int | None], norms: Sequence[float], power: int, lasting: float | None) -> float | None:
    """Where ‖W‖ to the power is twice what it was at first: on the way, or drawn out from the last step by growth."""
    known, logs = [step for step in steps if step is not None], [math.log(norm) for norm in norms]
    level = logs[0] + math.log(2) / power
    reached = first_passage(known, logs, level)
    if reached is not None or lasting is None:
        return reached
    return known[-1] + (level - logs[-1]) / lasting


def _channels(rows: "NDArray[Any]") -> Channels | None:
    import numpy

    if not numpy.isfinite(rows).all():
        return None
    median = float(numpy.median(rows))
    return Channels(
        count=len(rows),
        smallest=float(rows.min()),
        median=median,
        largest=float(rows.max()),
        dead=int((rows <= DEAD * median).sum()),
    )


def _effective(rate: float | None, norm: float, power: int | None, trust: float) -> float | None:
    if rate is None or power is None or (power and not (norm > 0.0 and math.isfinite(norm))):
        return None
    return float(rate * trust / norm**power)
