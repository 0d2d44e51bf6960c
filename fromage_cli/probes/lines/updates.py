"""The directions: relative updates, plain updates, a random one, and the way to another checkpoint.

Source: Bernstein et al., NeurIPS 2020 (Fromage); Kingma, Ba, ICLR 2015 (Adam).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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

LARGEST_COEFFICIENT = 1e37
"""A gradient smaller than its weights by more than this counts as zero: their ratio leaves the range of float32."""
Source = Callable[[TrainableTensor], Tensor]


def fromage_direction(problem: Problem, tensors: Sequence[TrainableTensor]) -> Direction:
    """The Fromage step without its prefactor, d_l = -g_l ||W_l|| / ||g_l||: every layer's relative step is eta.

    Tensors whose weights or gradient are zero do not move.
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
    return replace(direction, along_gradients=True)


def sgd_direction(problem: Problem, tensors: Sequence[TrainableTensor]) -> Direction:
    """The plain gradient step d = -g, scaled so that eta is the largest relative step of a layer."""
    gradients = problem.base.gradients
    return replace(_update(problem, SGD.name, tensors, lambda tensor: gradients[tensor.name]), along_gradients=True)


def adam_direction(
    problem: Problem, tensors: Sequence[TrainableTensor], updates: Mapping[str, Tensor], notes: tuple[str, ...]
) -> Direction:
    """The Adam step d = -u, scaled so that eta is the largest relative step of a layer.

    u = m^ / (sqrt(v^) + eps). `updates`: u by tensor name; `notes`: where the moments come from.
    """
    return replace(_update(problem, ADAM.name, tensors, lambda tensor: updates[tensor.name]), notes=notes)


def _update(problem: Problem, name: str, tensors: Sequence[TrainableTensor], source: Source) -> Direction:
    """The step d = -s * source, s = 1 / max_l(||source_l|| / ||W_l||) over the layers whose weights are not zero."""
    plain = [measured_move(problem, tensor, -1.0, source(tensor)) for tensor in tensors]
    steps = [move.relative_step for move in plain if move.relative_step is not None and move.tensor.is_layer]
    steps = steps or [move.relative_step for move in plain if move.relative_step is not None]
    largest = max((step for step in steps if step is not None), default=0.0)
    if not 0.0 < largest < math.inf:
        raise MismatchError(
            f"The {name} step has no relative size: every tensor that moves has zero weights or a zero step.",
            "Choose another --direction, or other tensors.",
        )
    scale = 1.0 / largest
    moves = tuple(
        replace(move, coefficient=scale * move.coefficient, step_norm=scale * move.step_norm)
        for move in plain
        if move.step_norm > 0.0
    )
    skipped = tuple(Skipped(move.tensor.name, Still.ZERO_GRADIENT) for move in plain if move.step_norm == 0.0)
    return Direction(name, scale, moves, skipped, source)


def random_direction(problem: Problem, tensors: Sequence[TrainableTensor], seed: int) -> Direction:
    """A Gaussian direction with ||d_l|| = ||W_l||, drawn again from its seed whenever it is needed."""
    table = RandomTensors(seed, sum(tensor.parameter.numel() for tensor in tensors), tensors[0].parameter)

    def draw(tensor: TrainableTensor) -> Tensor:
        return table.draw(tensor.name, tensor.parameter.shape)

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
