"""Norms along a schedule against a walk of noise, driven by torch's own optimizers."""

import math

import pytest
import torch

from fromage_cli.optim import LARS, Lion
from fromage_cli.theory.equilibrium import momentum_gains, sgd_equilibrium, sgd_norm
from fromage_cli.theory.relaxation import (
    Motion,
    adamw_motion,
    lars_motion,
    lion_motion,
    relative_motion,
    relaxed,
    sgd_motion,
)
from fromage_cli.theory.schedules import Schedule

ELEMENTS, STEPS, PEAK = 1000, 600, 0.05
SQUARE = ELEMENTS - 1.0
SCHEDULES = [Schedule("cosine", 60, STEPS), Schedule("linear", 60, STEPS)]


def walked(make, norm, schedule):
    """The norm of a scale-invariant tensor before each step and at the end; its loss is ⟨ξ, W / ‖W‖⟩."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ELEMENTS, generator=generator, dtype=torch.float64)
    weight *= norm / weight.norm()
    weight.requires_grad_()
    optimizer, norms = make([weight]), [norm]
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = PEAK * schedule.rate_factor(step)
        noise, size = torch.randn(ELEMENTS, generator=generator, dtype=torch.float64), weight.detach().norm()
        unit = weight.detach() / size
        weight.grad = (noise - unit * (unit @ noise)) / size
        optimizer.step()
        norms.append(float(weight.detach().norm()))
    return norms


def sgd(momentum):
    return lambda tensors: torch.optim.SGD(tensors, lr=PEAK, momentum=momentum, weight_decay=0.02)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("make", "norm", "motion", "source"),
    [
        (sgd(0.0), 3.0, sgd_motion(0.02, momentum_gains(0.0)), SQUARE),
        (sgd(0.8), 9.0, sgd_motion(0.02, momentum_gains(0.8)), SQUARE),
        (
            lambda tensors: torch.optim.AdamW(tensors, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1),
            30.0,
            adamw_motion(0.1),
            ELEMENTS,
        ),
        (
            lambda tensors: Lion(tensors, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.05),
            60.0,
            lion_motion(0.05, (0.9, 0.95)),
            ELEMENTS,
        ),
        (
            lambda tensors: LARS(tensors, lr=PEAK, momentum=0.5, weight_decay=0.05),
            5.0,
            lars_motion(0.05, 1.0, momentum_gains(0.5)),
            1.0 / math.sqrt(SQUARE),
        ),
        (lambda tensors: LARS(tensors, lr=PEAK), 5.0, relative_motion(0.0, 1.0, momentum_gains(0.0)), 0.0),
    ],
)
def test_norms_along_a_schedule(schedule, make, norm, motion, source):
    norms = walked(make, norm, schedule)
    for end, kept, added in motion.along(PEAK, schedule.pieces(0, STEPS)):
        if end % 150 == 0:
            expected = (kept * norm**motion.power + added * source) ** (1.0 / motion.power)
            assert expected == pytest.approx(norms[int(end)], rel=0.03)


def test_at_a_constant_rate_it_is_the_way_to_the_equilibrium():
    rate, decay, gains, start = 0.1, 1e-3, momentum_gains(0.9), 2.0
    end, law = sgd_norm(rate, decay, gains, 7.0), sgd_equilibrium(rate, decay, gains)
    for steps, kept, added in sgd_motion(decay, gains).along(rate, Schedule().pieces(0, 400)):
        norm = (kept * start**4 + added * 7.0) ** 0.25
        assert norm == pytest.approx(end * relaxed(start / end, steps / law.relaxation, 4), rel=1e-9)


def test_without_decay_growth_adds_up():
    *_, (_, kept, added) = adamw_motion(0.0).along(2.0, Schedule("linear", 0, 10).pieces(0, 10))
    assert kept == 1.0 and added == pytest.approx(sum((2.0 * (1 - step / 10)) ** 2 for step in range(10)))


def test_pieces_of_many_steps_come_to_the_same():
    schedule, motion = Schedule("cosine", 1000, 20_000), Motion(2, (0.2, 0.0), (0.0, 1.0))
    *_, fine = motion.along(1e-3, schedule.pieces(0, 20_000, most=20_000))
    *_, coarse = motion.along(1e-3, schedule.pieces(0, 20_000, most=500))
    assert coarse == pytest.approx(fine, rel=1e-4)
