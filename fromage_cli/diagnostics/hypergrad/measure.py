"""From a Problem, an optimizer and validation rows to a HypergradResult."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.hypergrad.advice import advised
from fromage_cli.diagnostics.hypergrad.result import (
    CONTINUED,
    DELTA_STN,
    UNROLL,
    HypergradResult,
    HyperparameterAnswers,
    MethodAnswer,
)
from fromage_cli.errors import FromageError, MismatchError, NumericalError, ResourceError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, Interrupted, Missing, Why, failed, found_of, known
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.conditioning import Conditioning
from fromage_cli.probes.hypergradients.continued import Continuations, Continued, standard_error
from fromage_cli.probes.hypergradients.delta_stn import DeltaFit, DeltaSTN, measure_conditioning
from fromage_cli.probes.hypergradients.differentiable_step import differentiable, through_a_sign
from fromage_cli.probes.hypergradients.hyperparameters import (
    EVERYWHERE,
    Hyperparameter,
    Values,
    hyperparameters,
    values_of,
)
from fromage_cli.probes.hypergradients.implicit import AUTO, Derivatives, Implicit, ImplicitResponse
from fromage_cli.probes.hypergradients.response import Curvature
from fromage_cli.probes.hypergradients.step_batches import StepBatches, step_batches
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.unrolled import Unrolled, copies_that_fit, unroll
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.problem.evaluation.gradient_pullback import require_effect
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import leaves, training_loss
from fromage_cli.theory.accumulation import squared_norm

T = TypeVar("T")
NOT_ASKED = Missing(Why.NOT_ASKED, "it was not asked for")
ONE_PART = Missing(Why.TOO_FEW_ROWS, "it takes two validation rows")
NOT_OF_THIS_METHOD = Missing(Why.NOT_DEFINED, "this method has none")
"""Of a number that only other methods give."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    steps: int = 0
    """Further training steps to look at; 0 leaves them out."""
    batch_size: int | None = None
    """Rows of a training batch; None takes the batch whole."""
    in_loss: Mapping[str, float] = field(default_factory=dict)
    """Label smoothing and scalars of the user's loss, with their values now."""
    settled: str = "gauss-newton"
    """How to find where training would settle: `gauss-newton`, `hessian`, `source` or `delta-stn`."""
    horizon: int | None = None
    """Steps of `source`."""
    damping: float = AUTO
    """In mean eigenvalues of the curvature."""
    only: str | None = None
    """The one hyperparameter that continued runs move; None moves each."""


@dataclass
class _Search:
    """One measurement on its way."""

    training: Problem
    validation: Validation
    optimizer: Optimizer
    matched: MatchedState
    request: Request
    values: Values
    advance: Callable[[], None]
    batches: StepBatches = field(default_factory=lambda: StepBatches((), ""))
    unrolled: Unrolled | Missing = NOT_ASKED
    continued: dict[tuple[str, str], Continued | Missing] = field(default_factory=dict)
    implicit: Implicit | Missing = NOT_ASKED
    settled_stderr: dict[tuple[str, str], float | Missing] = field(default_factory=dict)
    fitted: DeltaSTN | None = None
    conditioning: Conditioning | Missing = NOT_ASKED
    copies: str | None = None
    val_loss: float = 0.0
    error: FromageError | None = None

    def look_ahead(self) -> None:
        """Takes the next steps, differentiates through them, and takes them with each hyperparameter moved."""
        if self.optimizer.rule is None or self.optimizer.learning_rate is None:
            self.unrolled = LEARNING_RATE_UNKNOWN
            return
        available = [*self.training.batches, *self.training.spare]
        self.batches = step_batches(
            available, self.request.steps, size=self.request.batch_size, seed=self.training.seed
        )
        steps = TrainingSteps(self.matched, self.batches.batches, self.values)
        evaluations = self.training.evaluations
        evaluations.doing = "training on, and back through the steps"
        self.unrolled = self._differentiated(steps)
        runs = Continuations(steps, self.validation, self.values, self.advance)
        for one in self.asked:
            if _leads(one) and self.request.only in (None, one.name):
                evaluations.doing = f"training on with {one.name} moved"
                try:
                    self.continued[one.name, one.scope] = runs.measure(one)
                except NumericalError as diverged:
                    self.continued[one.name, one.scope], self.error = failed(diverged), diverged

    def _differentiated(self, steps: TrainingSteps) -> Unrolled | Missing:
        """The derivatives through the steps, or why there are none."""
        if not differentiable(steps.record):
            return Missing(Why.NOT_DEFINED, f"the step of {self.optimizer.name} is not differentiated here")
        copies = copies_that_fit(steps)
        self.copies = "all" if copies is None else "square root"
        try:
            return unroll(steps, self.validation, self.values, copies=copies, advance=self.advance)
        except MismatchError as refused:  # no second derivative; the steps themselves can be taken
            return failed(refused)

    def settle(self) -> None:
        """Solves for where training would settle; where that alone is known, also how sure it is."""
        evaluations, asked = self.training.evaluations, self.request
        evaluations.doing = "solving for where training would settle"
        curvature: Curvature = "hessian" if asked.settled == "hessian" else "gauss-newton"
        try:
            response = ImplicitResponse(
                self.matched,
                self.validation,
                self.values,
                curvature=curvature,
                steps=asked.horizon,
                advance=self.advance,
            )
            found, error = found_of(response.measure(asked.damping))
        except MismatchError as refused:
            if not asked.steps:
                raise
            self.implicit = failed(refused)
            return
        self.implicit = found
        if asked.settled == "delta-stn" and error is None:
            error = self._fit_hypernetwork(response, found.answer.damping or 0.0)
        for one in self.asked if not asked.steps else ():
            if _leads(one) and error is None:
                parts, error = found_of(response.by_part(one, found.answer.damping or 0.0))
                self.settled_stderr[one.name, one.scope] = self._spread(one, found, parts)
        if error is not None:
            raise error

    def _fit_hypernetwork(self, solved: ImplicitResponse, damping: float) -> FromageError | None:
        """Runs Delta-STN for what moves as a whole, and gives the error that ended it early."""
        self.training.evaluations.doing = "fitting the hypernetwork of Delta-STN"
        moved = [one for one in self.asked if _leads(one)]
        fit = DeltaFit(solved.response, moved, damping=damping, seed=self.training.seed, advance=self.advance)
        fitted, error = found_of(fit.measure(self.validation))
        self.fitted = fitted
        above = next((one for one in fit.hyperparameters if one.value), None)
        if above is not None and error is None:
            self.conditioning = measure_conditioning(solved.response, above, damping=damping)
        return error

    def _spread(self, one: Hyperparameter, found: Implicit, parts: Sequence[float]) -> float | Missing:
        """The standard error over validation parts, and over draws of dropout masks."""
        over_parts = standard_error([parts], self.validation.shares)
        if over_parts is None:
            return ONE_PART
        draws = found.answer.dropout_stderr(one, self.values) if one.place == "dropout" else None
        return math.hypot(over_parts, draws or 0.0)

    @property
    def asked(self) -> list[Hyperparameter]:
        """The hyperparameters that there are."""
        return hyperparameters(self.matched, self.values)

    def result(self) -> HypergradResult:
        """What has been found so far."""
        base = self.training.base
        after = self.unrolled if isinstance(self.unrolled, Missing) else self.unrolled.end_loss
        found = []
        for one in self.asked:
            answers = HyperparameterAnswers(
                one.name, one.scope, one.value, None, tuple(self._answers(one)), None, None, NOT_ASKED
            )
            leads = one.place != "rate" and (one.scope == EVERYWHERE or one.scope.startswith("group:"))
            found.append(advised(answers, self.val_loss, known(after)) if leads else answers)
        return HypergradResult(
            train_loss=base.loss,
            val_loss=self.val_loss,
            val_loss_after=after,
            gradient_norm=math.sqrt(math.fsum(map(squared_norm, base.gradients.values()))),
            optimizer=self.optimizer.name,
            learning_rate=self.optimizer.learning_rate or LEARNING_RATE_UNKNOWN,
            steps=self.request.steps or None,
            batches=self.batches.source,
            val_rows=self.validation.problem.rows,
            val_parts=len(self.validation.parts),
            copies=self.copies,
            damping=self._of_settled(lambda found: found.answer.damping),
            invariant_layers=self._of_settled(lambda found: found.invariant_layers),
            conditioning=self.conditioning,
            hyperparameters=tuple(found),
        )

    def _of_settled(self, field: Callable[[Implicit], T | None]) -> T | Missing:
        """One number of the implicit answer."""
        if isinstance(self.implicit, Missing):
            return self.implicit
        value = field(self.implicit)
        return NOT_OF_THIS_METHOD if value is None else value

    def _answers(self, one: Hyperparameter) -> list[MethodAnswer]:
        """What each method says of one hyperparameter, the next steps first."""
        found = []
        if self.request.steps:
            found.append(self._unrolled(one))
            moved = self.continued.get((one.name, one.scope))
            if moved is not None:
                found.append(self._continued(one, moved))
        fitted = None if self.fitted is None else self.fitted.gradients.get((one.name, one.scope))
        if fitted is not None:
            found.append(_answer(DELTA_STN, None, one.value, fitted))
        if one.place != "rate":
            found.append(self._settled(one))
        return found

    def _settled(self, one: Hyperparameter) -> MethodAnswer:
        method, found = self.request.settled, self.implicit
        method = "gauss-newton" if method == DELTA_STN else method
        if isinstance(found, Missing):
            return _answer(method, self.request.horizon, one.value, found)

        def slope(of: Derivatives | None) -> float | Missing:
            return NOT_OF_THIS_METHOD if of is None else one.per_unit(of.at(one.place), self.values)

        return replace(
            _answer(method, self.request.horizon, one.value, slope(found.answer)),
            stderr=self.settled_stderr.get((one.name, one.scope), NOT_ASKED),
            iterations=found.iterations,
            residual=found.answer.residual,
            negative_curvature=found.negative_curvature,
            less_damped=slope(found.tenth),
            more_damped=slope(found.tenfold),
        )

    def _unrolled(self, one: Hyperparameter) -> MethodAnswer:
        slope: float | Missing
        if isinstance(self.unrolled, Missing):
            slope = self.unrolled
        elif one.place == "dropout":
            slope = Missing(Why.NOT_DEFINED, "masks have no derivative by their probability")
        elif one.place == "loss" and through_a_sign(self.optimizer.rule):
            slope = Missing(Why.NOT_DEFINED, f"{self.optimizer.name} steps by signs, which have no derivative")
        else:
            slope = one.per_unit(self.unrolled.at(one.place), self.values)
        return _answer(UNROLL, self.request.steps, one.value, slope)

    def _continued(self, one: Hyperparameter, moved: Continued | Missing) -> MethodAnswer:
        if isinstance(moved, Missing):
            return _answer(CONTINUED, self.request.steps, one.value, moved)
        answer = _answer(CONTINUED, self.request.steps, one.value, moved.per_unit)
        smooth = Missing(Why.NOTHING_MOVES, "the move does not change the weights")
        return replace(
            answer,
            stderr=ONE_PART if moved.stderr is None else moved.stderr,
            metasmoothness=smooth if moved.metasmoothness is None else moved.metasmoothness,
        )


def _leads(one: Hyperparameter) -> bool:
    """Whether it moves as a whole, and may be advised on."""
    return one.scope == EVERYWHERE and one.place != "rate"


def measure(
    training: Problem,
    validation: Validation,
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    request: Request,
    advance: Callable[[], None] = lambda: None,
) -> HypergradResult | Interrupted[HypergradResult]:
    """How the validation loss answers to each hyperparameter of training.

    `training`: in training behaviour. Raises MismatchError where the state does not fit the model,
    or where the loss ignores one of its numbers. Raises NumericalError where the loss is not finite at the
    checkpoint. A limit, and a run whose loss is not finite, interrupts it.
    """
    in_loss = leaves(request.in_loss, training.device)
    training.loss = training_loss(training.loss, in_loss)
    require_effect(training, in_loss)
    training.loss = training_loss(training.loss, request.in_loss)
    matched = match_state(training, optimizer, state)
    names = [tensor.name for tensor in training.receiving if matched.takes(tensor)]
    rate = optimizer.learning_rate or 0.0
    values = values_of(matched, rate, request.in_loss, names)
    search = _Search(training, validation, optimizer, matched, request, values, advance)
    search.val_loss = validation.problem.value()
    if not abs(search.val_loss) < float("inf"):
        raise NumericalError(
            f"The validation loss is {search.val_loss} at the checkpoint.", "Check --val-batch, and the weights."
        )
    try:
        if request.steps:
            try:
                search.look_ahead()
            except NumericalError as diverged:
                search.error = diverged
                search.unrolled = failed(diverged) if isinstance(search.unrolled, Missing) else search.unrolled
        search.settle()
    except (ResourceError, NumericalError) as error:
        search.error = search.error or error
        if request.steps and isinstance(search.unrolled, Missing):
            search.unrolled = failed(error)
        if isinstance(search.implicit, Missing):
            search.implicit = failed(error)
    result = search.result()
    return result if search.error is None else Interrupted(result, search.error)


def _answer(method: str, horizon: int | None, value: float, slope: float | Missing) -> MethodAnswer:
    none = NOT_OF_THIS_METHOD
    log = slope if isinstance(slope, Missing) else value * slope + 0.0  # no -0
    return MethodAnswer(method, horizon, slope, log, none, none, none, none, none, none, none)
