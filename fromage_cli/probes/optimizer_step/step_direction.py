"""The straight line along an optimizer's real step, and how much of each tensor's step a certificate may count on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fromage_cli.probes.lines.direction import Direction, Skipped
from fromage_cli.probes.lines.updates import scaled_step
from fromage_cli.probes.optimizer_step.next_step import NextStep
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import inner_product, norm


@dataclass(frozen=True)
class StepLine:
    """A real step as a line through the weights; eta is the largest relative step of a layer that has one."""

    direction: Direction
    cosines: Mapping[str, float]
    """Between each tensor's step, decoupled decay left out, and descent on the problem's rows; 0 without a gradient."""
    relative_steps: Mapping[str, float]
    """||u_l|| / ||W_l|| by layer, per unit of learning rate, decay included; of layers that have a relative size."""
    learning_rate: float
    """At eta = 1."""
    highest: float
    """The eta at which the network as a whole moves by its own norm."""
    limiting: str | None
    """The layer whose relative step is eta; None where no layer has a relative size."""

    @property
    def descent(self) -> float:
        """How fast the loss falls along it at the start, -<g, dW>/eta."""
        return -self.direction.slope


def step_line(problem: Problem, tensors: Sequence[TrainableTensor], step: NextStep, name: str) -> StepLine:
    """The line w - eta * s * u of the step's tensors, s such that eta is the largest relative step.

    Raises MismatchError when nothing moves.
    """
    moving = [tensor for tensor in tensors if tensor.name in step.steps]
    scaled = scaled_step(problem, name, moving, step.moved)
    left_out = tuple(Skipped(t.name, f"not updated by {name}") for t in tensors if t.name not in step.steps)
    direction = replace(scaled.direction, skipped=(*scaled.direction.skipped, *left_out))
    cosines = {}
    for tensor in moving:
        gradient, update = problem.base.gradients[tensor.name], step.steps[tensor.name].update
        size = norm(gradient) * norm(update)
        cosine = inner_product(gradient, update) / size if size > 0.0 else 0.0
        cosines[tensor.name] = max(-1.0, min(1.0, cosine))
    return StepLine(direction, cosines, scaled.relative.steps, direction.step_scale, scaled.highest, scaled.limiting)
