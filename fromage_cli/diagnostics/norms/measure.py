"""From the checkpoints of a run to a NormsResult."""

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reductions import measure_magnitudes
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult, Overflow, OverflowSteps
from fromage_cli.diagnostics.norms.settings import RELATIVE, Settings
from fromage_cli.theory.growth import LARGEST, orthogonal_growth, steps_until, theil_sen
from fromage_cli.theory.magnitudes import Magnitudes

SIGNIFICANT = 2.0
"""Standard errors by which a norm must grow for its growth to be drawn out into the future."""
EXPONENTS = {"sgd": 2, "adam": 1, "adamw": 1, "lion": 1} | dict.fromkeys(RELATIVE, 0)
"""The effective learning rate is η / ‖W‖ to this power."""


def layer_names(
    checkpoints: Sequence[Checkpoint], include: Sequence[str], exclude: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers of a run, and those that not every checkpoint has in one shape.

    A layer is a floating-point tensor of two or more dimensions, each tied one once.
    """
    last = checkpoints[-1]
    copies = {name for group in last.tied for name in group[1:]}
    layers = [
        entry
        for entry in last.entries.values()
        if entry.floating and len(entry.shape) > 1 and entry.elements and entry.name not in copies
        if not include or any(fnmatchcase(entry.name, pattern) for pattern in include)
        if not any(fnmatchcase(entry.name, pattern) for pattern in exclude)
    ]
    lasting = [
        entry.name
        for entry in layers
        if all(_same_shape(checkpoint, entry.name, entry.shape) for checkpoint in checkpoints)
    ]
    return tuple(lasting), tuple(entry.name for entry in layers if entry.name not in lasting)


def _same_shape(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> bool:
    return name in checkpoint.entries and checkpoint.entries[name].shape == shape


def measure(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    settings: Settings,
    advance: Callable[[float], None] = lambda elements: None,
) -> NormsResult:
    """The norms of the named layers along the run and what follows from them; no model is needed."""
    found = [measure_magnitudes(checkpoint, names, advance) for checkpoint in checkpoints]
    measured = [name for name in names if all(name in one for one in found)]
    steps = tuple(checkpoint.step for checkpoint in checkpoints)
    layers = tuple(_layer(checkpoints[-1], name, steps, [one[name] for one in found], settings) for name in measured)
    return NormsResult(steps, settings.optimizer, settings.learning_rates, settings.weight_decay, layers)


def _layer(
    last: Checkpoint, name: str, steps: Sequence[int | None], found: Sequence[Magnitudes], settings: Settings
) -> LayerNorms:
    entry = last.entries[name]
    norms = tuple(magnitudes.norm for magnitudes in found)
    growth, stderr = _growth(steps, norms)
    grows = growth is not None and growth > SIGNIFICANT * (stderr or 0.0)
    power = EXPONENTS.get(settings.optimizer or "", None)
    halving = math.log(2) / (power * growth) if grows and power and growth else None
    return LayerNorms(
        name=name,
        kind=None,
        shape=entry.shape,
        parameters=entry.elements,
        dtype=entry.dtype,
        norms=norms,
        growth_per_step=growth,
        growth_stderr=stderr,
        predicted_growth=_predicted(settings),
        overflow_step=_overflow(steps[-1] or 0, found[-1], growth) if grows and growth else None,
        halving_steps=halving,
        effective_learning_rate=tuple(
            _effective(rate, norm, power) for rate, norm in zip(settings.learning_rates, norms, strict=True)
        ),
    )


def _growth(steps: Sequence[int | None], norms: Sequence[float]) -> tuple[float | None, float | None]:
    """The slope of ln ‖W‖ and its error; None where there are too few points, or one is zero or not finite."""
    known = [step for step in steps if step is not None]
    if len(known) < 2 or not all(norm > 0.0 and math.isfinite(norm) for norm in norms):
        return None, None
    return theil_sen(known, [math.log(norm) for norm in norms])


def _predicted(settings: Settings) -> float | None:
    """What a scale-invariant layer grows by in a step, at the mean square of the known rates."""
    rates = [rate for rate in settings.learning_rates if rate is not None]
    if settings.optimizer not in RELATIVE or not rates:
        return None
    rate = math.sqrt(math.fsum(rate**2 for rate in rates) / len(rates))
    decay = rate * (settings.weight_decay or 0.0)
    return (0.0 if settings.optimizer == "fromage" else orthogonal_growth(rate)) - decay


def _overflow(step: int, found: Magnitudes, growth: float) -> OverflowSteps:
    def of(dtype: str) -> Overflow:
        entries = steps_until(found.largest, LARGEST[dtype], growth)
        squares = steps_until(found.norm, math.sqrt(LARGEST[dtype]), growth)
        return Overflow(*(None if steps is None else step + steps for steps in (entries, squares)))

    return OverflowSteps(of("float16"), of("bfloat16"), of("float32"))


def _effective(rate: float | None, norm: float, power: int | None) -> float | None:
    if rate is None or power is None or (power and not (norm > 0.0 and math.isfinite(norm))):
        return None
    return float(rate / norm**power)
