"""The straight line along an optimizer's real step, and how much of each tensor's step a certificate may count on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fromage_cli.errors import MismatchError
from fromage_cli.probes.lines.direction import Direction, Skipped, Still, measured_move
from fromage_cli.probes.optimizer_step.next_step import NextStep
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import inner_product, norm


@dataclass(frozen=True)
class StepLine:
    """A real step as a line through the weights; eta is the largest relative step of a layer."""

    direction: Direction
    cosines: Mapping[str, float]
    """Between each tensor's step, decoupled decay left out, and descent on the problem's rows; 0 without a gradient."""
    relative_steps: Mapping[str, float]
    """||u_l|| / ||W_l|| by layer, per unit of learning rate, decay included."""
    learning_rate: float
    """At eta = 1."""
    limiting: str
    """The layer whose relative step is eta."""

    @property
    def descent(self) -> float:
        """How fast the loss falls along it at the start, -<g, dW>/eta."""
        return sum(move.gradient_norm * move.step_norm * move.cosine for move in self.direction.moves)


def step_line(problem: Problem, tensors: Sequence[TrainableTensor], step: NextStep, name: str) -> StepLine:
    """The line w - eta * s * u of the tensors that the step covers, s such that eta is the largest relative step.

    Raises MismatchError when no layer moves.
    """
    moving = [tensor for tensor in tensors if tensor.name in step.steps]
    plain = [measured_move(problem, tensor, -1.0, step.moved(tensor)) for tensor in moving]
    known = {move.tensor.name: move.relative_step for move in plain if move.relative_step is not None}
    layers = [name for name in known if next(t for t in moving if t.name == name).is_layer]
    relative = {name: known[name] for name in (layers or known) if known[name] > 0.0}
    if not relative:
        raise MismatchError(
            f"The next step of {name} moves no layer: every one has zero weights or a zero step.",
            "Choose other tensors, or another --optimizer.",
        )
    limiting = max(relative, key=lambda each: relative[each])
    scale = 1.0 / relative[limiting]
    moves = [
        measured_move(problem, move.tensor, -scale, step.moved(move.tensor)) for move in plain if move.step_norm > 0.0
    ]
    still = [Skipped(move.tensor.name, Still.ZERO_GRADIENT) for move in plain if move.step_norm == 0.0]
    still += [Skipped(t.name, f"not covered by {name}") for t in tensors if t.name not in step.steps]
    by_name = {tensor.name: tensor for tensor in moving}
    direction = Direction(name, scale, tuple(moves), tuple(still), lambda tensor: step.moved(by_name[tensor.name]))
    cosines = {}
    for tensor in moving:
        gradient, update = problem.base.gradients[tensor.name], step.steps[tensor.name].update
        size = norm(gradient) * norm(update)
        cosine = inner_product(gradient, update) / size if size > 0.0 else 0.0
        cosines[tensor.name] = max(-1.0, min(1.0, cosine))
    return StepLine(direction, cosines, relative, scale, limiting)
