"""How large the last step of one tensor was, from its sums and settings, or why that is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.reading.slots import load_slot, scalar, shaped_like
from fromage_cli.diagnostics.state.sums import Sums
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, Missing, Why
from fromage_cli.optimizers.last_update import adafactor_bound, lamb_update_norm
from fromage_cli.optimizers.recognition import ADAFACTOR_OF_TRANSFORMERS, MEANS_OF_ADAM
from fromage_cli.optimizers.rule import ADAFACTOR, LARS, MUON, Rule
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.optimizers.streamed import orthogonalised_norm
from fromage_cli.theory.conversions import muon_factor

NO_MOMENTS = Missing(Why.NO_STATE, "the optimizer's state holds no moments of it")
NOT_MATCHED = Missing(
    Why.NO_STATE, "the state has no names, and nothing else tells which of its moments belong to which tensor"
)
NO_RULE = Missing(Why.NO_FORMULA, "its update cannot be made from the state alone")
ZERO_WEIGHTS = Missing(Why.ZERO_OR_NOT_FINITE, "the weights are 0 or not finite")
NO_SIZE = Missing(Why.NOT_DEFINED, "before the rate the update is as large as the weights that it began at")
MIXED_RATES = Missing(Why.NOT_DEFINED, "the mean of its updates has their rates in it")
AT_MOST = Missing(Why.NO_FORMULA, "its gradients are scaled by the weights and by decay, to the rate at most")
TOO_LARGE_A_RATE = Missing(Why.NO_FORMULA, "at this rate the size of its last step is not determined")
ADAMS = {"exp_avg", "exp_avg_sq"}
LARGEST_SIDE = 2048
"""Of a matrix that is orthogonalised: its smaller side, which takes 4 seconds on one core."""
TOO_LARGE = Missing(Why.TOO_LARGE, f"both sides are longer than {LARGEST_SIDE}, too large to orthogonalise here")
NOT_FINITE = Missing(Why.ZERO_OR_NOT_FINITE, "its momentum holds entries that are not finite")
A_MATRIX, EXPERTS, FILTERS = 2, 3, 4
"""Dimensions of what Muon orthogonalises: one matrix, a matrix for each entry of the first, and flattened filters."""


def keeps_moments(slot: Mapping[str, Any], shape: tuple[int, ...], rule: Rule | None, kind: str | None) -> bool:
    """Whether a slot holds Adam's averages of gradients and of their squares, in the shape of the weight."""
    averages = kind in MEANS_OF_ADAM if rule is None else rule.averages == "betas"
    return averages and set(shaped_like(slot, shape)) >= ADAMS


def updates_made(slot: Mapping[str, Any]) -> float | None:
    """The count of updates in a slot; None where there is none that a count can be."""
    steps = scalar(slot, "step")
    return float(steps) if steps is not None and 0.0 < steps < math.inf else None


@dataclass(frozen=True)
class Trained:
    """One tensor, and how it is trained."""

    shape: tuple[int, ...]
    optimizer: Optimizer
    kind: str | None
    """As `recognise` names its optimizer."""
    slot: Mapping[str, Any]
    told: Mapping[str, Any]
    """The settings of its group, as they were saved."""
    rate: float | None
    decay: float | None

    @property
    def by_whole_matrix(self) -> bool:
        """Whether its momentum is orthogonalised as a whole."""
        return self.optimizer.rule is MUON and "momentum_buffer" in shaped_like(self.slot, self.shape)

    @property
    def matrices(self) -> tuple[int, int, int] | None:
        """How many matrices Muon orthogonalises, their rows and columns; None where it is not known what it does."""
        shape = self.shape
        if not A_MATRIX <= len(shape) <= FILTERS or (len(shape) > A_MATRIX and not self.told.get("use_muon")):
            return None
        rows, columns = shape[-2:] if len(shape) < FILTERS else (shape[0], math.prod(shape[1:]))
        return shape[0] if len(shape) == EXPERTS else 1, rows, columns

    @property
    def adapts(self) -> bool:
        """Whether LAMB scales its step: other implementations leave out tensors without decay, unless told."""
        return "grad_averaging" not in self.told or bool(self.decay or self.told.get("always_adapt"))


@dataclass(frozen=True)
class Update:
    """The last step of one tensor."""

    rms: float | Missing
    """Root mean square of u."""
    relative: float | Missing
    """||eta u|| / ||W||."""


def update_of(trained: Trained, sums: Sums, *, matched: bool) -> Update:
    """The last step; `matched`: whether it is told which moments belong to which tensor."""
    rule, rate, norm = trained.optimizer.rule, trained.rate, math.sqrt(sums.squares)
    if trained.slot and (rule is ADAFACTOR or trained.kind == ADAFACTOR_OF_TRANSFORMERS):
        if sums.updates:
            return Update(MIXED_RATES, _relative(math.sqrt(sums.update_squares), norm))
        return bounded_update(trained, sums)
    if rule is not None and rule.relative and not trained.optimizer.remembers:
        return Update(NO_SIZE, step_of_rate_alone(trained, norm))
    if rule is None or not (sums.updates or trained.by_whole_matrix):
        unknown = NO_RULE if len(trained.slot) else NO_MOMENTS if matched else NOT_MATCHED
        return Update(unknown, unknown)
    moved = size_of_update(trained, sums)
    if isinstance(moved, Missing) or not math.isfinite(moved):
        unknown = moved if isinstance(moved, Missing) else NOT_FINITE
        return Update(unknown, unknown)
    relative = LEARNING_RATE_UNKNOWN if rate is None else _relative(rate * moved, norm)
    return Update(moved / math.sqrt(sums.entries), relative)


def _relative(step: float, norm: float) -> float | Missing:
    return step / norm if 0.0 < norm < math.inf else ZERO_WEIGHTS


def size_of_update(trained: Trained, sums: Sums) -> float | Missing:
    """||u||, from the sums over entries, or as the optimizer scales it by the whole tensor."""
    rule = trained.optimizer.rule
    if trained.by_whole_matrix:
        return orthogonalised_norm_of(trained)
    if rule is None or rule.decay != "rescaled" or not trained.adapts:
        return math.sqrt(sums.update_squares)
    if trained.rate is None:
        return LEARNING_RATE_UNKNOWN
    squares, clip = (sums.squares, sums.products, sums.update_squares), trained.optimizer.trust_clip
    scaled = lamb_update_norm(squares, trained.rate, trained.decay or 0.0, trust_clip=clip)
    return TOO_LARGE_A_RATE if scaled is None else scaled


def step_of_rate_alone(trained: Trained, norm: float) -> float | Missing:
    """The relative step of a rule that moves every tensor by its rate, over the weights before the step."""
    rule, optimizer = trained.optimizer.rule, trained.optimizer
    if trained.rate is None:
        return LEARNING_RATE_UNKNOWN
    if not 0.0 < norm < math.inf:
        return ZERO_WEIGHTS
    if rule is LARS:
        return AT_MOST if trained.decay or optimizer.trust_clip else trained.rate * optimizer.trust_coefficient
    return trained.rate


def bounded_update(trained: Trained, sums: Sums) -> Update:
    """No size, for Adafactor keeps no first moment, and the most that it can have been: its steps are clipped."""
    size, settings = math.sqrt(sums.squares / max(sums.entries, 1)), trained.optimizer.arguments
    steps, rate = updates_made(trained.slot) or 1.0, trained.rate
    bound = None
    if trained.kind == ADAFACTOR_OF_TRANSFORMERS:
        rate = rate_of_transformers(trained, steps)
        clip = scalar(trained.told, "clip_threshold")
        if rate is not None and clip is not None:
            bound = adafactor_bound(size, rate, clip=clip)
    elif rate is not None:
        least, shrinkage = settings["eps"][1], rate * (trained.decay or 0.0)
        bound = adafactor_bound(size, min(rate, steps**-0.5), clip=settings["d"], shrinkage=shrinkage, least=least)
    words = "no first moment was kept to tell its update"
    if bound is not None:
        words += f"; the last step was at most {bound:.3g} of the weights"
    return Update(*(2 * (Missing(Why.NO_FORMULA, words),)))


def rate_of_transformers(trained: Trained, steps: float) -> float | None:
    """What the last update of Adafactor was multiplied by, the size of the weights before it included."""
    told, rate = trained.told, trained.rate
    if told.get("relative_step"):
        rate = min(1e-6 * steps if told.get("warmup_init") else 1e-2, steps**-0.5)
    if not told.get("scale_parameter") or rate is None:
        return rate
    before = scalar(trained.slot, "RMS")
    eps: Any = told.get("eps")
    return rate * max(float(eps[1]), before) if before is not None and ADAFACTOR.bounds["eps"].fits(eps) else None


def orthogonalised_norm_of(trained: Trained) -> float | Missing:
    """||u|| of Muon: its momentum with the singular values drawn near 1, at the size that the shape gives it."""
    import numpy

    shape, settings = trained.shape, trained.optimizer.arguments
    if trained.matrices is None:
        return NO_RULE
    count, rows, columns = trained.matrices
    if min(rows, columns) > LARGEST_SIDE:
        return TOO_LARGE
    momentum = load_slot(trained.slot, "momentum_buffer").reshape(count, rows, columns)
    if not numpy.isfinite(momentum).all():
        return NOT_FINITE
    how = (settings["ns_coefficients"], int(settings["ns_steps"]), float(settings["eps"]))
    factor = muon_factor(shape[-2], shape[-1], settings["adjust_lr_fn"])
    return factor * math.hypot(*(orthogonalised_norm(matrix, *how) for matrix in momentum))
