"""The directions: relative updates, plain updates, a random one, and the way to another checkpoint.

Source: Bernstein et al., NeurIPS 2020 (Fromage); Kingma, Ba, ICLR 2015 (Adam).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.rule import ADAM, FROMAGE, SGD
from fromage_cli.probes.lines.direction import Direction, Move, Skipped, Still, measured_move
from fromage_cli.probes.lines.random_direction import RandomTensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.problem.networks.weights import other_weights
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.conversions import RelativeSteps, relative_steps_of

LARGEST_COEFFICIENT = 1e37
"""A gradient smaller than its weights by more than this counts as zero: their ratio leaves the range of float32."""
Source = Callable[[TrainableTensor], Tensor]


def fromage_direction(problem: Problem, tensors: Sequence[TrainableTensor]) -> Direction:
    """The Fromage step without its prefactor, d_l = -g_l ||W_l|| / ||g_l||: every layer's relative step is eta.

    Tensors whose weights or gradient are zero do not move. Where no other has a gradient, those of zero
    weights move by their gradient, as the optimizer moves them: before the first step of a network whose head is zero.
    """
    gradients = problem.base.gradients
    moves, skipped = [], []
    for tensor in tensors:
        weight_norm, gradient_norm = norm(tensor.parameter), norm(gradients[tensor.name])
        if weight_norm == 0.0 or weight_norm / LARGEST_COEFFICIENT >= gradient_norm:
            skipped.append(Skipped(tensor.name, Still.ZERO_WEIGHTS if weight_norm == 0.0 else Still.ZERO_GRADIENT))
            continue
        moves.append(Move(tensor, -weight_norm / gradient_norm, weight_norm, gradient_norm, weight_norm, 1.0))
    direction = Direction(FROMAGE.name, 1.0, tuple(moves), tuple(skipped), lambda tensor: gradients[tensor.name])
    if not moves and any(norm(gradients[tensor.name]) > 0.0 for tensor in tensors):
        direction = scaled_step(problem, FROMAGE.name, tensors, direction.source).direction
    return replace(direction, along_gradients=True)


def sgd_direction(problem: Problem, tensors: Sequence[TrainableTensor]) -> Direction:
    """The plain gradient step d = -g, scaled so that eta is the largest relative step of a layer."""
    gradients = problem.base.gradients
    return replace(
        scaled_step(problem, SGD.name, tensors, lambda tensor: gradients[tensor.name]).direction, along_gradients=True
    )


def adam_direction(
    problem: Problem, tensors: Sequence[TrainableTensor], updates: Mapping[str, Tensor], notes: tuple[str, ...]
) -> Direction:
    """The Adam step d = -u, scaled so that eta is the largest relative step of a layer.

    u = m^ / (sqrt(v^) + eps). `updates`: u by tensor name; `notes`: where the moments come from.
    """
    return replace(scaled_step(problem, ADAM.name, tensors, lambda tensor: updates[tensor.name]).direction, notes=notes)


@dataclass(frozen=True)
class ScaledStep:
    """A plain step as a direction in which eta is the largest relative step of a layer that has one."""

    direction: Direction
    relative: RelativeSteps
    """Of the plain step; of vectors where there are no layers."""

    @property
    def limiting(self) -> str | None:
        """The layer whose relative step is eta; None where no layer has a relative size."""
        return max(self.relative.steps, key=lambda name: self.relative.steps[name], default=None)

    @property
    def highest(self) -> float:
        """The eta at which the network as a whole moves by its own norm; 1 where that is not told."""
        usual = self.relative.usual * self.direction.step_scale
        return max(1.0, 1.0 / usual) if usual else 1.0


def scaled_step(problem: Problem, name: str, tensors: Sequence[TrainableTensor], source: Source) -> ScaledStep:
    """The step d = -s * source, s = 1 / max_l(||source_l|| / ||W_l||) over the layers that have a relative size.

    Where none has, eta = 1 moves the network as a whole by its own norm. Raises MismatchError when nothing moves.
    """
    plain = [measured_move(problem, tensor, -1.0, source(tensor)) for tensor in tensors]
    if not any(move.step_norm > 0.0 for move in plain):
        raise MismatchError(
            f"The {name} step is zero in every tensor: no gradient arrives, and the optimizer has no momentum.",
            "Check the loss: it may be constant, or already at its minimum. Otherwise choose other tensors.",
        )
    judged = [move for move in plain if move.tensor.is_layer] or plain
    relative = relative_steps_of({move.tensor.name: (move.step_norm, move.weight_norm) for move in judged})
    scale = 1.0 / (max(relative.steps.values(), default=0.0) or relative.usual or 1.0)
    moves = tuple(
        replace(move, coefficient=-scale, step_norm=scale * move.step_norm) for move in plain if move.step_norm > 0.0
    )
    still = tuple(
        Skipped(move.tensor.name, Still.ZERO_GRADIENT if move.gradient_norm == 0.0 else Still.ZERO_STEP)
        for move in plain
        if move.step_norm == 0.0
    )
    direction = Direction(name, scale, moves, still, source, without_size=relative.without_size)
    return ScaledStep(direction, relative)


def random_direction(problem: Problem, tensors: Sequence[TrainableTensor], seed: int) -> Direction:
    """A Gaussian direction with ||d_l|| = ||W_l||, drawn again from its seed whenever it is needed."""
    table = RandomTensors(seed, sum(tensor.parameter.numel() for tensor in tensors), tensors[0].parameter)

    def draw(tensor: TrainableTensor) -> Tensor:
        return table.draw_like(tensor.name, tensor.parameter)

    def drawn_move(tensor: TrainableTensor, weight_norm: float) -> Move:
        drawn = draw(tensor)
        return measured_move(problem, tensor, weight_norm / norm(drawn), drawn)

    moves, skipped = [], []
    for tensor in tensors:
        if (weight_norm := norm(tensor.parameter)) == 0.0:
            skipped.append(Skipped(tensor.name, Still.ZERO_WEIGHTS))
        else:
            moves.append(drawn_move(tensor, weight_norm))
    return Direction("random", 1.0, tuple(moves), tuple(skipped), draw, certifies=False, drawn=table)


def displacement_to(problem: Problem, other: Checkpoint) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Takes W' - W of every trainable tensor, by name, and says what the user should know of the other checkpoint.

    The other weights are loaded as the first were, subtracted, and everything is put back bit for bit. Never more than
    one copy of the weights is held beside them: each difference takes the place of what was kept.
    Raises MismatchError and NumericalError as loading weights does.
    """
    moved: dict[str, Tensor] = {}
    with other_weights(problem.model, other) as (own, notes):
        for tensor in problem.trainable:
            origin = own[tensor.name]
            moved[tensor.name] = tensor.parameter.detach() - origin
            tensor.parameter.data.copy_(origin)
            del own[tensor.name], origin
    return moved, notes


def displacement_direction(
    problem: Problem, tensors: Sequence[TrainableTensor], displacement: Mapping[str, Tensor], name: str
) -> Direction:
    """The straight way to another checkpoint, dW = eta (W' - W): eta = 1 is that checkpoint."""
    moves = [measured_move(problem, tensor, 1.0, displacement[tensor.name]) for tensor in tensors]
    still = tuple(Skipped(move.tensor.name, Still.SAME) for move in moves if move.step_norm == 0.0)
    moving = tuple(move for move in moves if move.step_norm > 0.0)
    return Direction(name, 1.0, moving, still, lambda tensor: displacement[tensor.name])
