"""One measurement of curvature on its way: number by number, with the reasons for those that are missing."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.sharpness.cost import Effort
from fromage_cli.diagnostics.sharpness.result import Absent, BatchSharpness, LayerBlock
from fromage_cli.errors import FromageError, MismatchError, NumericalError, ResourceError
from fromage_cli.optimizers.rule import SGD
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.batch_sharpness import gradient_curvature, training_batches
from fromage_cli.probes.curvature.lanczos import Eigenvalue, Operator, Spectrum, largest_eigenvalues
from fromage_cli.probes.curvature.preconditioned_hessian import groups_differ, precondition
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, has_gauss_newton, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

Curvature = Callable[[Problem, WeightSpace], AbstractContextManager[Operator]]
LIMIT = "a limit was reached before"


@dataclass
class Course:
    """One measurement on its way: number by number, until a limit is reached."""

    problem: Problem
    space: WeightSpace
    optimizer: Optimizer
    state: OptimizerState | None
    effort: Effort
    advance: Callable[[], None]
    absent: list[Absent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: FromageError | None = None

    def spectrum(
        self, name: str, curvature: Curvature, count: int = 1, space: WeightSpace | None = None
    ) -> tuple[Eigenvalue, ...]:
        """The largest eigenvalues of an operator, over the chosen tensors or `space`; empty after a limit."""
        space = space or self.space
        if self.over(name):
            return ()
        try:
            with curvature(self.problem, space) as product:
                found = largest_eigenvalues(
                    product,
                    space.flat(space.weights),
                    count=count,
                    tolerance=self.effort.tolerance,
                    max_products=self.effort.max_products,
                    seed=self.problem.seed,
                    advance=self.advance,
                )
        except ResourceError as limit:
            self.stop(name, limit)
            return ()
        if found.stopped is not None:
            self.error = found.stopped
        elif not found.converged:
            self.error = self.error or _not_converged(name, found, self.effort)
        if not found.eigenvalues:
            self.without(name, LIMIT)
        return found.eigenvalues

    def blocks(self) -> tuple[LayerBlock, ...]:
        """The largest eigenvalue of each layer's own block of the Hessian."""
        return tuple(self._block(tensor) for tensor in self.space.tensors if tensor.is_layer)

    def _block(self, tensor: TrainableTensor) -> LayerBlock:
        limited = isinstance(self.error, ResourceError)
        found = () if limited else self.spectrum(f"the block of {tensor.name!r}", hessian, space=WeightSpace([tensor]))
        parameter = tensor.parameter
        value, residual = (found[0].value, found[0].residual) if found else (None, None)
        return LayerBlock(tensor.name, tensor.kind, tuple(parameter.shape), parameter.numel(), value, residual)

    def gauss_newton_eigenvalue(self) -> float | None:
        """For losses that are a known function of the output."""
        name = "gauss_newton_eigenvalue"
        if not has_gauss_newton(self.problem):
            self.without(name, f"the loss ({self.problem.loss.name}) is no known function of the output")
            return None
        return next((pair.value for pair in self.spectrum(name, gauss_newton)), None)

    def preconditioned_eigenvalue(self) -> float | None:
        """Of the Hessian as Adam's second moments, groups' rates and their coupled decay condition it."""
        name = "preconditioned_eigenvalue"
        differ = self.optimizer.rule is SGD and groups_differ(self.problem, self.space, self.optimizer, self.state)
        if not (self.optimizer.adaptive or differ):
            self.without(name, f"the optimizer is {self.optimizer.name or 'not known'}")
            return None
        preconditioning = precondition(self.problem, self.space, self.optimizer, self.state)
        if preconditioning is None:
            self.without(name, "the checkpoint holds no second moments of Adam for every tensor")
            return None
        return next((pair.value for pair in self.spectrum(name, preconditioning.operator)), None)

    def batch_sharpness(self) -> BatchSharpness | None:
        """E_B[g^T H g / ||g||^2]."""
        name = "batch_sharpness"
        if self.over(name):
            return None
        if self.cutting_changes_the_loss():
            self.without(name, "BatchNorm's statistics depend on the rows of a batch; --train-batch-size gives them")
            return None
        parts = training_batches(self.problem, self.effort.batch_rows)
        try:
            found = gradient_curvature(self.problem, self.space, parts)
        except ResourceError as limit:
            self.stop(name, limit)
        except (MismatchError, NumericalError) as error:  # a loss that compares rows need not work on a few of them
            self.without(name, error.message.splitlines()[0])
        else:
            if found is not None:
                return BatchSharpness(found.mean, found.stderr, found.batches, found.batch_size)
            self.without(name, f"it takes two training batches with a gradient, the rows make {len(parts)}")
        return None

    def cutting_changes_the_loss(self) -> bool:
        """Whether a size of batches that nobody gave would decide what BatchNorm normalises by."""
        given = self.effort.batch_rows is not None or bool(self.problem.further)
        return not given and self.problem.uses_batch_statistics

    def without(self, name: str, reason: str) -> None:
        """Keeps why a field is null."""
        self.absent.append(Absent(name, reason))

    def stop(self, name: str, limit: ResourceError) -> None:
        """Keeps the limit that cut a field off."""
        self.error = limit
        self.without(name, LIMIT)

    def over(self, name: str) -> bool:
        """Whether a limit was reached before; keeps that as the reason why the field is null."""
        if isinstance(self.error, ResourceError):
            self.without(name, LIMIT)
            return True
        return False


def _not_converged(name: str, found: Spectrum, effort: Effort) -> NumericalError:
    worst = max(found.eigenvalues, key=lambda pair: pair.residual / max(abs(pair.value), 1e-300))
    came = f"{worst.value:.4g} with a residual of {worst.residual:.2g}; expected at most {effort.tolerance:g} of it."
    if found.inexact:
        return NumericalError(
            f"The products with the curvature are too inexact for {name}: {came}",
            "Leave --autocast out, try --dtype float64, or allow a larger --tolerance.",
        )
    return NumericalError(
        f"After {found.products} products {name} did not converge: {came}",
        "Raise --max-iterations, or allow a larger --tolerance; the values are lower bounds up to their residual.",
    )
