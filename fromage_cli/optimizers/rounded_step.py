"""What rounding leaves of a step where weights are stored in bfloat16 or float16, without a float32 master copy.

The step is replayed from saved moments, with torch's own operations in their order and a rounding after each.
Arrays are float32, their values those of the stored dtype. A chunk of 2^18 entries takes AdamW 3.5 to 4 ms in
bfloat16, 10 ms in float16, on one core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Literal

from fromage_cli.optimizers.rule import ADAM, ADAMW, LION, SGD, Rule
from fromage_cli.optimizers.settings import MANY_STEPS, corrects_bias
from fromage_cli.optimizers.streamed import saved_update

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype = Literal["bfloat16", "float16", "float32"]

FRACTION_BITS: Mapping[Dtype, int] = {"bfloat16": 7, "float16": 10, "float32": 23}
SMALLEST_NORMAL: Mapping[Dtype, float] = {"bfloat16": 2.0**-126, "float16": 2.0**-14, "float32": 2.0**-126}
EXPONENT = 0x7F800000
"""The bits of a float32 that hold its exponent, and those of infinity."""
BIN_BITS = 18
"""The last bits of a float32 that a bin of rates leaves open: 32 bins lie between two powers of two."""
BINS = (EXPONENT >> BIN_BITS) + 1
"""Bins from 0 to infinity, which has the last by itself."""
BLOCK = 2**15
"""Entries that are worked on at once, so that all arrays lie in the processor's cache."""


@dataclass(frozen=True, eq=False)
class LostUpdates:
    """What one step does to weights that are rounded after it, summed over entries; chunks are joined by `+`."""

    entries: int
    changing: int
    """Entries that the step would change if nothing were rounded."""
    lost: int
    """Those of them whose weight stays as it was."""
    decaying: int | None
    """Entries that decoupled decay would change by itself if nothing were rounded; None without decoupled decay."""
    decay_lost: int | None
    """Those of them whose weight stays as it was when only the decay is applied."""
    updated: int
    """Entries whose update is not 0."""
    wanted: float
    """The sum of |rate * u| over entries, decoupled decay left out."""
    survived: float
    """The part of `wanted` that is carried out: the sum of min(|new - decayed|, |rate * u|) over entries.

    Here `decayed` is what the weight becomes by decay alone. An entry that rounding moves too far counts once.
    """
    critical_rates: NDArray[Any]
    """Entries by the rate below which their update is lost: counts in the BINS of a float32.

    A bin is 1/32 of its power of two wide. Entries without an update lie at infinity.
    """

    def __add__(self, other: LostUpdates) -> LostUpdates:
        pairs = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        return LostUpdates(
            **{
                name: mine + its if mine is not None and its is not None else mine if its is None else its
                for name, (mine, its) in pairs.items()
            }
        )

    @property
    def half_rate(self) -> float | None:
        """The rate below which more than half of the updates are lost, within 1.6 %; None where no rate is enough.

        It is the median over entries of half the spacing of floats, in the direction of the update, over |u|. Decay
        is left out.
        """
        import numpy

        middle = numpy.searchsorted(numpy.cumsum(self.critical_rates), self.updated / 2.0)
        if self.updated == 0 or middle >= BINS - 1:
            return None
        edges = numpy.array([middle, middle + 1], numpy.uint32) << BIN_BITS
        return float(edges.view(numpy.float32).mean(dtype=numpy.float64))


def rounded(values: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """float32 values rounded to the nearest of a dtype, ties to even, as float32; NaN stays NaN, overflow is infinite.

    For float32 they are returned as they are.
    """
    import numpy

    if dtype == "float32":
        return values
    if dtype == "float16":
        with numpy.errstate(over="ignore"):
            return values.astype(numpy.float16).astype(numpy.float32)
    bits = values.view(numpy.uint32)
    upper = bits >> 16
    upper &= 1  # the last digit that is kept: a tie goes up where it is odd
    upper += 0x7FFF
    upper += bits
    upper &= 0xFFFF0000
    found: NDArray[Any] = upper.view(numpy.float32)
    unknown = numpy.isnan(values)
    if unknown.any():
        found[unknown] = numpy.nan
    return found


def next_weights(
    rule: Rule,
    slot: Mapping[str, Any],
    weight: NDArray[Any],
    settings: Mapping[str, Any],
    dtype: Dtype,
    *,
    moments: Dtype | None = None,
    decayed: NDArray[Any] | None = None,
) -> NDArray[Any] | None:
    """The weights after the step that saved moments make, bit for bit as torch makes them.

    That is torch 2.13 on a CPU with one thread. For SGD, up to 31 entries at a tensor's end may differ: torch also
    rounds rate * buffer there. Some processors round the square roots of float32 moments otherwise, which changes one
    of 100 000 entries.

    `moments` is the dtype of the moments, by default that of the weights, in which torch makes them; `decayed` what
    `after_decay` gave, where it is known. Known are Adam, AdamW, AMSGrad, SGD with momentum, and Lion as this package
    steps it; for others, and without moments, None. Coupled decay and Nesterov momentum need a gradient and are left
    out.

    With `fused` in the settings only the end is rounded, else every operation. `foreach` on a CPU also rounds the
    factor of the decay. Where nothing is said, operations follow one another tensor by tensor, as torch does on a CPU.
    On a GPU torch then takes `foreach` kernels, which are not tested here. By their source they round after the same
    operations, but round neither the factor nor eps nor SGD's rate before. Their last operation divides first, which
    changes a few of 100 000 entries.
    """
    import numpy

    moments = moments or dtype
    fused = bool(settings.get("fused"))
    if rule is LION and "exp_avg" in slot:
        rate = float(settings["lr"])
        precise = weight.astype(numpy.float64)
        update = numpy.sign(slot["exp_avg"]) + _decay(rule, settings) * precise
        return rounded((precise - rate * update).astype(numpy.float32), dtype)
    if fused or decayed is None:
        decayed = after_decay(rule, weight, settings, "float32" if fused else dtype)
    start = weight if decayed is None else decayed
    if rule is SGD and "momentum_buffer" in slot:
        rate = _scalar(settings["lr"], "float32" if fused else moments)
        change = numpy.multiply(slot["momentum_buffer"], rate, dtype=numpy.float64)  # exact, as in a multiply-add
        return rounded((start - change).astype(numpy.float32), dtype)
    if rule not in (ADAM, ADAMW) or "exp_avg_sq" not in slot or "step" not in slot:
        return None
    given = {**rule.defaults, **settings}
    kept: Dtype = "float32" if fused else moments
    steps = float(slot["step"]) if corrects_bias(settings) else MANY_STEPS
    beta1, beta2 = given["betas"]
    with numpy.errstate(invalid="ignore"):  # a damaged v below 0
        root = rounded(numpy.sqrt(slot["max_exp_avg_sq" if given["amsgrad"] else "exp_avg_sq"]), kept)
        root = rounded(root / numpy.float32((1.0 - beta2**steps) ** 0.5), kept)
        root = rounded(root + _scalar(given["eps"], kept), kept)
    step: NDArray[Any] = slot["exp_avg"] * numpy.float32(-float(given["lr"]) / (1.0 - beta1**steps))
    with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step /= root
        step += start
    return rounded(step, dtype)


def after_decay(rule: Rule, weight: NDArray[Any], settings: Mapping[str, Any], dtype: Dtype) -> NDArray[Any] | None:
    """The weights after decoupled decay alone, w (1 - rate * decay) rounded; None where there is none."""
    import numpy

    decay, rate = _decay(rule, settings), float(settings["lr"])
    if decay == 0.0:
        return None
    if rule is LION:
        precise = weight.astype(numpy.float64)
        return rounded((precise - rate * (decay * precise)).astype(numpy.float32), dtype)
    factor = _scalar(1.0 - rate * decay, dtype if settings.get("foreach") else "float32")
    with numpy.errstate(over="ignore"):
        return rounded(weight * factor, dtype)


def _decay(rule: Rule, settings: Mapping[str, Any]) -> float:
    """The weight decay that goes past the gradient, 0 where there is none."""
    return float({**rule.defaults, **settings}["weight_decay"]) if rule.decay == "decoupled" else 0.0


def _scalar(value: float, dtype: Dtype) -> Any:
    """A number rounded to float32 and then to a dtype, as torch rounds it before some operations on tensors."""
    import numpy

    return rounded(numpy.array([value], numpy.float32), dtype)[0]


def critical_rates(weight: NDArray[Any], update: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """The rates below which w - rate * u rounds to w: half the spacing of floats there, over |u|; infinite for u = 0.

    The spacing is that in the direction of the move: below a power of two it is half of that above.
    """
    import numpy

    bits = weight.view(numpy.int32)
    away = bits ^ update.view(numpy.int32)
    away >>= 31  # -1 where w - rate * u is farther from 0 than w, else 0
    passed = bits & 0x7FFFFFFF
    passed -= away  # the magnitude passed first, plus 1
    numpy.maximum(passed, numpy.float32(SMALLEST_NORMAL[dtype]).view(numpy.int32) + 1, out=passed)
    passed -= 1
    passed &= EXPONENT
    half = passed.view(numpy.float32)
    half *= numpy.float32(2.0 ** -(FRACTION_BITS[dtype] + 1))
    with numpy.errstate(divide="ignore", over="ignore", invalid="ignore"):
        half /= numpy.abs(update)
    return half


def lost_updates(
    rule: Rule,
    slot: Mapping[str, Any],
    weight: NDArray[Any],
    settings: Mapping[str, Any],
    dtype: Dtype,
    *,
    moments: Dtype | None = None,
) -> LostUpdates | None:
    """What rounding leaves of the step that saved moments make; None where `next_weights` knows none.

    Wanted is the update of `saved_update` in float32 at the group's rate.
    """
    parts = []
    for start in range(0, max(weight.size, 1), BLOCK):
        block = slice(start, start + BLOCK)
        pieces = {name: value.ravel()[block] if getattr(value, "ndim", 0) else value for name, value in slot.items()}
        found = _lost_in_block(rule, pieces, weight.ravel()[block], settings, dtype, moments=moments or dtype)
        if found is None:
            return None
        parts.append(found)
    return reduce(add, parts)


def _lost_in_block(
    rule: Rule,
    slot: Mapping[str, Any],
    weight: NDArray[Any],
    settings: Mapping[str, Any],
    dtype: Dtype,
    *,
    moments: Dtype,
) -> LostUpdates | None:
    import numpy

    decayed = after_decay(rule, weight, settings, dtype)
    new = next_weights(rule, slot, weight, settings, dtype, moments=moments, decayed=decayed)
    if new is None:
        return None
    with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
        update = saved_update(rule, slot, weight, settings)
    assert update is not None
    sound = numpy.isfinite(update) & numpy.isfinite(new)
    if not sound.all():  # damaged moments, which count in no sum
        weight, new, update = weight[sound], new[sound], update[sound]
        decayed = None if decayed is None else decayed[sound]
    updated = update != 0.0
    changing, decaying, decay_lost = updated, None, None
    if decayed is not None:
        present = weight != 0.0
        changing = updated | present
        decaying = int(numpy.count_nonzero(present))
        decay_lost = int(numpy.count_nonzero((decayed == weight) & present))
    moved = numpy.abs(new - (weight if decayed is None else decayed))
    wanted = numpy.abs(update) * numpy.float32(settings["lr"])
    bins = critical_rates(weight, update, dtype).view(numpy.int32) >> BIN_BITS
    return LostUpdates(
        entries=weight.size,
        changing=int(numpy.count_nonzero(changing)),
        lost=int(numpy.count_nonzero((new == weight) & changing)),
        decaying=decaying,
        decay_lost=decay_lost,
        updated=int(numpy.count_nonzero(updated)),
        wanted=float(wanted.sum()),
        survived=float(numpy.minimum(moved, wanted).sum()),
        critical_rates=numpy.bincount(bins, minlength=BINS),
    )
