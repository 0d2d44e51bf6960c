"""The answer of self-tuning networks: a hypernetwork learns how weights follow hyperparameters, and is then derived.

Of each tensor, dW = diag(A dh) W_resp with dh a change of ln(hyperparameter): centred, so that it is 0 at the
checkpoint, and gated by rows; of a bias likewise. Each dh has a unit of its own in which all pull equally hard at the
weights: else the fit would follow the strongest alone.
A and W_resp are fitted to the training loss of the network, linearised at the checkpoint. The changes dh are small and
come in pairs, dh and -dh. With one hyperparameter every dW can be reached,
so that this is the Gauss-Newton answer; with several that answer restricted to the family.
Source: Bae, Grosse, *Delta-STN: Efficient bilevel optimization for neural networks using structured response
Jacobians*, NeurIPS 2020.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.errors import FromageError, NumericalError, ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.probes.curvature.krylov_function import KrylovSpace
from fromage_cli.probes.hypergradients.conditioning import Conditioning
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, Values
from fromage_cli.probes.hypergradients.implicit import DRAWS
from fromage_cli.probes.hypergradients.response import Response
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton
from fromage_cli.problem.evaluation.linearised_loss import linearised_losses
from fromage_cli.problem.losses.hyperparameters import training_loss
from fromage_cli.theory.accumulation import inner_product, norm, squared_norm

SIGMA = 0.05
"""Size of a change of ln(hyperparameter), so small that the loss is quadratic in what it does."""
ITERATIONS = 20
"""Of L-BFGS between two draws of changes."""
ROUNDS = 20
"""Draws of changes at most."""
TOLERANCE = 1e-3
"""Relative change of the derivatives from one draw to the next at which the fit has settled."""
TINY = 1e-6
"""Size of W_resp where no hyperparameter pulls at a tensor by itself."""
DAMPING = 10.0
"""In mean eigenvalues of the curvature, where none is asked for: with less the fit takes many more draws."""
PRODUCTS = 40
"""For the extreme eigenvalues of a layer's curvature."""


@dataclass(frozen=True)
class DeltaSTN:
    """What the fitted hypernetwork says."""

    gradients: dict[tuple[str, str], float]
    """Derivative of the validation loss per unit, by name and scope of the hyperparameter."""
    by_part: dict[tuple[str, str], list[float]]
    """The same of each part of the validation rows."""
    start_loss: float
    """Validation loss at the checkpoint."""
    passes: int
    """Gradients of the linearised loss, each for all changes together."""
    unsettled: float
    """Relative change of the derivatives in the last draw: up to the tolerance where the fit has settled."""


class Hypernetwork:
    """dW = diag(A dh) W_resp of every tensor, with the rows of its first dimension."""

    def __init__(self, space: WeightSpace, count: int, expected: Tensor, seed: int) -> None:
        """A starts from 0 and W_resp from random numbers, as in the paper's own code.

        `expected`: about how large dW is for dh = 1, [n]. W_resp begins with the root of that, so that A can be as
        large: else their product could be fitted by one of them alone.
        """
        generator = torch.Generator().manual_seed(seed)
        self.space, self.gates, self.responses = space, list[Tensor](), list[Tensor]()
        for weight, size in zip(space.weights, space.split(expected), strict=True):
            rows = weight.shape[0] if weight.dim() else 1
            shape = rows, max(weight.numel() // max(rows, 1), 1)
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0
            balanced = (squared_norm(size) / max(size.numel(), 1)) ** 0.25 or TINY
            self.responses.append((balanced * drawn).to(weight).requires_grad_())
            self.gates.append(weight.new_zeros((rows, count)).requires_grad_())

    @property
    def parameters(self) -> list[Tensor]:
        """All that is fitted."""
        return [*self.gates, *self.responses]

    def moved(self, change: Tensor) -> list[Tensor]:
        """How the weights follow a change of every hyperparameter, [count]."""
        parts = zip(self.gates, self.responses, self.space.weights, strict=True)
        return [((gate @ change)[:, None] * response).view(weight.shape) for gate, response, weight in parts]


class DeltaFit:
    """The fit of a hypernetwork to the linearised network of one checkpoint."""

    def __init__(
        self,
        response: Response,
        hyperparameters: Sequence[Hyperparameter],
        *,
        damping: float = 0.0,
        sigma: float = SIGMA,
        seed: int = 0,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """`hyperparameters`: not the learning rate; `damping`: absolute, as in the implicit answer."""
        self.response, self.sigma, self.advance, self.passes = response, sigma, advance, 0
        self.factor = 1.0
        self.hyperparameters = hyperparameters
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = response.space.flat(response.space.weights)
        self.forces = [response.force(one, DRAWS) * (one.value or 1.0) for one in hyperparameters]
        pulls = [norm(force) for force in self.forces]
        weakest = min((pull for pull in pulls if pull > 0.0), default=1.0)
        self.units = [weakest / pull if pull > 0.0 else 1.0 for pull in pulls]
        self.damping = damping * response.spread(dict.fromkeys(response.values.rates, 1.0))
        self.network = Hypernetwork(response.space, len(self.hyperparameters), self.first_step(), seed)

    def measure(self, validation: Validation, *, rounds: int = ROUNDS) -> DeltaSTN | Interrupted[DeltaSTN]:
        """Fits with fresh changes in every round, until the derivatives settle.

        Raises NumericalError where the loss is not finite. A limit, or derivatives that do not settle, interrupts it.
        """
        loss, gradient = self.response.validation_gradient(validation)
        found, unsettled = self._derivatives(gradient), math.inf
        stopped: FromageError | None = None
        try:
            self.objective(self.draw())
            slopes = [tensor.grad for tensor in self.network.parameters if tensor.grad is not None]
            steepness = math.sqrt(math.fsum(map(squared_norm, slopes)))
            self.factor = 1.0 / (steepness or 1.0)  # L-BFGS takes curvature that is far below 1 for none
            for _ in range(rounds):
                before, found = found, self._fitted(gradient)
                unsettled = math.dist(before, found) / (math.hypot(*found) or 1.0)
                if unsettled <= TOLERANCE:
                    break
            else:
                stopped = NumericalError(
                    f"The hypernetwork did not settle: its answers still move after {self.passes} passes.",
                    "Raise --damping, or go by the Gauss-Newton answer, which needs no fit.",
                )
        except ResourceError as limit:
            stopped = limit
        by_part = [self._derivatives(part) for part in self.response.gradients_of_parts(validation)]
        result = DeltaSTN(
            {key: slope for key, (slope,) in self._per_unit([found]).items()},
            self._per_unit(by_part),
            loss,
            self.passes,
            unsettled,
        )
        return result if stopped is None else Interrupted(result, stopped)

    def first_step(self) -> Tensor:
        """How far steepest descent would first move each weight, for changes of all hyperparameters by a unit, [n]."""
        response = self.response
        force = torch.zeros_like(self.weights)
        for one, unit in zip(self.forces, self.units, strict=True):
            force.addcmul_(one, one, value=unit**2)
        force.sqrt_()
        with gauss_newton(response.problem, response.space) as product:
            held_back = response.spread(response.values.decays) + self.damping
            bent = inner_product(force, product(force)) + inner_product(held_back * force, force)
        return force.mul_(squared_norm(force) / bent) if bent > 0.0 else force

    def draw(self) -> list[Tensor]:
        """Changes in random directions at right angles, each with its opposite."""
        count = len(self.hyperparameters)
        drawn = torch.randn((count, count), generator=self.generator, dtype=torch.float64)
        directions = (self.sigma * torch.linalg.qr(drawn)[0].T).to(self.weights)
        return [*directions, *-directions]

    def _fitted(self, gradient: Tensor) -> list[float]:
        """The derivatives after one more round."""
        changes = self.draw()
        optimizer = torch.optim.LBFGS(
            self.network.parameters,
            max_iter=ITERATIONS,
            history_size=ITERATIONS,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            return torch.tensor(self.objective(changes), dtype=torch.float64)

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return self._derivatives(gradient)

    def objective(self, changes: Sequence[Tensor]) -> float:
        """How the regularised loss changes beyond first order, on average over changes; adds its gradient to the fit.

        What is of first order cancels between a change and its opposite.
        """
        response, space, now = self.response, self.response.space, self.response.values
        moves, total, share = [self.network.moved(change) for change in changes], 0.0, self.factor / len(changes)
        values = [self.values_under(change) for change in changes]
        losses = [training_loss(response.base_loss, held.loss) for held in values]
        found = linearised_losses(response.problem, space, [space.flat(move) for move in moves], losses)
        for held, move, (value, slope) in zip(values, moves, found, strict=True):
            flat, decay = space.flat(move), response.spread(held.decays)
            force = (decay - response.spread(now.decays)) * self.weights
            for one, pull in zip(self.hyperparameters, self.forces, strict=True):
                if one.place == "dropout":  # whose masks act through the mean gradient
                    force.add_(pull, alpha=held.dropout[one.members[0]] / now.dropout[one.members[0]] - 1.0)
            held_back = (decay + self.damping) * flat
            total += share * (value + inner_product(force, flat) + 0.5 * inner_product(held_back, flat))
            torch.autograd.backward(move, [share * part for part in space.split(slope + force + held_back)])
        if not math.isfinite(total):
            raise NumericalError("The linearised training loss is not finite.", "Try --dtype float64.")
        self.passes += 1
        self.advance()
        return total

    def values_under(self, change: Tensor) -> Values:
        """The hyperparameters under a change of logarithms, or of the value of one that is 0; each in its unit."""
        found = self.response.values
        for one, unit, amount in zip(self.hyperparameters, self.units, change.tolist(), strict=True):
            found = found.moved(one, math.expm1(unit * amount) if one.value else unit * amount)
        return found

    def _per_unit(self, rows: Sequence[Sequence[float]]) -> dict[tuple[str, str], list[float]]:
        """Derivatives in the units of the fit as those by the hyperparameters themselves."""
        return {
            (one.name, one.scope): [row[index] / (unit * (one.value or 1.0)) for row in rows]
            for index, (one, unit) in enumerate(zip(self.hyperparameters, self.units, strict=True))
        }

    def _derivatives(self, gradient: Tensor) -> list[float]:
        """Of the validation loss by each hyperparameter, in its unit."""
        with torch.no_grad():
            changes = torch.eye(len(self.hyperparameters)).to(self.weights)
            moves = [self.response.space.flat(self.network.moved(change)) for change in changes]
        return [inner_product(gradient, moved) for moved in moves]


def measure_conditioning(
    response: Response, hyperparameter: Hyperparameter, *, damping: float = 0.0, sigma: float = SIGMA
) -> Conditioning:
    """The condition numbers for the smallest layer, at one hyperparameter above 0.

    The curvature of its weights, decay and damping included, multiplies the second moments of (1, x). Where Lanczos
    iterations end before the layer's smallest eigenvalue, both numbers are too small by the same factor.
    """
    layer = min((t for t in response.space.tensors if t.is_layer), key=lambda tensor: tensor.parameter.numel())
    space, decay = WeightSpace([layer]), response.values.decays.get(layer.name, 0.0) + damping
    drawn = torch.randn(layer.parameter.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    krylov = KrylovSpace(drawn.to(space.flat(space.weights)))
    with gauss_newton(response.problem, space) as product:
        krylov.grow(lambda vector: product(vector) + decay * vector, PRODUCTS, lambda: False, lambda: None)
    values, place = krylov.eigenvalues(), math.log(hyperparameter.value)
    own = values[-1] / values[0] if values[0] > 0.0 else math.inf

    def spread(centre: float) -> float:
        moments = torch.tensor([[1.0, centre], [centre, centre**2 + sigma**2]], dtype=torch.float64)
        return float(torch.linalg.cond(moments))

    return Conditioning(layer.name, own * spread(0.0), own * spread(place))
