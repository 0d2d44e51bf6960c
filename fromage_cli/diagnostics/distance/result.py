"""What `distance` measured: plain numbers by layer, and of the two networks as functions."""

from dataclasses import dataclass, field

from fromage_cli.missing import Missing


@dataclass(frozen=True)
class ConditionNumber:
    """σ_max / σ_min of the matrices first dimension × all others; infinite where the smallest is rounding."""

    first: float | Missing
    second: float | Missing
    difference: float | Missing
    """Missing where the layer did not move."""


@dataclass(frozen=True)
class ImpliedStep:
    """The relative step η of every training step between the two that would explain the distance."""

    straight: float | Missing
    """(1 + δ)^(1/t) − 1, all steps in one direction: no smaller ones arrive."""
    wandering: float | Missing
    """From cos = (1 + η²)^(−t/2), every step orthogonal to the weights and to the others; no angle of 90° or more."""


@dataclass(frozen=True)
class LayerDistance:
    """One layer in both networks, W and W~."""

    name: str
    kind: str | None
    """Its module's class; None without a model."""
    shape: tuple[int, ...]
    parameters: int
    first_dtype: str
    """As stored."""
    second_dtype: str
    first_norm: float
    """‖W‖, Frobenius."""
    second_norm: float
    """‖W~‖."""
    relative_distance: float | Missing
    """δ = ‖W~ − W‖ / ‖W‖; missing where W is zero or an entry is not finite."""
    spectral_distance: float | Missing
    """δ^σ = ‖W~ − W‖₂ / ‖W‖₂; missing for vectors, and where singular values were not asked for."""
    cosine: float | Missing
    """Between W and W~."""
    angle: float | Missing
    """Radians, from ‖û − v̂‖ and ‖û + v̂‖ in float64: it has all its digits where the cosine is 1."""
    implied_step: ImpliedStep
    """The relative step in each training step between the two that would explain the distance.

    Both are missing where the training steps of the two are not known, or the same.
    """
    condition_number: ConditionNumber


@dataclass(frozen=True)
class Unpaired:
    """Tensors that have no counterpart."""

    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    """In both, but of different shapes."""
    first_ties: tuple[tuple[str, ...], ...] = ()
    """Names that are one tensor in the first alone."""
    second_ties: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Bound:
    """What Theorem 1's bound was computed from."""

    condition_number: float
    """κ, the largest over all W, W~ and W~ − W."""
    alpha: float
    """Smallest slope of the nonlinearities."""
    beta: float
    """Largest."""
    depth: int
    """Weight matrices."""


@dataclass(frozen=True)
class DistanceResult:
    """The distance between two networks."""

    first_step: int | Missing
    second_step: int | Missing
    product: float | Missing
    """Deep relative trust, Π(1 + δ) − 1 over the layers."""
    product_spectral: float | Missing
    """Π(1 + δ^σ) − 1."""
    function_distance: float | Missing
    """‖f~(x) − f(x)‖ / ‖f(x)‖ over all rows of the batch together; missing without a model."""
    largest_function_distance: float | Missing
    """The largest of any row."""
    log10_bound: float | Missing
    """log10 of Theorem 1's bound, which holds for each row; missing where the theorem gives none."""
    bound: Bound | Missing
    layers: tuple[LayerDistance, ...]
    unpaired: Unpaired = field(default_factory=Unpaired)
