"""Where training would end up if a hyperparameter were moved: the implicit best response, from one solve for all.

    dL_val/dlambda = -<x, c>,    (C + R + mu) x = grad L_val

C is the curvature of the training loss, R that of weight decay, mu a damping. c is the cross term of the
hyperparameter. T more steps at fixed curvature take f(s) = (1 - (1 - eta s)^T) / s in place of 1 / (s + mu). The
same basis serves both.
Sources: Lorraine, Vicol, Duvenaud, *Optimizing millions of hyperparameters by implicit differentiation*, AISTATS 2020;
Bae, Grosse, *Delta-STN*, NeurIPS 2020; Bae, Lin, Lorraine, Grosse, *Approximate unrolled differentiation*, 2024.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from torch import Tensor

from fromage_cli.errors import FromageError, NumericalError, ResourceError
from fromage_cli.missing import Interrupted, found_of
from fromage_cli.probes.curvature.krylov_function import Applied, KrylovSpace
from fromage_cli.probes.curvature.lanczos import Operator
from fromage_cli.probes.hypergradients.horizon import horizon_of
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, Place, Values
from fromage_cli.probes.hypergradients.response import Curvature, Response
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.theory.accumulation import inner_product, norm

DAMPINGS = (0.01, 0.1, 1.0, 10.0)
"""In mean eigenvalues of the curvature: where none is asked for, the smallest at which the solve settles."""
TOLERANCE = 1e-2
"""Relative residual of the solve."""
MAX_PRODUCTS = 40
"""With the curvature, in one solve."""
DRAWS = 4
"""Of dropout masks, to average over."""
ROUNDING = 1e-6
"""Of the largest eigenvalue: what a negative one may be by rounding alone."""
AT_RIGHT_ANGLES = 1e-3
"""Cosine between response and weights of a tensor below which it may be scale-invariant."""


@dataclass(frozen=True)
class Derivatives:
    """Derivatives of the validation loss by every hyperparameter's members."""

    damping: float | None
    """The mu that is added to every eigenvalue; None for an answer after a number of steps."""
    residual: float
    """Relative, of the solve; after a number of steps, what the last product changed."""
    decays: dict[str, float]
    """By each tensor's weight decay."""
    loss: dict[str, float]
    """By each scalar of the training loss."""
    dropout: dict[str, float]
    """By the probability of each place that drops."""
    dropout_draws: tuple[dict[str, float], ...]
    """The same by each draw of the masks."""

    def at(self, place: Place) -> dict[str, float]:
        """Those by what acts in one place; none by the learning rate, on which no resting point depends."""
        return {"decay": self.decays, "loss": self.loss, "dropout": self.dropout}.get(place, {})

    def dropout_stderr(self, hyperparameter: Hyperparameter, values: Values) -> float | None:
        """The standard error over draws of a derivative by dropout; None where there is one draw."""
        found = [hyperparameter.per_unit(draw, values) for draw in self.dropout_draws]
        return stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None


@dataclass(frozen=True)
class Implicit:
    """The implicit answer, and how far to trust it."""

    start_loss: float
    """Validation loss at the checkpoint; with running statistics those of the training rows."""
    answer: Derivatives
    tenth: Derivatives | None
    """At a tenth of the damping; None after a number of steps."""
    tenfold: Derivatives | None
    """At ten times the damping."""
    mean_eigenvalue: float
    """Of the curvature in the solve's metric, from one product with random signs."""
    smallest_eigenvalue: float
    """Ritz value of the curvature with decay; eigenvalues below it may be there."""
    largest_eigenvalue: float
    gradient_norm: float
    """Of the training loss with decay: 0 where training rests."""
    iterations: int
    """Products with the curvature in the solve."""
    converged: bool
    """Whether the residual is within the tolerance."""
    invariant_layers: tuple[str, ...]
    """Those whose scale the loss does not depend on, so that weight decay moves it through the effective rate alone."""

    @property
    def negative_curvature(self) -> bool:
        """Whether the weights are no minimum even with damping, so that training does not end near them."""
        return self.smallest_eigenvalue + (self.answer.damping or 0.0) <= 0.0

    def at(self, place: Place) -> dict[str, float]:
        """Derivatives by what acts in one place."""
        return self.answer.at(place)


class ImplicitResponse:
    """Solves for the response of a run's weights, and derives the validation loss by every hyperparameter.

    With `steps` it is the response after so many more at fixed curvature and second moments. That is exact for steps on
    all rows of a quadratic loss, from a point at rest.
    `advance` is called after every product. Raises MismatchError where there is no such answer.
    """

    def __init__(
        self,
        matched: MatchedState,
        validation: Validation,
        values: Values,
        *,
        curvature: Curvature = "gauss-newton",
        steps: int | None = None,
        tolerance: float = TOLERANCE,
        max_products: int = MAX_PRODUCTS,
        draws: int = DRAWS,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.response = Response(matched, values, curvature, by_steps=steps is not None)
        self.validation, self.values, self.advance = validation, values, advance
        self.tolerance, self.max_products, self.draws = tolerance, max_products, draws
        self.horizon = None
        if steps is not None:
            self.horizon = horizon_of(matched.optimizer, max(values.rates.values()), steps)

    def measure(self, damping: float | None = None) -> Implicit | Interrupted[Implicit]:
        """One solve for all hyperparameters.

        `damping`: in mean eigenvalues of the curvature, as one product with random signs estimates it; None: the
        smallest of DAMPINGS at which the solve settles. An answer after a number of steps has none. Decoupled decay is
        solved in Adam's metric, where damping is mu P. Ends early at a limit, or where the residual is above the
        tolerance after the most products. Raises NumericalError where the curvature is not finite, the validation
        gradient is 0 or the steps diverge.
        """
        response = self.response
        loss, gradient = response.validation_gradient(self.validation)
        with response.operator() as operator:
            mean = response.mean_eigenvalue(operator)
            factors = (0.0,) if self.horizon is not None else DAMPINGS if damping is None else (damping,)
            space, shift, error = self._solved(
                operator, response.scaled(gradient), [factor * abs(mean) for factor in factors]
            )
        shifts = [shift] if self.horizon is not None else [shift, 0.1 * shift, 10.0 * shift]
        answer, *others = self._derivatives(space, shifts)
        tenth, tenfold = others or (None, None)
        values = space.eigenvalues()
        found = Implicit(
            loss,
            answer,
            tenth,
            tenfold,
            mean_eigenvalue=mean,
            smallest_eigenvalue=values[0],
            largest_eigenvalue=values[-1],
            gradient_norm=response.gradient_norm,
            iterations=space.products,
            converged=error is None,
            invariant_layers=invariant_layers(response, self._followed(space, shift, decay=True)),
        )
        return found if error is None else Interrupted(found, error)

    def by_part(self, hyperparameter: Hyperparameter, shift: float) -> list[float] | Interrupted[list[float]]:
        """The derivative by one hyperparameter, per unit, on each part of the validation rows, from a solve of its own.

        `shift`: the damping of an answer. Costs at most as many products as that, and a gradient of the validation rows
        in all; where these products are too few for the tolerance, it is as far as they lead. Raises as `measure` does.
        """
        response, validation = self.response, self.validation
        decays, force = hyperparameter.place == "decay", response.scaled(response.force(hyperparameter, self.draws))
        if not bool(force.any()):
            return [0.0] * len(validation.parts)
        with response.operator() as operator:
            space, _, error = self._solved(operator, force, [shift], decay=decays)
        moved = self._followed(space, shift, decay=decays)
        found = [-inner_product(moved, gradient) for gradient in response.gradients_of_parts(validation)]
        return Interrupted(found, error) if isinstance(error, ResourceError) else found

    def _solved(
        self, operator: Operator, start: Tensor, shifts: Sequence[float], *, decay: bool | None = None
    ) -> tuple[KrylovSpace, float, FromageError | None]:
        """The space in which every answer, or that of decay or of the others, is within the tolerance; or an error.

        With it the smallest of the `shifts` for which that holds, else the largest.
        """
        if not bool(start.any()):
            raise NumericalError(
                "No hyperparameter moves the validation loss, whose gradient is 0.",
                "Give validation rows that the network does not fit exactly.",
            )
        space, kinds = KrylovSpace(start), (False, True) if decay is None else (decay,)

        def residual(shift: float) -> float:
            return max(self._follow(space, shift, decay=kind).residual for kind in kinds)

        def settled(shift: float) -> bool:
            positive = len(shifts) == 1 or space.eigenvalues()[0] + shift > 0.0
            return positive and residual(shift) <= self.tolerance

        stopped: FromageError | None = space.grow(operator, self.max_products, lambda: settled(shifts[0]), self.advance)
        if not space.products:
            raise stopped or NumericalError("No product with the curvature was allowed.")
        shift = next((each for each in shifts if settled(each)), shifts[-1])
        if stopped is None and not settled(shift):
            stopped = self._not_settled(space, residual(shift))
        return space, shift, stopped

    def _not_settled(self, space: KrylovSpace, residual: float) -> NumericalError:
        """Why the products were too few, as far as the curvature tells."""
        least, *_, largest = space.eigenvalues()
        bent = least < -ROUNDING * largest
        what = f" Its curvature goes down to {least:.3g}, so that the weights are at no minimum." if bent else ""
        hints = ["Raise --damping"] if self.horizon is None else ["Ask for fewer steps (source:T)"]
        hints += ["take --method gauss-newton"] if self.response.curvature == "hessian" else []
        return NumericalError(
            f"The implicit answer did not settle: after {space.products} products its residual is {residual:.2g}, "
            f"where {self.tolerance:g} is wanted.{what}",
            f"{', or '.join(hints)}.",
        )

    def _follow(self, space: KrylovSpace, shift: float, *, decay: bool) -> Applied:
        """How the weights follow weight decay, or a force that is part of the gradient."""
        if self.horizon is None:
            return space.solve(shift)
        past = decay and self.response.decoupled
        return space.apply(self.horizon.past_momentum if past else self.horizon.through_momentum)

    def _followed(self, space: KrylovSpace, shift: float, *, decay: bool) -> Tensor:
        """The same as a change of weights, [n]."""
        return self.response.scaled(space.vector(self._follow(space, shift, decay=decay)))

    def _derivatives(self, space: KrylovSpace, shifts: Sequence[float]) -> list[Derivatives]:
        """Those of every damping; the cross terms of dropout are made once for all."""
        response, values, tensors = self.response, self.values, self.response.space.tensors
        adjoints = [self._followed(space, shift, decay=False) for shift in shifts]
        draws: list[list[dict[str, float]]] = [[{} for _ in range(self.draws)] for _ in shifts]
        for place in values.dropout:
            for draw in range(self.draws):
                force = response.dropout_force(place, draw)
                for adjoint, found in zip(adjoints, draws, strict=True):
                    found[draw][place] = -inner_product(adjoint, force)
        answers = []
        for shift, adjoint, drawn in zip(shifts, adjoints, draws, strict=True):
            pulled = self._followed(space, shift, decay=True) * response.decay_force
            parts = zip(tensors, response.space.split(pulled), strict=True)
            answers.append(
                Derivatives(
                    shift if self.horizon is None else None,
                    max(self._follow(space, shift, decay=kind).residual for kind in (False, True)),
                    decays={t.name: -float(part.double().sum()) for t, part in parts if t.name in values.decays},
                    loss={name: -inner_product(adjoint, force) for name, force in response.loss_forces.items()},
                    dropout={place: fmean(draw[place] for draw in drawn) for place in values.dropout},
                    dropout_draws=tuple(drawn) if values.dropout else (),
                )
            )
        return answers


def invariant_layers(response: Response, adjoint: Tensor) -> tuple[str, ...]:
    """The layers at right angles to a change of weights [n], whose scale the loss does not depend on."""
    space = response.space
    pulled = zip(space.tensors, space.split(adjoint), space.split(response.decay_force), strict=True)
    names = [
        tensor.name
        for tensor, moved, force in pulled
        if tensor.is_layer and abs(inner_product(moved, force)) <= AT_RIGHT_ANGLES * norm(moved) * norm(force)
    ]
    tested = found_of(measure_invariance(response.problem, names))[0] if names else {}
    return tuple(name for name, found in tested.items() if found.invariance.verdict in ("invariant", "eps-limited"))
