"""What the noise of training batches makes of an optimizer's step: how long it is, how far it agrees with descent.

At fixed weights, once the memory is full: what is linear in the gradients averages over several batches. What divides
by second moments does so with those of the batches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.gradient_noise import GradientNoise
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.step_direction import StepLine
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.accumulation import inner_product, norm
from fromage_cli.theory.conversions import averaging_gain, stationary_gain
from fromage_cli.theory.gradient_noise import signal_doubt


def averaging(optimizer: Optimizer) -> float:
    """Over how many batches a filled buffer averages, where the step is linear in the gradients it remembers."""
    if _averages(optimizer) == "betas":
        return averaging_gain(optimizer.betas[0], optimizer.betas[0])
    if _averages(optimizer) == "momentum":
        return averaging_gain(optimizer.momentum, optimizer.dampening, optimizer.nesterov)
    return 1.0


def _averages(optimizer: Optimizer) -> str | None:
    return optimizer.rule.averages if optimizer.rule is not None else None


def noise_factors(optimizer: Optimizer, noise: GradientNoise | None, averaged: float, known: bool) -> dict[str, float]:
    """What noise leaves of the cosine of a step with the gradients of `averaged` rows.

    Empty for a step of memory, which holds the noise already, and for rules not linear in their memory.
    """
    if noise is None or (optimizer.remembers and (known or _averages(optimizer) != "momentum")):
        return {}
    return {name: max(noise.moments(name).cosine(averaged), 0.0) for name in noise.chunks}


@dataclass(frozen=True)
class ConditionedNoise:
    """Noise in Adam's step m / (sqrt(v) + eps) of one tensor, whose memory stands in for that of training batches."""

    cosine: float
    """Between the step along the mean over the rows, and descent on them."""
    signal: float
    """||g||^2 without bias."""
    along: float
    """sum g^2 / sqrt(v), without bias."""
    size: float
    """||u||^2 of the mean over the rows."""
    variance: float
    """tr Cov of the step, per sample."""
    rows: int
    """Over which the mean is."""

    def cosine_factor(self, averaged: float) -> float:
        """What the cosine is multiplied by where the mean is over `averaged` rows: E<g, u> / (||g|| sqrt(E||u||^2))."""
        length = max(self.size + self.variance * (1.0 / averaged - 1.0 / self.rows), self.variance / averaged)
        if min(self.signal, self.along, self.cosine, length) <= 0.0:
            return 0.0
        return min(self.along / math.sqrt(self.signal * length), 1.0) / self.cosine


def conditioned_noise(optimizer: Optimizer, noise: GradientNoise | None, size: int) -> dict[str, ConditionedNoise]:
    """For rules that divide by second moments, where the noise gave their memory."""
    if noise is None or _averages(optimizer) != "betas":
        return {}
    found, rows = {}, noise.rows * noise.count
    for name, kept in noise.memory.items():
        assert kept.square is not None
        root = kept.square.sqrt().add_(optimizer.epsilon)
        spread = (kept.square - kept.mean.square()).clamp_(min=0.0)  # variance of an entry over training batches
        update = kept.mean / root
        along, length = inner_product(kept.mean, update), norm(update)
        whole = norm(kept.mean) * length
        found[name] = ConditionedNoise(
            cosine=along / whole if whole > 0.0 else 0.0,
            signal=noise.moments(name).squared_norm,
            along=along - size / rows * inner_product(spread, root.reciprocal()),
            size=length**2,
            variance=size * inner_product(spread / root, root.reciprocal()),
            rows=rows,
        )
    return found


def averaged_length(optimizer: Optimizer, noise: GradientNoise | None, name: str, size: int) -> float:
    """How much shorter a filled buffer of normalised gradients is than if all were equal: LARS's.

    Two of them have the cosine c^2, where c is that of one batch with the gradient of all.
    E||sum h_k g_k||^2 = S + ((sum h_k)^2 - S) c^2, with S = sum h_k^2.
    """
    if noise is None or _averages(optimizer) != "momentum" or not (optimizer.rule and optimizer.rule.relative):
        return 1.0
    alone = 1.0 / averaging(optimizer)
    return math.sqrt(alone + (1.0 - alone) * max(noise.moments(name).cosine(size), 0.0) ** 2)


def relative_steps(
    problem: Problem, line: StepLine, noise: GradientNoise | None, varying: Mapping[str, float], size: float
) -> dict[str, float]:
    """sqrt(E||u_l||^2) / ||W_l|| with the noise of `size` rows in the place of that of all; `varying`: per sample.

    Never below what that noise makes alone, nor below the standard error of the signal: a step that is not told from
    noise is not taken to vanish in large batches.
    """
    if noise is None:
        return dict(line.relative_steps)
    weights = {tensor.name: norm(tensor.parameter) for tensor in problem.receiving}
    found = {}
    for name, relative in line.relative_steps.items():
        noisy = varying.get(name, 0.0) / weights[name] ** 2
        least = max(noisy / size, signal_doubt(noise.chunks[name]) * relative**2) if noisy > 0.0 else 0.0
        found[name] = max(relative**2 + noisy / size - noisy / problem.rows, least) ** 0.5
    return found


def noise_of_steps(
    matched: MatchedState, noise: GradientNoise | None, conditioned: Mapping[str, ConditionedNoise]
) -> dict[str, float]:
    """The trace of the steps' covariance per sample: of the new gradient in each; without memory, of all before it too.

    Empty for rules other than SGD and Adam, and for Adam where it is not `conditioned`: their steps are taken to have
    one length whatever the noise.
    """
    optimizer = matched.optimizer
    if noise is None or optimizer.rule is None or optimizer.rule.threshold is None:
        return {}
    shares = matched.rate_shares
    if optimizer.adaptive:
        return {name: shares.get(name, 1.0) ** 2 * each.variance for name, each in conditioned.items()}
    gain = 1.0
    if optimizer.momentum:
        fresh = (
            1.0 - optimizer.dampening
            if matched.holds_memory
            else stationary_gain(optimizer.momentum, optimizer.dampening)
        )
        gain = 1.0 + optimizer.momentum * fresh if optimizer.nesterov else fresh
    return {name: (gain * shares.get(name, 1.0)) ** 2 * noise.moments(name).variance for name in noise.chunks}
