"""What `norms` measured: plain numbers by layer and step."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Invariance:
    """Whether the network depends on a layer's scale, which only its model can tell."""

    verdict: str = "untested"
    granularity: str | None = None
    cosine: float | None = None
    response_double: float | None = None
    response_half: float | None = None


@dataclass(frozen=True)
class Overflow:
    """The step at which a dtype's largest number is reached if growth goes on; None where it is not."""

    entries: float | None
    """By the largest entry."""
    squares: float | None
    """By ‖W‖², the sum that a norm in this dtype needs."""


@dataclass(frozen=True)
class OverflowSteps:
    """By the dtype in which the numbers are held."""

    float16: Overflow
    bfloat16: Overflow
    float32: Overflow


@dataclass(frozen=True)
class LayerNorms:
    """One layer along the run."""

    name: str
    kind: str | None
    """Its module's class; None without a model."""
    shape: tuple[int, ...]
    parameters: int
    dtype: str
    """As last stored."""
    norms: tuple[float, ...]
    """‖W‖ at each step."""
    invariance: Invariance = field(default_factory=Invariance)
    growth_per_step: float | None = None
    """Robust slope of ln ‖W‖ over steps (Theil, Sen); None with fewer than two steps or a norm without logarithm."""
    growth_stderr: float | None = None
    """Its standard error by Sen's interval; None with fewer than three steps."""
    predicted_growth: float | None = None
    """½ ln(1+η²) − η·wd for a scale-invariant layer under LARS and LAMB, −η·wd under Fromage; else None."""
    dead_bias: bool | None = None
    """None without a model."""
    overflow_step: OverflowSteps | None = None
    """None where the norm does not grow by more than twice its error."""
    halving_steps: float | None = None
    """Steps from the last one on until growth has halved the effective learning rate."""
    effective_learning_rate: tuple[float | None, ...] = ()
    """SGD η/‖W‖², Adam, AdamW and Lion η/‖W‖, LARS, LAMB and Fromage η; None where it is not defined."""


@dataclass(frozen=True)
class NormsResult:
    """The norms of a run's layers."""

    steps: tuple[int | None, ...]
    optimizer: str | None
    """As given, or as the optimizer's state tells."""
    learning_rates: tuple[float | None, ...]
    """At each step: given, from the optimizer's state, or declared beside the checkpoint."""
    weight_decay: float | None
    layers: tuple[LayerNorms, ...]
