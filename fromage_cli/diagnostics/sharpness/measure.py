"""From a Problem and an optimizer to a SharpnessResult."""

from collections.abc import Callable, Sequence

from torch import Tensor

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.sharpness.cost import Request
from fromage_cli.diagnostics.sharpness.partial_measurement import CurvatureMeasurement
from fromage_cli.diagnostics.sharpness.result import HessianEigenvalue, SharpnessResult
from fromage_cli.diagnostics.sharpness.update import first_step_sharpness, measure_update
from fromage_cli.diagnostics.sharpness.verdict import (
    compared_curvature,
    ratio_to_threshold,
    regime_of,
    stable_learning_rate,
)
from fromage_cli.missing import (
    LEARNING_RATE_UNKNOWN,
    LIMIT_REACHED,
    NO_OTHER_DRAWS,
    OPTIMIZER_UNKNOWN,
    Interrupted,
    Missing,
    known,
)
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.threshold import threshold_of
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.probes.structure.sizes import layers_out_of_line
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.random_draws import OtherDraws


def measure(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    trained: bool | None = False,
    request: Request | None = None,
    advance: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda words: None,
) -> SharpnessResult | Interrupted[SharpnessResult]:
    """The sharpness of the loss over some tensors, and what it means for an optimizer.

    Costs about 16 Hessian-vector products for each eigenvalue and three for each simulated step. Two gradients and some
    thirty forward passes are added; a product for each other draw where the network draws noise. A limit, and an
    iteration that did not converge, interrupts it. `note` takes sentences on how the next update was found. Raises
    MismatchError where the loss has no second derivative or the state does not fit. Raises NumericalError where a
    product is not finite. `trained`: None where the file does not say whether training has begun; it then counts as
    trained.
    """
    measuring = CurvatureMeasurement(
        match_state(problem, optimizer, state), advance, WeightSpace(tensors), request or Request(), note
    )
    if measuring.matched.holds_memory:
        measuring.matched.members  # noqa: B018  # a state that does not fit is refused before anything is computed
    loss = problem.base.loss
    top: list[Tensor] = []
    take = top.append if problem.draws_noise else None
    found = known(measuring.spectrum("eigenvalues", hessian, measuring.request.count, take=take)) or ()
    draws: OtherDraws | Missing = NO_OTHER_DRAWS if take is None else LIMIT_REACHED
    if top:
        draws = measuring.over_draws(top.pop())
    outer = measuring.gauss_newton_eigenvalue()
    preconditioned = measuring.preconditioned()
    conditioned = preconditioned.eigenvalue
    layers = measuring.blocks() if measuring.request.blocks else ()
    batches = measuring.batch_sharpness()
    update = measure_update(measuring, found[0].value if found else 0.0)
    first = first_step_sharpness(measuring, trained)
    compared = compared_curvature(measuring, found[0].value if found else None, conditioned)
    ratio = ratio_to_threshold(optimizer, compared)
    begins = known(preconditioned.second_moments) not in (None, "checkpoint")
    rate, unknown = optimizer.learning_rate, OPTIMIZER_UNKNOWN if optimizer.name is None else None
    model = update.quadratic
    outcome = None if isinstance(model, Missing) else known(model.outcome)
    result = SharpnessResult(
        loss=loss,
        eigenvalues=tuple(HessianEigenvalue(pair.value, pair.residual) for pair in found),
        gauss_newton_eigenvalue=outer,
        preconditioned_eigenvalue=conditioned if isinstance(conditioned, Missing) else conditioned.value,
        preconditioned_residual=conditioned if isinstance(conditioned, Missing) else conditioned.residual,
        second_moments=preconditioned.second_moments,
        critical_sharpness=update.critical_sharpness,
        critical_sharpness_stderr=update.critical_sharpness_stderr,
        first_step_sharpness=first,
        first_step_ratio=(
            first if isinstance(first, Missing) else LEARNING_RATE_UNKNOWN if rate is None else first * rate / 2.0
        ),
        batch_sharpness=batches,
        optimizer=optimizer.name,
        learning_rate=rate if rate is not None else LEARNING_RATE_UNKNOWN,
        momentum=optimizer.momentum if optimizer.has("momentum") else unknown,
        threshold=threshold_of(optimizer),
        ratio=ratio,
        scaled_ratio=ratio if isinstance(ratio, Missing) else 2.0 * ratio,
        stable_learning_rate=stable_learning_rate(optimizer, compared),
        trained=trained is not False,
        regime=regime_of(measuring, ratio, outcome, trained, begins),
        tensors=len(tensors),
        parameters=sum(tensor.parameter.numel() for tensor in tensors),
        quadratic=model,
        layers=layers,
        draws=draws,
        lowest_learning_rate=measuring.matched.lowest_rate,
        out_of_line=layers_out_of_line(tensors),
    )
    return result if measuring.error is None else Interrupted(result, measuring.error)
