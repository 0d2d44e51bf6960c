"""A measurement of curvature on its way: each number, or the reason why it is missing, until a limit is reached."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from fromage_cli.counting import first_names
from fromage_cli.diagnostics.sharpness.cost import DRAWS, Request
from fromage_cli.diagnostics.sharpness.result import BatchSharpness, LayerBlock
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.missing import LIMIT_REACHED, OPTIMIZER_UNKNOWN, Missing, Why, failed
from fromage_cli.optimizers.rule import SGD
from fromage_cli.probes.curvature.batch_sharpness import gradient_curvature, training_batches
from fromage_cli.probes.curvature.lanczos import Eigenvalue, Operator, Spectrum, largest_eigenvalues
from fromage_cli.probes.curvature.preconditioned_hessian import gradient_of, groups_differ, precondition
from fromage_cli.probes.optimizer_step.next_step import hardly_begun, moments_not_finite
from fromage_cli.probes.optimizer_step.next_update import memory_of_minibatches
from fromage_cli.probes.optimizer_step.partial_measurement import PartialMeasurement
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, has_gauss_newton, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.accumulation import inner_product
from fromage_cli.theory.random_draws import OtherDraws

T = TypeVar("T")
Curvature = Callable[[Problem, WeightSpace], AbstractContextManager[Operator]]
BATCH_STATISTICS = Missing(
    Why.BATCH_STATISTICS, "BatchNorm's statistics depend on the rows of a batch; --train-batch-size gives them"
)


@dataclass(frozen=True)
class Preconditioned:
    """The largest eigenvalue as the optimizer conditions the Hessian, and where its second moments come from."""

    eigenvalue: Eigenvalue | Missing
    second_moments: str | Missing


@dataclass
class CurvatureMeasurement(PartialMeasurement):
    """Curvature over some tensors, as far as it is measured."""

    space: WeightSpace
    request: Request
    note: Callable[[str], None]
    """Takes a sentence on how a number was measured."""

    def spectrum(
        self,
        name: str,
        curvature: Curvature,
        count: int = 1,
        *,
        doing: str = "largest curvature",
        space: WeightSpace | None = None,
        scale: Tensor | None = None,
        take: Callable[[Tensor], None] | None = None,
    ) -> tuple[Eigenvalue, ...] | Missing:
        """The largest eigenvalues of an operator, over the chosen tensors or `space`.

        `name`: for a message; `doing`: for the person who waits.
        `scale`: what the gradient is multiplied by, entry by entry, to be one of the operator's own coordinates.
        `take`: is given the unit vector of the largest.
        """
        space = space or self.space

        evaluations = self.problem.evaluations

        def measure() -> tuple[Eigenvalue, ...] | Missing:
            evaluations.doing, before = doing, evaluations.hessian_vector_products
            gradient = gradient_of(self.problem, space)

            def advance() -> None:
                evaluations.doing = f"{doing}, product {evaluations.hessian_vector_products - before:.0f}"
                self.advance()

            with curvature(self.problem, space) as product:
                measured = largest_eigenvalues(
                    product,
                    gradient if scale is None else gradient.mul_(scale),
                    count=count,
                    tolerance=self.request.tolerance,
                    max_products=self.request.max_products,
                    seed=self.problem.seed,
                    advance=advance,
                    vector=take is not None,
                    draw=space.draw,
                )
            found = self.kept(measured)
            if not found.converged:
                self.error = self.error or _not_converged(name, found, self.request)
            if take is not None and found.vector is not None:
                take(found.vector)
            return found.eigenvalues or LIMIT_REACHED

        return self.within_limits(measure)

    def over_draws(self, vector: Tensor) -> OtherDraws | Missing:
        """The curvature along a unit vector under other draws of what is random; one product for each."""

        def measure() -> OtherDraws | Missing:
            self.problem.evaluations.doing = "curvature under other random draws"
            found = []
            for further in range(1, DRAWS + 1):
                with hessian(self.problem.drawn(further), self.space) as product:
                    found.append(inner_product(vector, product(vector)))
                self.advance()
            if not all(map(math.isfinite, found)):
                return Missing(Why.ZERO_OR_NOT_FINITE, "under another draw the curvature is not finite")
            return OtherDraws(len(found), min(found), max(found))

        return self.within_limits(measure)

    def blocks(self) -> tuple[LayerBlock, ...]:
        """The largest eigenvalue of each layer's own block of the Hessian."""
        blocks = []
        for tensor in self.space.tensors:
            if tensor.is_layer:
                found = self.spectrum(
                    f"the block of {tensor.name!r}",
                    hessian,
                    doing=f"curvature of {tensor.name}",
                    space=WeightSpace([tensor]),
                )
                value, residual = (found, found) if isinstance(found, Missing) else (found[0].value, found[0].residual)
                shape, entries = tuple(tensor.parameter.shape), tensor.parameter.numel()
                blocks.append(LayerBlock(tensor.name, tensor.kind, shape, entries, value, residual))
        return tuple(blocks)

    def gauss_newton_eigenvalue(self) -> float | Missing:
        """For losses that are a known function of the output."""
        found = self.no_gauss_newton() or self.spectrum(
            "gauss_newton_eigenvalue", gauss_newton, doing="Gauss-Newton curvature"
        )
        return found if isinstance(found, Missing) else found[0].value

    def no_gauss_newton(self) -> Missing | None:
        """Why there is no Gauss-Newton matrix; None where there is one."""
        if has_gauss_newton(self.problem):
            return None
        return Missing(Why.NO_FORMULA, f"the loss ({self.problem.loss.name}) is not a known function of the output")

    def preconditioned(self) -> Preconditioned:
        """Of the Hessian as Adam's second moments, groups' rates and their coupled decay condition it."""
        optimizer, estimates, words = self.optimizer, None, "checkpoint"
        if optimizer.name is None:
            return Preconditioned(OPTIMIZER_UNKNOWN, OPTIMIZER_UNKNOWN)
        other = Missing(Why.NOT_DEFINED, f"the optimizer is {optimizer.name}")
        if not (optimizer.adaptive or (optimizer.rule is SGD and groups_differ(self.matched, self.space))):
            return Preconditioned(other, other)
        if optimizer.adaptive and not self.matched.holds_memory:
            self.problem.evaluations.doing = "second moments from minibatches"
            found = self.within_limits(lambda: memory_of_minibatches(self.problem, self.request.batch_rows))
            if isinstance(found, Missing):
                return Preconditioned(found, found)
            estimates, words = found
        preconditioning = precondition(self.matched, self.space, estimates)
        if preconditioning is None:
            none = Missing(Why.NO_STATE, "the checkpoint does not hold Adam's second moments for every tensor")
            if bad := moments_not_finite(self.matched):
                none = Missing(Why.ZERO_OR_NOT_FINITE, f"the second moments of {first_names(bad)} are not finite")
            return Preconditioned(none, none)
        pairs = self.spectrum(
            "preconditioned_eigenvalue",
            preconditioning.operator,
            doing=f"curvature preconditioned by {optimizer.name}",
            scale=preconditioning.scale,
        )
        moments = words if preconditioning.from_minibatches else "checkpoint"
        if optimizer.adaptive and moments == "checkpoint" and hardly_begun(self.matched):
            moments = "checkpoint, in which Adam has hardly begun"
        return Preconditioned(
            pairs if isinstance(pairs, Missing) else pairs[0], moments if optimizer.adaptive else other
        )

    def batch_sharpness(self) -> BatchSharpness | Missing:
        """E_B[g^T H g / ||g||^2]."""
        self.problem.evaluations.doing = "curvature of training batches"
        found = self.over_training_batches(
            lambda batches: gradient_curvature(self.problem, self.space, batches),
            "it takes two training batches with a gradient, and the rows make",
        )
        if isinstance(found, Missing):
            return found
        return BatchSharpness(found.mean, found.stderr, found.batches, found.batch_size)

    def over_training_batches(self, measure: Callable[[list[Batch]], T | None], too_few: str) -> T | Missing:
        """What is measured over small batches, or why it is not; `too_few`: a clause that ends in their number.

        It is not measured where a size of batches that nobody gave would decide what BatchNorm normalises by.
        """

        def over_batches() -> T | Missing:
            given = self.request.batch_rows is not None or bool(self.problem.further)
            if not given and self.problem.uses_batch_statistics:
                return BATCH_STATISTICS
            batches = training_batches(self.problem, self.request.batch_rows)
            try:
                found = measure(batches)
            except (MismatchError, NumericalError) as error:  # a loss that compares rows need not work on a few of them
                return failed(error)
            return Missing(Why.TOO_FEW_ROWS, f"{too_few} {len(batches)}") if found is None else found

        return self.within_limits(over_batches)


def _not_converged(name: str, found: Spectrum, request: Request) -> NumericalError:
    worst = max(found.eigenvalues, key=lambda pair: pair.residual / max(abs(pair.value), 1e-300))
    came = f"{worst.value:.4g} with a residual of {worst.residual:.2g}; expected at most {request.tolerance:g} of it."
    if found.inexact:
        return NumericalError(
            f"The products with the curvature are too inexact for {name}: {came}",
            "Leave --autocast out, try --dtype float64, or allow a larger --tolerance.",
        )
    return NumericalError(
        f"After {found.products} products {name} did not converge: {came}",
        "Raise --max-iterations, or allow a larger --tolerance. The values are lower bounds up to their residual.",
    )
