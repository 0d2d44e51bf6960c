"""What `breakdown` finds: plain numbers whose field names are the JSON keys."""

from dataclasses import dataclass

from fromage_cli.missing import NO_OTHER_DRAWS, Missing
from fromage_cli.theory.random_draws import OtherDraws
from fromage_cli.theory.siblings import OutOfLine


@dataclass(frozen=True)
class DepthResult:
    """The depth of the network, counted in three ways."""

    count: int
    """Weight tensors that receive a gradient."""
    path: int | Missing
    """Weight tensors on the longest path from input to loss, where the graph tells."""
    effective: float | Missing
    """The longest path with residual branches weighed by rho = ||F(x)|| / ||x + F(x)||."""


@dataclass(frozen=True)
class SkippedTensor:
    """A tensor that does not move along the direction."""

    name: str
    reason: str
    """`zero weights`, `zero gradient`, `zero step`, `receives no gradient`, `frozen`, `excluded`, `same in both
    checkpoints`, or that the optimizer does not cover it."""


@dataclass(frozen=True)
class BatchTrust:
    """What one batch of several says when it is measured alone, along its own direction."""

    loss: float
    """The loss of this batch at the checkpoint."""
    trust_eta: float | Missing
    trust_relation: str
    limiting_layer: str | None
    aggregate_trust_eta: float | Missing


@dataclass(frozen=True)
class LayerBreakdown:
    """The curve of one layer, all layers moving together."""

    name: str
    kind: str
    """Class of the module that owns the tensor."""
    shape: tuple[int, ...]
    parameters: int
    weight_norm: float
    """||W||, Frobenius."""
    gradient_norm: float
    """||g||, Frobenius."""
    cosine: float
    """The cosine between the step and the negative gradient: what the breakdown is held against."""
    relative_step: float | Missing
    """||dW|| / ||W|| per unit of eta, for weights that are not zero."""
    noise_floor: float | Missing
    """b at eta = 0, the rows summed in another order: what rounding and chance change.

    Where the order of rows matters or tells nothing, the weights move by a rounding error instead.
    """
    breakdown: tuple[float | Missing, ...]
    """b at each eta; missing without gradient at the start, below the noise floor, and where no step can be made."""
    path_breakdown: tuple[float | Missing, ...]
    """The running maximum of b: the largest on the way to each eta."""
    trust_eta: float | Missing
    """Where path_breakdown reaches the cosine, interpolated in log eta."""
    trust_relation: str
    """`crossing`, `above-grid`, `below-grid` or `uncertifiable` (cosine <= 0)."""
    implied_depth: float | Missing
    """ln(1 + cosine) / ln(1 + trust_eta): the depth for which Lemma 2 would give trust_eta."""
    violation: float | Missing
    """Median of breakdown / predicted where the breakdown is above ten noise floors and below 1."""
    trust_eta_upper: float | None = None
    """The upper end of the interval that holds trust_eta, where it is known no closer; None elsewhere.

    It is the first point, or the first one that is not finite.
    """


@dataclass(frozen=True)
class BreakdownResult:
    """Gradient breakdown along one direction."""

    direction: str
    step_scale: float
    """Learning rate of the plain update = eta x this; 1 for relative updates."""
    loss: float
    """At the checkpoint."""
    complete: bool
    """False when a limit of time or memory ended the measurement early."""
    etas: tuple[float, ...]
    """Largest relative step of any layer at each point."""
    losses: tuple[float, ...]
    predicted: tuple[float, ...]
    """Deep relative trust: prod over the layers (1 + delta) - 1."""
    predicted_spectral: tuple[float, ...]
    """The same with relative steps in the spectral norm."""
    loss_bounds: tuple[float | Missing, ...]
    """Lemma 1: what the loss can rise to at most, less the loss at the checkpoint; certain descent where negative."""
    depth: DepthResult
    tail_slope: float | Missing
    """d ln(1 + b) / d ln(1 + eta) of the first layer over eta in [.05, .1)."""
    trust_eta: float | Missing
    """The smallest trust eta of any tensor that moves."""
    trust_relation: str
    limiting_layer: str | None
    """The tensor that stops helping first: a layer, or a vector where the vectors do so first; None where none does."""
    aggregate_trust_eta: float | Missing
    """Where the bound of Lemma 1, summed over all tensors that move, changes sign."""
    aggregate_trust_relation: str
    linear_trust_eta: float | Missing
    """Least over all tensors that move of cosine / b'(0), the slope by one Hessian-vector product."""
    linear_trust_relation: str
    """`crossing`, `uncertifiable`, `above-grid` (no slope) or `unavailable` (no second derivative, or a limit)."""
    argmin_loss_eta: float | Missing
    """Where the loss along the slice is least."""
    argmin_loss_relation: str
    first_increase_eta: float | Missing
    """Where the loss along the slice first exceeds its start."""
    first_increase_relation: str
    noise: tuple[str, ...]
    """Tensors that move but whose gradient is zero up to rounding, such as biases before a normalisation."""
    skipped: tuple[SkippedTensor, ...]
    layers: tuple[LayerBreakdown, ...]
    """In model order; a vector that limits the network is among them."""
    decay_left_out: float | None = None
    """The largest weight decay of any group that the Adam step leaves out; None where there is none."""
    trust_eta_upper: float | None = None
    """The upper end of the interval that holds trust_eta, where it is known no closer; None elsewhere."""
    aggregate_trust_eta_upper: float | None = None
    argmin_loss_eta_upper: float | None = None
    first_increase_eta_upper: float | None = None
    loss_floor: float = 0.0
    """By how much rounding alone changes the loss."""
    loss_slope: float = 0.0
    """d loss / d eta at the start by the gradient, -sum ||g_l|| ||d_l|| cos theta_l."""
    measured_loss_slope: float | Missing = 0.0
    """The same by the losses of the two smallest steps that rounding lets one judge."""
    contradicted: bool = False
    """Whether the two exclude each other, so that the gradient is not that of this loss."""
    without_size: tuple[str, ...] = ()
    """Layers whose weights are zero or far smaller than their step: they move, and eta leaves them out."""
    out_of_line: tuple[OutOfLine, ...] = ()
    """The layers that differ from their siblings by more than healthy ones do."""
    precision: str = "float32"
    """The precision of the passes: that of the weights, `float32` or `float64`, and `bfloat16` under autocast."""
    batches: tuple[BatchTrust, ...] = ()
    """Each batch alone, where there are several; everything above is measured on all of them together."""
    draws: OtherDraws | Missing = NO_OTHER_DRAWS
    """Where aggregate_trust_eta lies along the same step under other draws; 0 where the step goes uphill under one.

    By one point near it, the change of each gradient taken to grow in proportion to the step.
    """

    @property
    def goes_uphill(self) -> bool:
        """Whether the step as a whole raises the loss at its start, however small it is."""
        return self.loss_slope > 0.0 and not self.contradicted
