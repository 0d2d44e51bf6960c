"""The neural quadratic model along a step: how far it holds, and what training does in it.

f + J d + d^T H_f d / 2 for each sample and output, put into the loss. One expansion gives the loss along a whole line;
training in it takes a new expansion for every step. Source: Zhu et al., *Quadratic models for understanding catapult
dynamics*, ICLR 2024.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fromage_cli.errors import ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.probes.lines.critical import moved_along
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.training import Training, training
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.output_expansion import expand_outputs, model_gradient, model_loss
from fromage_cli.problem.evaluation.problem import Problem

SHARE = 0.1
"""Of the change of the loss: by how much the model may miss it."""
GRID = tuple(2.0 ** (half / 2.0) for half in range(-8, 5))
"""Rates at which both losses are taken, in units of the rate that the search starts from: 1/16 to 4."""
HALVINGS = 12
"""How far below the grid the radius is looked for."""
PRECISION = 1.05
"""The radius is known up to this factor."""
SPIKE = 1.02
"""Loss over the first one from which on a simulated training has spiked.

In docs/run-study.md none of 23 healthy runs rose further. 14 of 15 whose steps were too large did.
"""
DIVERGED = 1e8
"""Loss over the first one at which a simulated training is given up."""

Relation = Literal["crossing", "above-grid", "below-grid"]
Outcome = Literal["falls", "spikes", "rises", "diverges"]


@dataclass(frozen=True)
class ModelLine:
    """The loss and the model's loss along w - rate * step."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Of the network; may be infinite."""
    model_losses: tuple[float, ...]
    radius: float | None
    """Smallest rate, if any, where the model misses the loss by over a tenth of its largest change so far."""
    relation: Relation
    """`crossing`; `above-grid`: the model holds at every rate; `below-grid`: at none."""


@dataclass(frozen=True)
class SimulatedTraining:
    """The loss of the quadratic model under steps of the optimizer."""

    losses: tuple[float, ...]
    """Before the first step, then after each."""
    outcome: Outcome
    """`falls`; `spikes`: above the start and back below it; `rises`: not yet back; `diverges`."""


def measure_line(problem: Problem, space: WeightSpace, step: Mapping[str, Tensor], start: float) -> ModelLine:
    """Measures the loss and its quadratic model along a step, and the radius within which they agree.

    `start`: the rate around which they are compared. Costs one expansion and 13 to about 20 forward passes; rates
    between two of the grid are not looked at. The weights are afterwards as before.
    """
    direction = [-step[tensor.name] for tensor in space.tensors]
    expansions = expand_outputs(problem, space, direction)
    base = problem.value()
    rounding = 32.0 * torch.finfo(problem.dtype).eps * abs(base)
    seen: dict[float, tuple[float, float]] = {}

    def change(rate: float) -> float:
        """The largest change of the loss on the way; where it is back at its start, a miss is held against this."""
        return max(abs(true - base) for at, (true, _) in seen.items() if at <= rate)

    with moved_along(problem, space.tensors, step) as move:

        def fits(rate: float) -> bool:
            move(rate)
            true, modelled = problem.value(), model_loss(problem, expansions, rate)
            seen[rate] = true, modelled
            return abs(modelled - true) <= SHARE * change(rate) + rounding

        radius, relation = _radius(fits, [start * factor for factor in GRID])
    rates = tuple(sorted(seen))
    losses, model_losses = zip(*(seen[rate] for rate in rates), strict=True)
    return ModelLine(rates, losses, model_losses, radius, relation)


def _radius(fits: Callable[[float], bool], rates: Sequence[float]) -> tuple[float | None, Relation]:
    """The smallest rate that does not fit, between the last that does and the first that does not."""
    fitting = [fits(rate) for rate in rates]
    if all(fitting):
        return None, "above-grid"
    first = fitting.index(False)
    high = rates[first]
    low = rates[first - 1] if first else high / 2.0
    if not first:
        for _ in range(HALVINGS):
            if fits(low):
                break
            low, high = low / 2.0, low
        else:
            return None, "below-grid"
    while high > PRECISION * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return math.sqrt(low * high), "crossing"


def simulate_training(
    matched: MatchedState, space: WeightSpace, *, steps: int, advance: Callable[[], None] = lambda: None
) -> SimulatedTraining | Interrupted[SimulatedTraining]:
    """Takes full-batch steps of the real optimizer, with its state, on the quadratic model instead of the network.

    Ends early when the loss is back below its start after a spike, or `DIVERGED`. Each step costs one expansion and one
    Hessian-vector product. The weights are afterwards as before. Raises MismatchError for a state with gaps.
    """
    problem, rate, stopped = matched.problem, matched.optimizer.learning_rate, None
    losses = [problem.base.loss]
    floor = torch.finfo(problem.dtype).eps ** 2
    gradient = [problem.base.gradients[tensor.name] for tensor in space.tensors]
    assert rate is not None
    with training(matched) as run:
        run.start(rate)
        position = _Position(run, space)
        try:
            while len(losses) <= steps and outcome_of(losses, floor) not in ("spikes", "diverges"):
                position.step(gradient)
                loss, gradient = model_gradient(problem, space, position.displacement())
                losses.append(loss)
                advance()
        except ResourceError as limit:
            stopped = limit
    simulated = SimulatedTraining(tuple(losses), outcome_of(losses, floor))
    return simulated if stopped is None else Interrupted(simulated, stopped)


def outcome_of(losses: Sequence[float], floor: float = 0.0) -> Outcome:
    """What the losses of a training have done.

    A start of at most `floor` is zero but for rounding. Growth is then measured from the first loss above it. Weight
    decay, for example, takes weights away from an exact fit.
    """
    start = next((loss for loss in losses if not loss <= floor), floor)
    if any(not loss <= DIVERGED * start or math.isinf(loss) for loss in losses):
        return "diverges"
    if max(losses) <= SPIKE * max(losses[0], floor):
        return "falls"
    return "spikes" if losses[-1] < losses[0] else "rises"


class _Position:
    """Where a simulated training stands, while the network itself stays at its own weights."""

    def __init__(self, run: Training, space: WeightSpace) -> None:
        self.run, self.space = run, space
        self.reached = [weight.detach().clone() for weight in space.weights]

    def displacement(self) -> list[Tensor]:
        """How far it is from the network's own weights, tensors shaped as the weights."""
        return [a - w.detach() for a, w in zip(self.reached, self.space.weights, strict=True)]

    def step(self, gradient: Sequence[Tensor]) -> None:
        """One step of the optimizer from there."""
        try:
            for weight, reached, part in zip(self.space.weights, self.reached, gradient, strict=True):
                weight.data.copy_(reached)
                weight.grad = part
            self.run.move()
            self.reached = [weight.detach().clone() for weight in self.space.weights]
        finally:
            self.run.problem.drop_gradients()
            for tensor in self.space.tensors:
                tensor.parameter.data.copy_(self.run.origin[tensor.name])
