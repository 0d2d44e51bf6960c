"""What `suggest-lr` finds: plain numbers whose field names are the JSON keys."""

from dataclasses import dataclass

from fromage_cli.missing import NO_OTHER_DRAWS, Basis, Missing, Why
from fromage_cli.theory.random_draws import OtherDraws
from fromage_cli.theory.siblings import OutOfLine

NO_LAYER_MOVES = Missing(Why.NOTHING_MOVES, "no layer of the group moves by a relative step")
NO_SHARPNESS = Missing(Why.NOT_ASKED, "the curvature was not asked for: --sharpness")


@dataclass(frozen=True)
class Limit:
    """How far the next update may go from this checkpoint."""

    eta: float | Missing
    """Relative: the largest ||dW_l|| / ||W_l|| of a layer."""
    learning_rate: float | Missing
    """The optimizer's rate that makes this step; relative too for fromage, lars and lamb."""
    estimator: str | None
    """`measured-sum` where the loss falls up to it; `measured` where that was shown in every layer; else `critical`,
    from which on the loss rises."""
    relation: str
    """`crossing`: it lies here; `above-grid`: beyond; `below-grid`: below all that was tried, or a time or memory limit
    came before anything certain was found; `uncertifiable`: there is no descent to count on, or nothing was tried."""
    limiting_layer: str | None
    """The tensor whose gradient breaks down first."""
    criterion: str | None
    """`layers`: every layer descends by itself, and the vectors together with those `uncertain`; `sum`: only all."""
    upper_eta: float | Missing
    """The smallest relative step tried whose descent is not certain."""
    reliable: bool
    """Whether eta and upper_eta are within 5 %, descent is certain at eta, and every tensor's rate is known."""
    averaged: bool = False
    """Whether only the mean step of training batches is certain, which are parts of the rows: one of them need not."""


@dataclass(frozen=True)
class Recommended:
    """The rate to train at."""

    learning_rate: float | Missing
    eta: float | Missing
    """The relative step that the next update takes at this rate."""
    low: float | Missing
    """From this learning rate …"""
    high: float | Missing
    """… to this one the best rate lies with a probability of 80 %."""
    regret: float | Missing
    """The expected part of the achievable fall of the loss that is lost at the rate."""
    estimator: str | None
    """`probe-init` or `probe`; None where there is no rate."""
    reason: str
    reliable: bool
    """Whether the regret is at most .05, from new weights, on whole batches and with an optimizer that was studied."""
    gain: float | Missing
    """Part of the loss that the best short run took away."""


@dataclass(frozen=True)
class Estimate:
    """One answer to one of the two questions."""

    name: str
    eta: float | Missing
    learning_rate: float | Missing
    assumption: Basis
    """What it rests on, or why there is none."""
    gradient_evaluations: float
    """What it cost, in gradients of all rows: a forward pass is 1/3, a Hessian-vector product 7/3."""


@dataclass(frozen=True)
class Stability:
    """Whether steps along the sharpest direction of the loss grow at the present rate, on today's curvature."""

    learning_rate: float | Missing
    """The rate from which on they grow: the optimizer's own stability threshold."""
    ratio: float | Missing
    """The present rate ÷ it; below 1 they shrink, as long as the curvature stays as it is."""
    adam_begins: bool = False
    """Whether Adam has hardly begun or is not saved, so that minibatches or few steps gave its second moments.

    The ratio then does not tell healthy runs from sick ones.
    """
    adam_unsaved: bool = False
    """Whether the checkpoint is past its first steps, or may be, and holds no state of Adam."""
    diverged_from: float | None = None
    """The ratio from which on some networks diverged that began so, with momentum; None where none was measured."""


@dataclass(frozen=True)
class GroupRate:
    """One parameter group of the checkpoint's optimizer."""

    index: int
    tensors: int
    """How many it has in this model."""
    learning_rate: float | Missing
    """In the checkpoint."""
    weight_decay: float | Missing
    limit: float | Missing
    """The rate at which none of its layers moves by more than the limit; missing without layers that move."""
    limiting_layer: str | None
    """The layer of the group with the largest relative step per rate; None where the limit is missing."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The update rule that the rates are for."""

    name: str | None
    current_learning_rate: float | Missing
    """As given, or found in the checkpoint; of parameter groups the highest."""
    lowest_learning_rate: float | None
    """Of the parameter groups, where their rates differ."""
    current_ratio: float | Missing
    """It, divided by the limit."""
    momentum: float | Missing | None
    """The momentum of the optimizer; None where it has none."""
    betas: tuple[float, float] | Missing | None
    """β₁ and β₂ of the optimizer; None where it has none."""
    weight_decay: float | Missing
    filled: bool
    """Whether its momentum is taken to be built up, since the checkpoint holds none."""
    train_batch_size: int
    """Rows of the training batches that the cosines are for."""
    groups: tuple[GroupRate, ...]


@dataclass(frozen=True)
class LayerRate:
    """One layer's share in the answer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    cosine: float
    """Between the step of a training batch and descent, decoupled decay left out; 0 where noise dominates."""
    cosine_stderr: float | Missing
    """Standard error, by the jackknife over chunks of the batch."""
    relative_step: float | Missing
    """||u_l|| / ||W_l||: what a learning rate of 1 would move it by."""
    trust_eta: float | Missing
    """Largest relative step of the network before this layer's gradient has changed by cosine."""
    trust_relation: str
    """`crossing`, `above-grid`, `below-grid` or `uncertifiable`, as far as the search for the smallest shows; the last
    also where it did not come to take a gradient."""
    linear_trust_eta: float | Missing
    """Where it would lie if the gradient changed linearly, from one Hessian-vector product."""
    learning_rate: float | Missing
    """At which this layer moves by the limit's relative step."""


@dataclass(frozen=True)
class MeasuredPoint:
    """One place along the step at which the gradient was taken."""

    eta: float
    loss: float
    """The loss of the batch after a step of this size."""
    excess: float
    """The share of the descent that the gradients' changes can undo; the loss falls where it is below 1."""


@dataclass(frozen=True)
class ProbeRun:
    """One short training run."""

    learning_rate: float
    """Its peak."""
    loss: float
    """Of rows that no step saw, afterwards; infinite where its loss became infinite or no number."""
    steps: int
    seed: int
    """Of the weights, where new ones were drawn, and of the order of the batches."""


@dataclass(frozen=True)
class VerifiedRun:
    """Real steps from the checkpoint."""

    factor: float
    """Of the rate that was verified."""
    learning_rate: float
    losses: tuple[float, ...]
    """The loss of each step's own minibatch before the step, in the first order of the batches.

    It ends where the loss is not finite.
    """
    start_loss: float
    """The loss of held-out rows before the first step."""
    end_loss: float | Missing
    """The same after the last, the mean over two orders of the batches; missing where one is infinite or no number."""
    spread: float | Missing
    """How far the losses at the end are apart, between the two orders of the batches."""
    best: bool
    """Whether it ends lower than the other rates by more than the orders of the batches make of it."""


@dataclass(frozen=True)
class Alternative:
    """One optimizer of those that it could be."""

    name: str
    settings: str
    """Those that its rates are for, as flags: `--momentum 0.9`."""
    limit: float | Missing
    """Up to this learning rate its own next update, with fresh state, lowers the loss, as far as was looked."""
    critical: float | Missing
    """Its smallest learning rate whose next update raises the loss; missing where none was seen."""
    typical: float | Missing


@dataclass(frozen=True)
class SuggestedRates:
    """How far the next update may go, and at which rate to train."""

    loss: float
    """At the checkpoint."""
    limit: Limit
    recommended: Recommended
    estimates: tuple[Estimate, ...]
    optimizer: OptimizerSettings
    noise_scale: float | Missing
    """tr Sigma / ||g||^2: the batch size at which noise equals signal; missing where noise dominates."""
    noise_scale_low: float | Missing
    """One standard error below it …"""
    noise_scale_high: float | Missing
    """… and above; missing where that is not bounded."""
    noise_rows: int | Missing
    """Rows of each chunk that the noise was measured on."""
    layers: tuple[LayerRate, ...]
    points: tuple[MeasuredPoint, ...]
    """Where the gradient was taken for `measured`; between them nothing was looked at."""
    probe_steps: int | Missing
    """Steps of the longest short run."""
    probe: tuple[ProbeRun, ...] = ()
    verification: tuple[VerifiedRun, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    """The optimizers that it could be, an entry each; empty where the optimizer is known."""
    uncertain: tuple[str, ...] = ()
    """Layers whose step does not descend, or not more than noise."""
    noise: tuple[str, ...] = ()
    """Tensors whose gradient is zero but for rounding."""
    zero_gradient: tuple[str, ...] = ()
    """Layers whose gradient is exactly zero, though they belong to the loss."""
    schedule: str = "constant"
    """Of the short runs: `constant`, `warm-up` before a constant rate, `linear`, `cosine` or `table`."""
    stability: Stability = Stability(NO_SHARPNESS, NO_SHARPNESS)
    contradiction: tuple[float, float] | None = None
    """The slope of the loss along the step, by its values and by its gradient, where these exclude each other."""
    draws: OtherDraws | Missing = NO_OTHER_DRAWS
    """Learning rates from which on the same step raises the loss under other draws."""
    without_size: tuple[str, ...] = ()
    """Layers whose weights are zero or far smaller than their step: they move, and eta leaves them out."""
    out_of_line: tuple[OutOfLine, ...] = ()
    """The layers whose weights differ from those of their siblings: a lower rate may not mend what they do."""
