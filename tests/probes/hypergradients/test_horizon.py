import pytest
import torch

from fromage_cli.errors import NumericalError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.horizon import Horizon, horizon_of

CURVATURES = torch.tensor([-0.3, 0.0, 0.2, 1.7, 6.0], dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_plain_steps_follow_the_geometric_sum(steps: int) -> None:
    found = Horizon(steps, 0.1).through_momentum(CURVATURES)
    terms = (1.0 - 0.1 * CURVATURES)[:, None] ** torch.arange(steps).double()
    torch.testing.assert_close(found, 0.1 * terms.sum(1), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(Horizon(steps, 0.1).past_momentum(CURVATURES), found, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_momentum_follows_torchs_own_steps(nesterov: bool, steps: int) -> None:
    """A force of 1 from rest on five parabolas; the state holds a momentum of 0, so that dampening acts at once."""
    dampening = 0.0 if nesterov else 0.3
    weights = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.8, dampening=dampening, nesterov=nesterov)
    optimizer.state[weights]["momentum_buffer"] = torch.zeros(5, dtype=torch.float64)
    for _ in range(steps):
        weights.grad = CURVATURES * weights.detach() + 1.0
        optimizer.step()
    horizon = horizon_of(Optimizer("sgd", 0.1, momentum=0.8, dampening=dampening, nesterov=nesterov), 0.1, steps)
    torch.testing.assert_close(horizon.through_momentum(CURVATURES), -weights.detach())


def test_a_force_past_adams_momentum_acts_at_once() -> None:
    horizon = horizon_of(Optimizer("adamw", 0.1), 0.1, 1)
    assert (horizon.momentum, horizon.dampening) == (0.9, 0.9)
    torch.testing.assert_close(horizon.past_momentum(CURVATURES), torch.full((5,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(horizon.through_momentum(CURVATURES), torch.full((5,), 0.01, dtype=torch.float64))


def test_steps_that_diverge_are_refused() -> None:
    with pytest.raises(NumericalError, match="in 1000 at a rate of 1 they grow beyond all bounds"):
        Horizon(1000, 1.0).through_momentum(CURVATURES)
