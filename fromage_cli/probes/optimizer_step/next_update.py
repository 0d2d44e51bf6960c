"""The next update of an optimizer with everything that is known of it: its line, its noise, what it may count on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fromage_cli.errors import MismatchError
from fromage_cli.missing import Missing, Why, failed, known
from fromage_cli.optimizers.rule import SGD
from fromage_cli.probes.optimizer_step.gradient_noise import GradientNoise, measure_noise, noise_chunks
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_step import NextStep, measure_next_step
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates
from fromage_cli.probes.optimizer_step.step_direction import StepLine, step_line
from fromage_cli.probes.optimizer_step.step_noise import (
    averaged_length,
    averaging,
    conditioned_noise,
    noise_factors,
    noise_of_steps,
    relative_steps,
)
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.gradient_noise import cosine_error, cosine_to_step_error

ALL_ROWS = "the gradient of all rows, which cannot be split into batches"
CHUNKS = 16
"""Into about how many the rows are cut for the noise, and for what stands in for missing memory."""


@dataclass(frozen=True)
class Cosine:
    """How far a step agrees with descent."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class NextUpdate:
    """One optimizer's next update from a problem's weights."""

    matched: MatchedState
    step: NextStep
    line: StepLine
    noise: GradientNoise | Missing
    memory: Mapping[str, MomentEstimates]
    """What stands in for a missing state; empty where none is needed."""
    source: str
    """Words on where that comes from."""
    cosines: Mapping[str, Cosine]
    """Of a training batch, by tensor name; decoupled decay left out."""
    levels: Mapping[str, float]
    """The cosine that a certificate may count on, decay included where it works against descent.

    Of a step with the gradient of all rows, or of a training batch where its size was given.
    """
    sampled: bool
    """Whether training batches are parts of the rows, each with a step of its own, and not all of them."""
    relative_steps: Mapping[str, float]
    """sqrt(E||u_l||^2) / ||W_l|| over training batches, by layer, per unit of learning rate."""

    @property
    def filled(self) -> bool:
        """Whether momentum is taken to be built up, since no state holds its buffer."""
        return self.matched.optimizer.momentum > 0.0 and not self.matched.holds_memory

    def moved(self, tensors: Sequence[TrainableTensor]) -> dict[str, Tensor]:
        """The u of those tensors that move."""
        return {tensor.name: self.step.moved(tensor) for tensor in tensors if tensor.name in self.step.steps}


def next_update(
    matched: MatchedState,
    tensors: Sequence[TrainableTensor],
    *,
    batch_size: int | None = None,
    chunks: int = CHUNKS,
) -> NextUpdate:
    """The next update for training batches of `batch_size` rows (those of the first batch, without a number).

    Costs the base gradient and one more over all rows. A rule that remembers takes the whole batch's gradient, its
    memory from the state or else from the chunks. Raises MismatchError when the state does not fit or nothing moves.
    """
    problem, optimizer = matched.problem, matched.optimizer
    parts = noise_chunks(problem, chunks, batch_size)
    memory: Mapping[str, MomentEstimates] = {}
    source = ""
    held = matched.holds_memory
    if held or not optimizer.remembers:
        step = measure_next_step(matched)
        updates = {name: found.update for name, found in step.steps.items()} if optimizer.remembers else None
        measured = _noise(problem, parts, batch_size=batch_size, step=updates)
    else:
        measured = _noise(problem, parts, batch_size=batch_size, remember=True)
        memory, source = stand_in(problem, known(measured))
        step = measure_next_step(matched, memory, f"its state estimated from {source}")
    noise = known(measured)
    line = step_line(problem, tensors, step, optimizer.name or SGD.name)
    size = batch_size or problem.batch.size
    averaged = size * (1.0 if held else averaging(optimizer))
    sampled = batch_size is not None or bool(problem.further)  # else a single batch may be all there is
    conditioned = conditioned_noise(optimizer, noise, size) if batch_size is not None else {}
    factors = noise_factors(optimizer, noise, averaged, held) or {
        name: each.cosine_factor(averaged) for name, each in conditioned.items()
    }
    varying = noise_of_steps(matched, noise, conditioned)
    return NextUpdate(
        matched=matched,
        step=step,
        line=line,
        noise=measured,
        memory=memory,
        source=source,
        cosines=_cosines(line, step, noise, factors, averaged),
        levels={
            name: min(line.cosines[name], move.cosine) * (factors.get(name, 1.0) if batch_size is not None else 1.0)
            for move in line.direction.moves
            for name in [move.tensor.name]
        },
        sampled=sampled,
        relative_steps={
            name: relative * (averaged_length(optimizer, noise, name, size) if sampled and not held else 1.0)
            for name, relative in relative_steps(problem, line, noise, varying, averaged if sampled else size).items()
        },
    )


def _noise(problem: Problem, parts: list[Batch], **how: Any) -> GradientNoise | Missing:
    """The noise of the parts, or why there is none."""
    if not parts:
        code = Why.BATCH_STATISTICS if problem.uses_batch_statistics else Why.TOO_FEW_ROWS
        return Missing(code, "the rows cannot be split")
    try:
        return measure_noise(problem, parts, **how)
    except MismatchError as error:
        return failed(error)


def memory_of_minibatches(problem: Problem, batch_size: int | None) -> tuple[Mapping[str, MomentEstimates], str]:
    """What an optimizer without state is taken to remember, as `next_update` takes it; at most one gradient more."""
    return stand_in(
        problem, known(_noise(problem, noise_chunks(problem, CHUNKS, batch_size), batch_size=batch_size, remember=True))
    )


def stand_in(problem: Problem, noise: GradientNoise | None) -> tuple[Mapping[str, MomentEstimates], str]:
    """What an optimizer without state is taken to remember, and words on where that comes from."""
    if noise is not None:
        rows = "1 row" if noise.rows == 1 else f"{noise.rows} rows"
        return noise.memory, f"{noise.count} gradients of {rows} each at fixed weights"
    gradients = problem.base.gradients
    return (
        {name: MomentEstimates(gradient, gradient.square()) for name, gradient in gradients.items()},
        ALL_ROWS,
    )


def _cosines(
    line: StepLine, step: NextStep, noise: GradientNoise | None, factors: Mapping[str, float], size: float
) -> dict[str, Cosine]:
    found = {}
    for name, cosine in line.cosines.items():
        error = None
        if noise is not None and name in factors:
            error = cosine_error(noise.chunks[name], size)
            error = abs(cosine) * error if error is not None else None
        elif noise is not None and name in noise.along:
            error = cosine_to_step_error(noise.chunks[name], noise.along[name], norm(step.steps[name].update))
        found[name] = Cosine(cosine * factors.get(name, 1.0), error)
    return found


def on_rows(update: NextUpdate, problem: Problem) -> NextStep:
    """The next step with the gradient of other rows alone; what stands in for the mean gradient is theirs too.

    Where nothing but one gradient stands in for the memory, so are its squares: over those of other rows, entries that
    happen to be small there would take all of the step.
    """
    gradients = problem.base.gradients
    if isinstance(update.noise, Missing) and update.memory:
        memory, _ = stand_in(problem, None)
    else:
        memory = {n: replace(kept, mean=gradients[n]) for n, kept in update.memory.items() if n in gradients}
    return measure_next_step(update.matched.on(problem), memory)
