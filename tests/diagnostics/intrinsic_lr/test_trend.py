import math

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.intrinsic_lr.forecast import SHRANK
from fromage_cli.diagnostics.intrinsic_lr.trend import TOO_FEW, Track, find_past
from fromage_cli.missing import Missing
from fromage_cli.theory.equilibrium import Gains, momentum_gains
from fromage_cli.theory.relaxation import sgd_motion
from fromage_cli.theory.schedules import Schedule

SCHEDULE = Schedule("linear", 100, 1000)
DECAY, RATE, GAINS = 2e-3, 0.1, momentum_gains(0.9)
STEPS = (100, 175, 250)


def integrated(size, power, steps=STEPS, start=2.0):
    """Norms by the equation step for step, with E‖g̃‖² = size (step / 250)^power."""
    norms, fourth = [], start**4
    for step in range(steps[0], steps[-1] + 1):
        if step in steps:
            norms.append(fourth**0.25)
        rate = RATE * SCHEDULE.rate_factor(step)
        gain = 2.0 * (rate * GAINS.total) ** 2 * size * ((step + 0.5) / 250.0) ** power
        lost = 4.0 * DECAY * rate * GAINS.total
        fourth = fourth * math.exp(-lost) + gain * (1.0 - math.exp(-lost)) / lost
    return Track(sgd_motion(DECAY, GAINS), RATE, tuple(norms))


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.6, 1.0, 2.0])
def test_gradients_that_go_as_a_power_of_steps_are_found(power):
    track = integrated(0.7, power)
    past = find_past([track], SCHEDULE, STEPS)
    assert past.power == pytest.approx(power, abs=1e-3) and past.sizes(track, past.power) == pytest.approx(
        [0.7] * 2, rel=1e-3
    )
    assert past.ahead.power == pytest.approx(min(max(power, 0.0), 1.0), abs=1e-3) and past.ahead.now == 250
    assert past.behind.at(250) == 1.0 and past.behind.at(50) == past.behind.at(100) == (100 / 250) ** past.power


def test_one_layer_out_of_line_does_not_matter():
    tracks = [integrated(0.7, 0.8), integrated(3.0, 0.8, start=4.0), integrated(0.1, 0.9), integrated(1.0, 0.75)]
    assert find_past([*tracks, integrated(0.2, 1.5)], SCHEDULE, STEPS).power == pytest.approx(0.8, abs=1e-3)


def test_layers_that_do_not_agree_tell_nothing():
    past = find_past([integrated(0.7, -1.0), integrated(0.7, 1.0)], SCHEDULE, STEPS)
    assert isinstance(past, Missing) and "do not agree" in past.words


@pytest.mark.parametrize("steps", [(100, 250), (240, 245, 250), (100, 250, 250)])
def test_checkpoints_that_are_too_few_or_too_near_tell_nothing(steps):
    assert find_past([Track(sgd_motion(DECAY, GAINS), RATE, (1.0,) * len(steps))], SCHEDULE, steps) is TOO_FEW


def test_norms_that_fell_faster_than_decay_tell_nothing():
    assert find_past([Track(sgd_motion(DECAY, GAINS), RATE, (4.0, 1.0, 1.0))], SCHEDULE, STEPS) is SHRANK


def test_of_many_checkpoints_those_since_half_of_the_way_are_used():
    steps = (100, 120, 140, 200, 250)
    track = integrated(0.7, 0.6, steps)
    past = find_past([track], SCHEDULE, steps)
    assert past.steps == (120, 140, 200, 250) and past.power == pytest.approx(0.6, abs=1e-3)


def test_a_batchnorm_network_under_sgd_whose_gradients_grow():
    """Outputs are scaled up as steps go on, which a weight before a BatchNorm feels in its gradients alone."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(20, 30, bias=False), nn.Linear(30, 20, bias=False)]
    norms = [nn.BatchNorm1d(30, affine=False), nn.BatchNorm1d(20, affine=False)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.2, generator=generator)
    schedule, rate, decay = Schedule("cosine", 0, 1200), 0.3, 5e-3
    optimizer = torch.optim.SGD([layer.weight for layer in layers], rate, weight_decay=decay)
    seen: list[list[float]] = []
    for step in range(1201):
        seen.append([float(layer.weight.detach().norm()) for layer in layers])
        optimizer.param_groups[0]["lr"] = rate * schedule.rate_factor(step)
        hidden = torch.relu(norms[0](layers[0](torch.randn(32, 20, generator=generator))))
        output = norms[1](layers[1](hidden))
        noise = torch.randn(32, 20, generator=generator)
        optimizer.zero_grad()
        (math.sqrt((step + 1) / 1200) * (output * noise).sum(1).mean()).backward()
        optimizer.step()
    steps, motion = (150, 225, 300), sgd_motion(decay, Gains())
    tracks = [Track(motion, rate, tuple(seen[step][index] for step in steps)) for index in range(2)]
    past = find_past(tracks, schedule, steps)
    assert 0.5 < past.power < 1.1
    for index, track in enumerate(tracks):
        size = math.prod(past.sizes(track, past.power)) ** 0.5
        *_, (_, kept, added) = motion.along(rate, schedule.pieces(300, 1200), past.ahead)
        expected = (kept * seen[300][index] ** 4 + added * size) ** 0.25
        *_, (_, kept, added) = motion.along(rate, schedule.pieces(300, 1200))
        steady = (kept * seen[300][index] ** 4 + added * size) ** 0.25
        assert expected == pytest.approx(seen[1200][index], rel=0.05) and steady < 0.9 * seen[1200][index]
