"""What `intrinsic-lr` found: plain numbers by layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fromage_cli.missing import Missing, Why

NO_MODEL = Missing(Why.NO_MODEL, "it takes gradients of training batches: --model and --batch")

DOUBT = 0.2
"""Distance of a norm so far from the equation's, in shares of the norm, beyond which a forecast is doubtful."""
ONE_CHECKPOINT = Missing(Why.NOT_ASKED, "it takes two checkpoints")
NO_TREND = Missing(Why.NOT_DEFINED, "no forecast depends on how large gradients become")


@dataclass(frozen=True)
class Drop:
    """What dividing the rate by a factor does to a layer's effective rate."""

    at_once: float
    """Effective rate right after the drop, relative to now: 1 / factor."""
    final: float
    """In the end, relative to now."""
    recovery_steps: float
    """Steps from the drop until it is within 10 % of its end."""
    from_equilibrium: bool
    """Whether the layer was taken to be at equilibrium, as its equilibrium norm is not known."""
    steps: tuple[float, ...]
    """Steps after the drop."""
    ratios: tuple[float, ...]
    """Effective rate at each of them, relative to now."""


@dataclass(frozen=True)
class Forecast:
    """How a layer goes on to the end of the run, along the schedule."""

    steps: tuple[int, ...]
    norms: tuple[float, ...]
    """‖W‖ before each of these steps."""
    effective_learning_rates: tuple[float | None, ...]
    """As that of the layer."""
    angles_per_step: tuple[float, ...]
    """Radians that each of these steps turns it."""
    norms_if_growing: tuple[float, ...] = ()
    """‖W‖ if E‖g̃‖² grew as the steps do from now on; empty where it does not matter, or its trend is known well."""
    angles_if_growing: tuple[float, ...] = ()
    """Likewise."""


@dataclass(frozen=True)
class LayerEquilibrium:
    """One layer against its equilibrium."""

    name: str
    kind: str | None
    """Its module's class; None without a model."""
    shape: tuple[int, ...]
    parameters: int
    learning_rate: float | Missing
    """η of its parameter group at the last checkpoint."""
    weight_decay: float | Missing
    """wd of its parameter group."""
    intrinsic_learning_rate: float | Missing
    """λ_e = η·wd a step, times H = 1/(1−momentum) for SGD: how fast decay forgets."""
    effective_learning_rate: float | Missing
    """SGD η/‖W‖², Adam, AdamW and Lion η/‖W‖, LARS and Fromage the relative step."""
    verdict: str
    """Scale invariance as measured: `invariant`, `eps-limited`, `approximate`, `none`; `untested` without a model."""
    granularity: str | None
    """The parts that have a scale of their own: `tensor`, `channel`, `group`, `head`, `joint`."""
    norm: float
    """‖W‖ at the last checkpoint."""
    batch_gradient_norm: float | Missing
    """√E‖g‖² over gradients of training batches."""
    equilibrium_norm: float | Missing
    """‖W*‖ = √Σ w*² over the parts."""
    log_ratio: float | Missing
    """ln(‖W‖ / ‖W*‖): above 0 the norm is too large, and the effective rate too small."""
    growth_per_step: float | Missing
    """d ln ‖W‖ a step where no equilibrium exists."""
    relaxation_steps: float | Missing
    """τ: SGD of ‖W‖⁴, AdamW and Lion of ‖W‖², LARS of ‖W‖⁻²."""
    relaxation_epochs: float | Missing
    """τ / steps per epoch."""
    steps_to_equilibrium: float | Missing
    """Until ‖W‖ is within 10 % of ‖W*‖; 0 where it is."""
    expected_rotation: float | Missing
    """At equilibrium, radians: a step with one checkpoint, between the last two with several."""
    observed_rotation: float | Missing
    """Between the last two checkpoints, radians."""
    drop: Drop | Missing
    """Under a drop of the rate that was asked for."""
    angle_per_step: float | Missing = NO_MODEL
    """Radians that the next step turns it, at the present norm and rate."""
    forecast: Forecast | Missing = NO_MODEL
    """From the last checkpoint to the end of the run."""
    norms: tuple[float, ...] = ()
    """‖W‖ at every checkpoint."""
    expected_norms: tuple[float | Missing, ...] = ()
    """The same as the theory has them from the first checkpoint on."""
    calibrated: bool = False
    """Whether the size of its gradients comes from the norms of checkpoints, not from a model."""
    inactive: int = 0
    """Entries that never receive a gradient, which are left out."""
    units_without_size: int = 0
    """Parts that have a scale of their own and are zero, which are left out; 0 where the whole layer is."""
    expected_rotations: tuple[float | Missing, ...] = ()
    """Between consecutive checkpoints."""
    observed_rotations: tuple[float | Missing, ...] = ()
    """Likewise."""
    unchanged: bool = False
    """Whether it holds the same bytes in all of several checkpoints: theory and forecast say nothing of it."""
    never_updated: bool = False
    """Whether the optimizer's state has no slot for it, beside others that have one: likewise."""
    norm_ratio: float | Missing = ONE_CHECKPOINT
    """The last of `expected_norms` over the norm there."""
    forecast_doubtful: bool = False
    """Whether norm_ratio is off 1 by more than 20 %, so that the equation of the forecast is refuted."""


@dataclass(frozen=True)
class ScheduleRecord:
    """How the rate goes along the run."""

    shape: str
    """`constant`, `linear`, `cosine` or `table`."""
    warmup_steps: float
    total_steps: float | None
    source: str | None
    """Where it was found; None where it was given."""
    factor: float | None
    """Share of its peak that the rate has after the last checkpoint; None where its step is not known."""
    constant: bool
    """Whether the rate no longer changes."""


@dataclass(frozen=True)
class IntrinsicResult:
    """The layers of a network against their equilibria."""

    steps: tuple[int | Missing, ...]
    optimizer: str
    momentum: float | None
    betas: tuple[float, float] | None
    decay: str | None
    """`coupled` to the gradient, or `decoupled`; None for Fromage, which has none."""
    steps_per_epoch: int | None
    train_batch_size: int | None
    """Rows of the batches that the gradients stand for."""
    tested: bool
    """Whether scale invariance was measured; else it is assumed."""
    drop_factor: float | None
    layers: tuple[LayerEquilibrium, ...]
    schedule: ScheduleRecord | None = None
    """None where none is known."""
    schedule_doubt: str | None = None
    """Why the rate is not constant, where its schedule is not known."""
    schedule_gap: float | None = None
    """Largest distance of the saved rates from the schedule, in shares of the peak; None where none are saved."""
    gradient_trend: float | Missing = NO_TREND
    """E‖g̃‖² went as steps to this power, by the norms of the checkpoints; forecasts go on so, within 0 and 1."""

    @property
    def changing(self) -> bool:
        """Whether the rate changes from the last checkpoint on."""
        return self.schedule_doubt is not None or (self.schedule is not None and not self.schedule.constant)


@dataclass(frozen=True)
class Inactive:
    """Entries of a layer that never receive a gradient, as those behind inputs that are always zero."""

    entries: int = 0
    square: float = 0.0
    """Sum of their squares at the last checkpoint."""

    def active(self, norm: float) -> float:
        """The norm of the others where the whole has this one."""
        return math.sqrt(max(norm * norm - self.square, 0.0)) if self.square and math.isfinite(norm) else norm


ACTIVE = Inactive()


@dataclass(frozen=True)
class LayerEvidence:
    """What a model and a batch show of one layer. The defaults are what is known without them."""

    kind: str | None = None
    verdict: str = "untested"
    granularity: str | None = None
    squares: tuple[float, ...] | Missing = NO_MODEL
    """E‖g̃_u‖² = ‖w_u‖² E‖g_u‖² of every part, over gradients of training batches."""
    squared_gradient: float | Missing = NO_MODEL
    """E‖g‖² of the whole."""
    sizes: tuple[float, ...] | Missing = NO_MODEL
    """‖w_u‖² of every part, of the entries that receive gradients."""
    inactive: Inactive = ACTIVE
    """Those that do not, whatever the output, on the batch."""


@dataclass(frozen=True)
class Evidence:
    """What a model and a batch show of the layers, by the checkpoint's names."""

    layers: Mapping[str, LayerEvidence] = field(default_factory=dict)
    batch_size: int | None = None
    """Rows of a training batch that the gradients stand for."""
