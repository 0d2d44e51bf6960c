"""What `hypergrad` finds: plain numbers whose field names are the JSON keys."""

from dataclasses import dataclass

from fromage_cli.missing import Missing
from fromage_cli.probes.hypergradients.conditioning import Conditioning

UNROLL, CONTINUED = "unroll", "continued"
"""Methods that look at the next steps; the others say where training would settle."""
DELTA_STN = "delta-stn"


@dataclass(frozen=True)
class MethodAnswer:
    """What one method says of one hyperparameter."""

    method: str
    """`unroll`: derivative through the next steps; `continued`: those steps taken with it moved up and down;
    `gauss-newton`, `hessian`, `source`, `delta-stn`: the response of weights that training has settled."""
    horizon: int | None
    """Further training steps; None: until training has settled."""
    gradient: float | Missing
    """Change of the validation loss per unit of the hyperparameter."""
    log_gradient: float | Missing
    """The same per unit of its logarithm: value * gradient."""
    stderr: float | Missing
    """Standard error of the gradient over validation batches, and over draws."""
    draws: int | Missing
    """Of training batches and random numbers that the gradient is the mean of."""
    metasmoothness: float | Missing
    """Cosine between the changes of the weights under a first and a second half of the move."""
    iterations: int | Missing
    """Products with the curvature; of `delta-stn` gradients of the linearised loss."""
    residual: float | Missing
    """||(C + R + mu) x - b|| / ||b||; of `delta-stn` the relative change of the answers in its last round."""
    negative_curvature: bool | Missing
    """Whether C + R + mu has a negative eigenvalue, so that weights would not settle there."""
    less_damped: float | Missing
    """The gradient with a tenth of the damping."""
    more_damped: float | Missing
    """The gradient with ten times the damping."""


@dataclass(frozen=True)
class HyperparameterAnswers:
    """One hyperparameter, or several that move together."""

    name: str
    """`weight-decay`, `dropout`, `label-smoothing`, `learning-rate`, or the user's keyword."""
    scope: str
    """`all`, `group:N`, a tensor, or a module."""
    value: float
    """Its value now; the largest of several."""
    advised_by: str | None
    """The method that the advice rests on; None where there is none."""
    answers: tuple[MethodAnswer, ...]
    advice: str | None
    """What to do with it, in a sentence; None for the learning rate and for single tensors and modules."""
    direction: str | None
    """`raise`, `lower`, `keep` or `unclear`; None where there is no advice."""
    expected_change: float | Missing
    """Of the validation loss, where it is moved by 10 % as advised, or from 0 to 0.01."""

    def by(self, method: str | None) -> MethodAnswer | None:
        """The answer of one method; None where there is none."""
        return next((answer for answer in self.answers if answer.method == method), None)


@dataclass(frozen=True)
class HypergradResult:
    """How the validation loss answers to the hyperparameters of training."""

    train_loss: float
    """The training loss at the checkpoint, regularisers of the loss included."""
    val_loss: float
    """The validation loss at the checkpoint, in evaluation mode and without regularisers."""
    val_loss_after: float | Missing
    """After the further steps."""
    gradient_norm: float | Missing
    """Of the training loss with weight decay: 0 where training rests."""
    optimizer: str | None
    learning_rate: float | Missing
    steps: int | None
    """Further steps that are looked at; None where none are."""
    batches: str
    """Which rows the further steps see, as a sentence ends: `each on all 512 rows`. It is empty without such steps."""
    val_rows: int
    val_parts: int
    """Batches, or parts of the only one, that the standard error is taken over."""
    copies: str | None
    """States of the run that were held: `all` or `square root`; None where no derivative was unrolled."""
    damping: float | Missing
    """What the solve adds to every eigenvalue of the curvature: μ, as an absolute number."""
    invariant_layers: tuple[str, ...] | Missing
    """Scale-invariant layers: weight decay acts on them through their effective rate alone."""
    conditioning: Conditioning | Missing
    """Of Delta-STN's hypernetwork on the smallest layer; missing unless that method is asked for."""
    hyperparameters: tuple[HyperparameterAnswers, ...]
    """The widest scope first."""
