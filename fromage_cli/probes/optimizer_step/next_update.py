"""The next update of an optimizer with everything that is known of it: its line, its noise, what it may count on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.probes.optimizer_step.gradient_noise import GradientNoise, measure_noise, noise_chunks
from fromage_cli.probes.optimizer_step.next_step import NextStep, holds_memory, measure_next_step, rate_shares
from fromage_cli.probes.optimizer_step.optimizer import Optimizer
from fromage_cli.probes.optimizer_step.step_direction import StepLine, step_line
from fromage_cli.probes.optimizer_step.update_rules import Memory
from fromage_cli.problem.layers import TrainableTensor
from fromage_cli.problem.problem import Problem
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.conversions import averaging_gain, stationary_gain
from fromage_cli.theory.gradient_noise import cosine_error, cosine_to_step_error

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

    optimizer: Optimizer
    step: NextStep
    line: StepLine
    noise: GradientNoise | None
    """None where the rows cannot be cut."""
    memory: Mapping[str, Memory]
    """What stands in for a missing state; empty where none is needed."""
    cosines: Mapping[str, Cosine]
    """Of a training batch, by tensor name; decoupled decay left out."""
    levels: Mapping[str, float]
    """The cosine that a certificate may count on, decay included where it works against descent.

    Of a step with the gradient of all rows, or of a training batch where its size was given.
    """
    relative_steps: Mapping[str, float]
    """sqrt(E||u_l||^2) / ||W_l|| over training batches, by layer, per unit of learning rate."""

    def moved(self, tensors: Sequence[TrainableTensor]) -> dict[str, Tensor]:
        """The u of those tensors that move."""
        return {tensor.name: self.step.moved(tensor) for tensor in tensors if tensor.name in self.step.steps}


def next_update(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    batch_size: int | None = None,
    chunks: int = CHUNKS,
) -> NextUpdate:
    """The next update for training batches of `batch_size` rows (those of the first batch, without a number).

    Costs the base gradient and one more over all rows. A rule that remembers takes the whole batch's gradient, its
    memory from the state or else from the chunks. Raises MismatchError when the state does not fit or nothing moves.
    """
    parts = noise_chunks(problem, chunks, batch_size)
    noise: GradientNoise | None = None
    memory: Mapping[str, Memory] = {}
    known = holds_memory(optimizer, state)
    if known or not optimizer.remembers:
        step = measure_next_step(problem, optimizer, state)
        if parts:
            updates = {name: found.update for name, found in step.steps.items()} if optimizer.remembers else None
            noise = measure_noise(problem, parts, step=updates)
    else:
        if parts:
            noise = measure_noise(problem, parts, batch_size=batch_size, remember=True)
        memory, source = stand_in(problem, noise)
        step = measure_next_step(problem, optimizer, state, memory, source)
    line = step_line(problem, tensors, step, optimizer.name or "sgd")
    size = batch_size or problem.batch.size
    averaged = size * (1.0 if known else _averaging(optimizer))
    factors = _noise_factors(optimizer, noise, averaged, known)
    drawn = averaged if batch_size is not None or problem.further else size  # a single batch may be all there is
    return NextUpdate(
        optimizer=optimizer,
        step=step,
        line=line,
        noise=noise,
        memory=memory,
        cosines=_cosines(line, step, noise, factors, averaged),
        levels={
            move.tensor.name: min(line.cosines[move.tensor.name], move.cosine)
            * (factors.get(move.tensor.name, 1.0) if batch_size is not None else 1.0)
            for move in line.direction.moves
        },
        relative_steps=_relative_steps(problem, line, noise, _gains(problem, optimizer, state), drawn),
    )


def stand_in(problem: Problem, noise: GradientNoise | None) -> tuple[Mapping[str, Memory], str]:
    """What an optimizer without state is taken to remember, and words on where that comes from."""
    if noise is not None:
        return noise.memory, f"its memory from {noise.count} gradients of {noise.rows} rows each at fixed weights"
    gradients = problem.base.gradients
    return (
        {name: Memory(gradient, gradient.square()) for name, gradient in gradients.items()},
        "its memory from the gradient of all rows, which cannot be cut",
    )


def _averaging(optimizer: Optimizer) -> float:
    """Over how many batches a filled buffer averages, where the step is linear in the gradients it remembers."""
    if optimizer.name not in ("sgd", "lars"):
        return 1.0
    return averaging_gain(optimizer.momentum, optimizer.dampening, optimizer.nesterov)


def _noise_factors(optimizer: Optimizer, noise: GradientNoise | None, averaged: float, known: bool) -> dict[str, float]:
    """What noise leaves of the cosine of a step with the gradients of `averaged` rows.

    Empty for a step of memory, which holds the noise already, and for Adam's kin, whose memory is many gradients long.
    """
    if noise is None or (optimizer.remembers and (known or optimizer.name not in ("sgd", "lars"))):
        return {}
    return {name: max(noise.moments(name).cosine(averaged), 0.0) for name in noise.chunks}


def _cosines(
    line: StepLine, step: NextStep, noise: GradientNoise | None, factors: Mapping[str, float], size: float
) -> dict[str, Cosine]:
    found = {}
    for name, cosine in line.cosines.items():
        error = None
        if noise is not None and name in factors:
            error = cosine_error(noise.chunks[name], size)
        elif noise is not None and name in noise.along:
            error = cosine_to_step_error(noise.chunks[name], noise.along[name], norm(step.steps[name].update))
        found[name] = Cosine(cosine * factors.get(name, 1.0), error)
    return found


def _relative_steps(
    problem: Problem,
    line: StepLine,
    noise: GradientNoise | None,
    gains: Mapping[str, float],
    size: float,
) -> dict[str, float]:
    """Steps that are linear in the gradient grow with its noise; the others have one length whatever the noise.

    Never below what the noise of `size` rows makes alone, since the signal's square is not negative.
    """
    if noise is None or not gains:
        return dict(line.relative_steps)
    weights = {tensor.name: norm(tensor.parameter) for tensor in problem.receiving}
    found = {}
    for name, relative in line.relative_steps.items():
        factor = gains[name] / weights[name]
        noisy = factor**2 * noise.moments(name).variance
        found[name] = max(relative**2 + noisy / size - noisy / problem.rows, noisy / size) ** 0.5
    return found


def _gains(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> dict[str, float]:
    """How much of the new gradient is in each step of SGD; without a buffer, of all the gradients before it."""
    if optimizer.name != "sgd":
        return {}
    gain = 1.0
    if optimizer.momentum:
        known = holds_memory(optimizer, state)
        fresh = 1.0 - optimizer.dampening if known else stationary_gain(optimizer.momentum, optimizer.dampening)
        gain = 1.0 + optimizer.momentum * fresh if optimizer.nesterov else fresh
    shares = rate_shares(problem, optimizer, state)
    return {tensor.name: gain * shares.get(tensor.name, 1.0) for tensor in problem.receiving}


def on_rows(update: NextUpdate, problem: Problem, state: OptimizerState | None) -> NextStep:
    """The next step with the gradient of other rows alone; what stands in for the mean gradient is theirs too."""
    memory = {
        name: replace(kept, mean=problem.base.gradients[name])
        for name, kept in update.memory.items()
        if name in problem.base.gradients
    }
    return measure_next_step(problem, update.optimizer, state, memory)
