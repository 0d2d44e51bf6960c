"""Every formula against simulated training with the real optimizers, on scale-invariant losses made of noise alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from fromage_cli.optim import LARS, Lion
from fromage_cli.theory.equilibrium import (
    Equilibrium,
    Gains,
    adam_growth,
    adamw_equilibrium,
    adamw_norm,
    lars_equilibrium,
    lars_growth,
    lars_norm,
    lion_equilibrium,
    lion_growth,
    lion_norm,
    lion_persistence,
    momentum_gains,
    relative_rotation,
    sgd_equilibrium,
    sgd_growth,
    sgd_norm,
)
from fromage_cli.theory.relaxation import after_drop, relaxed, times_until_near

ELEMENTS = 1000
SQUARED_GRADIENT = ELEMENTS - 1.0
Make = Callable[[list[torch.Tensor]], Optimizer]


class Training:
    """One scale-invariant tensor whose gradient is noise: the loss is ⟨ξ, W / ‖W‖⟩ with a fresh ξ each step."""

    def __init__(self, make: Make, norm: float, seed: int = 0, scales: torch.Tensor | None = None) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.scales = torch.ones(ELEMENTS, dtype=torch.float64) if scales is None else scales
        self.weight = self._noise()
        self.weight *= norm / self.weight.norm()
        self.weight.requires_grad_()
        self.optimizer = make([self.weight])
        self.norms: list[float] = []
        self.angles: list[float] = []

    def _noise(self) -> torch.Tensor:
        return self.scales * torch.randn(ELEMENTS, generator=self.generator, dtype=torch.float64)

    def run(self, steps: int, decoupled: float = 0.0) -> "Training":
        for _ in range(steps):
            before = self.weight.detach().clone()
            noise, norm = self._noise(), before.norm()
            direction = before / norm
            self.weight.grad = (noise - direction * (direction @ noise)) / norm
            if decoupled:
                with torch.no_grad():
                    self.weight.mul_(1.0 - decoupled)
            self.optimizer.step()
            after = self.weight.detach()
            self.norms.append(float(after.norm()))
            self.angles.append(float((after / after.norm() - direction).norm()))
        return self

    def warm(self, steps: int = 100) -> "Training":
        """Fill the optimizer's memory at a norm that is held."""
        norm = float(self.weight.detach().norm())
        for _ in range(steps):
            self.run(1)
            with torch.no_grad():
                self.weight.mul_(norm / self.weight.norm())
        self.norms.clear()
        self.angles.clear()
        return self

    def norm(self, last: int) -> float:
        return sum(self.norms[-last:]) / last

    def rotation(self, last: int) -> float:
        return sum(self.angles[-last:]) / last


def sgd(momentum: float = 0.0, nesterov: bool = False, dampening: float = 0.0, rate: float = 0.1) -> Make:
    return lambda tensors: SGD(
        tensors, lr=rate, momentum=momentum, nesterov=nesterov, dampening=dampening, weight_decay=SGD_DECAY
    )


SGD_DECAY, ADAM_DECAY, LARS_DECAY = 0.02, 0.1, 5e-3
BETAS, LION_BETAS = (0.8, 0.9), (0.9, 0.95)
PLAIN, HEAVY = momentum_gains(0.0), momentum_gains(0.9)
NESTEROV, DAMPED = momentum_gains(0.8, nesterov=True), momentum_gains(0.8, dampening=0.5)

TABLE: dict[str, tuple[Make, Equilibrium, float]] = {
    "sgd": (
        sgd(),
        sgd_equilibrium(0.1, SGD_DECAY, PLAIN),
        sgd_norm(0.1, SGD_DECAY, PLAIN, SQUARED_GRADIENT),
    ),
    "sgd, momentum": (
        sgd(0.9, rate=0.01),
        sgd_equilibrium(0.01, SGD_DECAY, HEAVY),
        sgd_norm(0.01, SGD_DECAY, HEAVY, SQUARED_GRADIENT),
    ),
    "sgd, nesterov": (
        sgd(0.8, nesterov=True, rate=0.02),
        sgd_equilibrium(0.02, SGD_DECAY, NESTEROV),
        sgd_norm(0.02, SGD_DECAY, NESTEROV, SQUARED_GRADIENT),
    ),
    "sgd, dampening": (
        sgd(0.8, dampening=0.5, rate=0.04),
        sgd_equilibrium(0.04, SGD_DECAY, DAMPED),
        sgd_norm(0.04, SGD_DECAY, DAMPED, SQUARED_GRADIENT),
    ),
    "adamw": (
        lambda tensors: AdamW(tensors, lr=0.02, betas=BETAS, weight_decay=ADAM_DECAY),
        adamw_equilibrium(0.02, ADAM_DECAY, BETAS),
        adamw_norm(0.02, ADAM_DECAY, ELEMENTS),
    ),
    "lion": (
        lambda tensors: Lion(tensors, lr=0.02, betas=LION_BETAS, weight_decay=ADAM_DECAY),
        lion_equilibrium(0.02, ADAM_DECAY, LION_BETAS),
        lion_norm(0.02, ADAM_DECAY, LION_BETAS, ELEMENTS),
    ),
    "lars": (
        lambda tensors: LARS(tensors, lr=0.06, weight_decay=LARS_DECAY),
        lars_equilibrium(0.06, PLAIN),
        lars_norm(0.06, LARS_DECAY, PLAIN, SQUARED_GRADIENT),
    ),
    "lars, momentum": (
        lambda tensors: LARS(tensors, lr=0.06, momentum=0.8, trust_coefficient=0.2, weight_decay=LARS_DECAY),
        lars_equilibrium(0.012, momentum_gains(0.8)),
        lars_norm(0.012, LARS_DECAY, momentum_gains(0.8), SQUARED_GRADIENT),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_norm_and_rotation_at_equilibrium(name: str) -> None:
    make, found, norm = TABLE[name]
    assert found.relaxation is not None
    span = math.ceil(found.relaxation)
    training = Training(make, 1.15 * norm).run(5 * span)
    assert training.norm(span) == pytest.approx(norm, rel=0.05)
    assert training.rotation(span) == pytest.approx(found.rotation, rel=0.05)


@pytest.mark.parametrize("name", TABLE)
def test_entries_whose_noise_is_of_different_size(name: str) -> None:
    """Standard deviations spread log-normally by a factor of 1.5, and of mean square 1."""
    scales = (0.4 * torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).exp()
    make, found, norm = TABLE[name]
    assert found.relaxation is not None
    span = math.ceil(found.relaxation)
    training = Training(make, norm, scales=scales / scales.square().mean().sqrt()).warm().run(3 * span)
    assert training.norm(2 * span) == pytest.approx(norm, rel=0.05)
    assert training.rotation(2 * span) == pytest.approx(found.rotation, rel=0.05)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("ratio", [2.0, 0.6])
def test_the_way_there(name: str, ratio: float) -> None:
    make, found, norm = TABLE[name]
    assert found.relaxation is not None
    training = Training(make, ratio * norm).warm().run(math.ceil(4 * found.relaxation))
    for times in (0.5, 1.0, 2.0):
        simulated = training.norms[round(times * found.relaxation) - 1] / norm
        assert simulated == pytest.approx(relaxed(ratio, times, found.power), rel=0.05)
    near = next(step for step, value in enumerate(training.norms) if abs(value / norm - 1.0) <= 0.1)
    assert near == pytest.approx(times_until_near(ratio, found.power) * found.relaxation, rel=0.25)


@pytest.mark.parametrize("name", TABLE)
def test_rotation_between_two_times(name: str) -> None:
    make, found, norm = TABLE[name]
    training = Training(make, norm).warm()
    places = [training.weight.detach().clone() for _ in range(800) if training.run(1)]
    units = torch.stack(places) / torch.stack(places).norm(dim=1, keepdim=True)  # [times, elements]
    for steps in (1, 3, 10, 40):
        cosine = float((units[steps:] * units[:-steps]).sum(1).mean())
        assert math.acos(cosine) == pytest.approx(found.rotation_over(steps), rel=0.05)


@pytest.mark.parametrize("name", ["sgd", "sgd, momentum", "adamw", "lion"])
def test_the_effective_rate_after_a_drop_by_ten(name: str) -> None:
    make, found, norm = TABLE[name]
    assert found.relaxation is not None
    training = Training(make, norm).warm().run(50)
    start = training.norm(50)
    for group in training.optimizer.param_groups:
        group["lr"] /= 10.0
    course = after_drop(found, 10.0)
    assert course is not None
    steps = math.ceil(1.4 * course.relaxation)
    training.run(steps)
    for times in (0.01, 0.3, 0.7, 1.3):
        step = round(times * course.relaxation)
        simulated = 0.1 * (start / training.norms[50 + step - 1]) ** found.rate_power
        assert simulated == pytest.approx(course.at(step), rel=0.03)


@pytest.mark.parametrize("ratio", [0.3, 3.0])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_drop_away_from_equilibrium(name: str, ratio: float) -> None:
    course = after_drop(TABLE[name][1], 2.0, ratio)
    assert course is not None
    assert course.at(0) == pytest.approx(0.5) and course.at(1e9) == pytest.approx(course.final)
    assert abs(course.at(course.recovery()) / course.final - 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd_without_decay(momentum: float) -> None:
    gains, rate = momentum_gains(momentum), 0.1 * (1 - momentum)
    training = Training(lambda tensors: SGD(tensors, lr=rate, momentum=momentum), 3.0).run(600)
    assert training.norms[-1] ** 4 == pytest.approx(3.0**4 + 600 * sgd_growth(rate, gains, SQUARED_GRADIENT), rel=0.05)


def test_adam_and_lion_without_decay() -> None:
    adam = Training(lambda tensors: AdamW(tensors, lr=0.01, betas=BETAS, weight_decay=0.0), 5.0).warm().run(800)
    assert adam.norms[-1] ** 2 == pytest.approx(25.0 + 800 * adam_growth(0.01, ELEMENTS), rel=0.05)
    lion = Training(lambda tensors: Lion(tensors, lr=0.001, betas=LION_BETAS), 5.0).warm().run(800)
    assert lion.norms[-1] ** 2 == pytest.approx(25.0 + 800 * lion_growth(0.001, LION_BETAS, ELEMENTS), rel=0.05)


@pytest.mark.parametrize(("decay", "grows"), [(1e-4, True), (2e-3, False)])
def test_lars_with_decoupled_decay_grows_or_shrinks_for_ever(decay: float, grows: bool) -> None:
    gains = momentum_gains(0.5)
    training = Training(lambda tensors: LARS(tensors, lr=0.02, momentum=0.5), 3.0).run(500, decoupled=decay)
    growth = lars_growth(0.02, gains, decay)
    assert math.log(training.norms[-1] / 3.0) == pytest.approx(500 * growth, rel=0.05)
    assert (growth > 0.0) == grows
    assert training.rotation(400) == pytest.approx(relative_rotation(0.02, gains).rotation, rel=0.05)


def test_growth_under_lars_is_exact_for_an_orthogonal_step():
    weight = torch.tensor([3.0, 0.0], dtype=torch.float64, requires_grad=True)
    weight.grad = torch.tensor([0.0, 7.0], dtype=torch.float64)
    LARS([weight], lr=0.5).step()
    assert lars_growth(0.5, Gains()) == pytest.approx(math.log(float(weight.detach().norm()) / 3.0), rel=1e-14)
    assert lars_growth(0.5, momentum_gains(0.5), 0.1) == pytest.approx(0.5 * math.log(2.0) - 0.1, rel=1e-14)


def test_gains_are_those_of_the_recursions() -> None:
    for momentum, dampening, nesterov in ((0.9, 0.0, False), (0.7, 0.3, False), (0.8, 0.0, True), (0.0, 0.0, False)):
        buffer, gains = 0.0, []
        for gradient in [1.0, *[0.0] * 400]:
            buffer = momentum * buffer + (1 - dampening) * gradient
            gains.append(gradient + momentum * buffer if nesterov else buffer)
        found = momentum_gains(momentum, dampening, nesterov)
        assert (found.total, found.squared) == (
            pytest.approx(sum(gains)),
            pytest.approx(sum(gain**2 for gain in gains)),
        )
    assert momentum_gains(0.0, 0.5) == Gains()


def test_the_table_as_it_is_written() -> None:
    rate, decay, momentum = 0.1, 1e-4, 0.9
    found = sgd_equilibrium(rate, decay, momentum_gains(momentum))
    assert found.rotation == pytest.approx(math.sqrt(2 * rate * decay / (1 + momentum)))
    assert found.relaxation == pytest.approx((1 - momentum) / (4 * rate * decay))
    assert found.diffusion == pytest.approx(rate * decay / (1 - momentum))
    assert sgd_norm(rate, decay, momentum_gains(momentum), 7.0) == pytest.approx(
        (rate * 7.0 / (2 * decay * (1 - momentum))) ** 0.25
    )
    assert lion_norm(rate, decay, LION_BETAS, 10) == pytest.approx(
        rate * math.sqrt(10) / (lion_equilibrium(rate, decay, LION_BETAS).rotation)
    )


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.5, 0.9), (0.0, 0.99), (0.9, 0.0), (0.0, 0.0)])
def test_signs_of_lions_steps_persist_as_in_simulation(betas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(3)
    momentum, total = torch.zeros(4000), torch.zeros(4000)
    steps = 1500
    for step in range(steps + 500):
        gradient = torch.randn(4000, generator=generator)
        if step >= 500:
            total += torch.lerp(gradient, momentum, betas[0]).sign()
        momentum = torch.lerp(gradient, momentum, betas[1])
    simulated = float(total.square().mean()) / steps
    finite = 1.0 / (1.0 - betas[1]) / steps
    assert lion_persistence(betas) == pytest.approx(simulated, rel=0.06 + finite)


def test_lion_without_memory_is_a_walk_of_fresh_signs() -> None:
    assert lion_persistence((0.0, 0.0)) == 1.0
