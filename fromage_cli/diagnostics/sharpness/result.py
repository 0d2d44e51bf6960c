"""What `sharpness` finds: plain numbers whose field names are the JSON keys."""

import math
from dataclasses import dataclass

from fromage_cli.missing import NO_OTHER_DRAWS, Missing, known
from fromage_cli.theory.random_draws import OtherDraws
from fromage_cli.theory.siblings import OutOfLine


@dataclass(frozen=True)
class HessianEigenvalue:
    """One of the largest eigenvalues of the Hessian of the loss on the batch."""

    value: float
    """The eigenvalue as measured; above the true one by at most the residual."""
    residual: float
    """||H v - value v||, ||v|| = 1: an eigenvalue lies within it."""


@dataclass(frozen=True)
class BatchSharpness:
    """Curvature along the gradient that a training step sees, over small batches."""

    mean: float
    """E_B[g^T H g / ||g||^2], gradient and Hessian of the same small batch."""
    stderr: float
    """Standard error of the mean over the batches."""
    batches: int
    batch_size: int
    """Rows of the largest."""


@dataclass(frozen=True)
class LayerBlock:
    """One layer's own block of the Hessian, every other tensor held fixed."""

    name: str
    kind: str
    """The class of the module that owns it."""
    shape: tuple[int, ...]
    parameters: int
    eigenvalue: float | Missing
    """The largest; missing where a limit was reached before."""
    residual: float | Missing
    """||H_l v - eigenvalue v||, ||v|| = 1."""


@dataclass(frozen=True)
class QuadraticModel:
    """The network's output to second order, f + J d + d^T H_f d / 2, put into the loss."""

    radius: float | Missing
    """Smallest learning rate at which the loss after the next update is missed by a tenth of its change."""
    radius_relation: str
    """`crossing`; `above-grid`: it holds at every rate looked at; `below-grid`: at none."""
    losses: tuple[float, ...]
    """Of training simulated in it with the optimizer: at the checkpoint, then after each step."""
    spikes: bool | Missing
    """Whether the outcome is `spikes`; missing without a simulation."""
    outcome: str | Missing
    """`falls`; `spikes`: above the start and back below it; `rises`: not back at the last step; `diverges`."""
    rates: tuple[float, ...]
    """Learning rates along the next update at which both losses were taken."""
    line_losses: tuple[float, ...]
    """The network's loss after an update at each rate."""
    line_model_losses: tuple[float, ...]
    """The model's."""

    @property
    def highest_loss(self) -> float:
        """Of the simulated training, as far as it is finite; infinite where no loss is."""
        return max((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)


@dataclass(frozen=True)
class SharpnessResult:
    """Curvature of the loss on the batch, held against what the optimizer tolerates."""

    loss: float
    """At the checkpoint."""
    eigenvalues: tuple[HessianEigenvalue, ...]
    """Of the Hessian over the chosen tensors, the largest first."""
    gauss_newton_eigenvalue: float | Missing
    """Largest eigenvalue of J^T H J. J is the derivative of the output, H the Hessian of the loss by it."""
    preconditioned_eigenvalue: float | Missing
    """Largest eigenvalue of (S/P)^(1/2) (H + coupled decay) (S/P)^(1/2): P from Adam's state, 1 for SGD; S the rate of
    each tensor's group over the highest. Missing for SGD whose groups are alike."""
    preconditioned_residual: float | Missing
    """||A v - eigenvalue v|| of that matrix A, ||v|| = 1."""
    second_moments: str | Missing
    """Where those of Adam come from: `checkpoint`, or words on the minibatch gradients that stand in for them."""
    critical_sharpness: float | Missing
    """2 / the smallest rate that raises the loss along the optimizer's next step."""
    critical_sharpness_stderr: float | Missing
    """Standard error over disjoint parts of the rows, the step held fixed."""
    first_step_sharpness: float | Missing
    """2 / the smallest rate at which Adam's very first step raises the loss. That step is one rate in each gradient's
    sign."""
    first_step_ratio: float | Missing
    """Learning rate times that, over 2: from 1 on the first step raises the loss."""
    batch_sharpness: BatchSharpness | Missing
    optimizer: str | None
    """`sgd`, `adam`, `adamw`, `fromage`, `lars`, `lamb`, `lion` or `muon`; None where it is not known."""
    learning_rate: float | Missing
    momentum: float | Missing | None
    """Of `sgd`, `lars` and `muon`; None for the others, which have none."""
    threshold: float | Missing
    """Curvature from which on the optimizer's updates are unstable; for Adam, of the preconditioned Hessian."""
    ratio: float | Missing
    """Eigenvalue / threshold: the preconditioned one where there is one, else with coupled decay counted in."""
    scaled_ratio: float | Missing
    """2 * ratio: learning rate times eigenvalue, in units of plain gradient descent."""
    stable_learning_rate: float | Missing
    """The rate whose ratio is 1."""
    trained: bool
    """Whether the checkpoint is past its initialisation."""
    regime: str | Missing
    """`lazy`, `catapult`, `architecture-dependent` or `edge-of-stability`; only where it was measured."""
    tensors: int
    """How many tensors the Hessian is over."""
    parameters: int
    """Entries in them: the size of the Hessian."""
    quadratic: QuadraticModel | Missing
    layers: tuple[LayerBlock, ...] = ()
    """In model order; empty unless asked for."""
    draws: OtherDraws | Missing = NO_OTHER_DRAWS
    """v^T H_s v under other draws s, v the eigenvector of the largest eigenvalue: no more than that of each draw."""
    lowest_learning_rate: float | None = None
    """Of the parameter groups, where their rates differ; `learning_rate` is then the highest."""
    out_of_line: tuple[OutOfLine, ...] = ()
    """The layers whose weights differ from those of their siblings: one of them may be what makes the network sharp."""

    @property
    def before_adam(self) -> bool:
        """Whether Adam has hardly begun, or its state is not known: the ratio then does not tell healthy from sick."""
        return known(self.second_moments) not in (None, "checkpoint")

    @property
    def adam_unsaved(self) -> bool:
        """Whether the checkpoint is past its first steps, or may be, and holds no state of Adam."""
        return self.before_adam and self.trained and "checkpoint" not in (known(self.second_moments) or "")
