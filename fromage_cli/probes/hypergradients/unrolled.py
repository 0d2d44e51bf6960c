"""The derivative of the validation loss after N more training steps, by every hyperparameter, in one backward sweep.

The real steps are taken first. Weights, moments and running statistics are kept before each of them. Where these take
too much memory, they are kept before every sqrt(N)-th step, and the steps between are taken again. Then the adjoint is
pulled back from the last step to the first: through the optimizer's step, and through the gradient by a Hessian-vector
product.
Sources: Maclaurin, Duvenaud, Adams, *Gradient-based hyperparameter optimization through reversible learning*, ICML
2015; Engstrom et al., *Optimizing ML training with metagradient descent*, arXiv 2503.13751.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fromage_cli.counting import counted
from fromage_cli.errors import ResourceError
from fromage_cli.probes.hypergradients.hyperparameters import Values
from fromage_cli.probes.hypergradients.training_steps import Adjoint, Graphs, RunState, TrainingSteps
from fromage_cli.probes.hypergradients.validation import Validation, require_finite
from fromage_cli.problem.conditions.budget import free_memory
from fromage_cli.problem.evaluation.gradient_pullback import can_be_kept
from fromage_cli.problem.evaluation.problem import Problem

SHARE = 0.7
"""Of the free memory that states may take; graphs and activations take some too."""


@dataclass(frozen=True)
class Unrolled:
    """Derivatives of the validation loss after the steps."""

    start_loss: float
    """Validation loss at the checkpoint."""
    end_loss: float
    """The same after the steps."""
    rates: dict[str, float]
    """By each tensor's learning rate."""
    decays: dict[str, float]
    """By each tensor's weight decay."""
    loss: dict[str, float]
    """By each scalar of the training loss."""

    def at(self, place: str) -> dict[str, float]:
        """Those by what acts in one place; none by dropout, which has no derivative."""
        return {"decay": self.decays, "rate": self.rates, "loss": self.loss}.get(place, {})


def unroll(
    steps: TrainingSteps,
    validation: Validation,
    values: Values,
    *,
    copies: int | None = None,
    keep_graphs: bool = True,
    advance: Callable[[], None] = lambda: None,
) -> Unrolled:
    """Differentiates the validation loss after all steps by every hyperparameter.

    `copies`: states held at once at most, by default all; `keep_graphs`: whether graphs of gradients may be held too.
    A step costs one gradient and, backwards, a gradient and a Hessian-vector product; the product alone where the graph
    was held. It costs another gradient where not all states are held. `advance` is called after every step
    forwards and backwards. Raises NumericalError where a loss is not finite, MismatchError where the loss has no second
    derivative, ResourceError at a limit.
    """
    count = len(steps.batches)
    length = count if copies is None or copies >= count else segment_length(count)
    with steps.from_checkpoint() as start:
        begin = validation.problem.value()
        kept: dict[int, RunState] = {}
        last = (count - 1) // length * length  # the last stretch is held as it is taken, with its graphs

        def keep(step: int, state: Callable[[], RunState]) -> RunState | None:
            advance()
            if step >= last:
                return keep_again(step, state)
            if step % length == 0:
                kept[step] = state()
            return None

        def keep_again(step: int, state: Callable[[], RunState]) -> RunState:
            kept[step] = state()
            return kept[step]

        graphs = Graphs(room_for_graphs(steps, copies)) if keep_graphs and can_be_kept(steps.problem) else None
        steps.run(start, values, keep=keep, graphs=graphs)
        end = validation.gradient(steps.tensors, steps.statistics)
        require_finite(end.loss, count)
        adjoint = Adjoint(end.weights, {}, end.buffers, {}, {}, {})
        for first in range(last, -1, -length):
            end_of_stretch = min(first + length, count)
            if first != last:
                steps.run(kept[first], values, first, end_of_stretch, keep=keep_again, graphs=graphs, finish=False)
            for step in reversed(range(first, end_of_stretch)):
                graph = graphs.taken(step) if graphs is not None else None
                adjoint = steps.pull_back(step, kept.pop(step), values, adjoint, graph)
                advance()
    return Unrolled(begin, end.loss, adjoint.rates, adjoint.decays, adjoint.loss)


def copies_that_fit(steps: TrainingSteps) -> int | None:
    """How many states may be held: None for all of them, else those of the square root of the steps.

    Raises ResourceError where not even these fit into the memory that is free.
    """
    count, size, problem = len(steps.batches), _state_size(steps), steps.problem
    free, length = _free_for_each(problem), segment_length(count)
    if free is None or (count + 3) * size <= SHARE * free:
        return None
    if (2 * length + 3) * size <= SHARE * free:
        return 2 * length
    raise ResourceError(
        f"Looking back through {counted(count, 'step')} holds {2 * length} states of the run, "
        f"{(2 * length + 3) * size / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free.",
        "Ask for fewer steps (--method unroll:N), or use --method gauss-newton.",
    )


def room_for_graphs(steps: TrainingSteps, copies: int | None) -> float:
    """Bytes that graphs of gradients may take beside the states: half of what is left, none where nothing tells."""
    free = _free_for_each(steps.problem)
    held = len(steps.batches) if copies is None else copies
    return 0.0 if free is None else max(0.0, 0.5 * (SHARE * free - (held + 3) * _state_size(steps)))


def _free_for_each(problem: Problem) -> float | None:
    """Bytes that every rank can have, where all of them may be on one machine; None where nothing tells."""
    own = free_memory(problem.device, problem.budget)
    least = min(problem.ranks.of_each(-1.0 if own is None else float(own)))
    return None if least < 0.0 else least / problem.ranks.count


def _state_size(steps: TrainingSteps) -> int:
    """Bytes of a state of the run."""
    slots = sum(slot != "step" for slot in steps.record.slots) if steps.matched.optimizer.remembers else 0
    return (1 + slots) * sum(tensor.parameter.nbytes for tensor in steps.tensors)


def segment_length(steps: int) -> int:
    """Steps between two states that are kept: about as many as there are such states."""
    return math.ceil(math.sqrt(steps))
