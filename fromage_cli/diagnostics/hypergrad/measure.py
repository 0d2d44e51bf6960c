"""From a Problem, an optimizer and validation rows to a HypergradResult."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.hypergrad.advice import advised
from fromage_cli.diagnostics.hypergrad.answers import NOT_ASKED, NOT_OF_THIS_METHOD, ONE_PART, Found, Request
from fromage_cli.diagnostics.hypergrad.result import DELTA_STN, HypergradResult
from fromage_cli.errors import FromageError, MismatchError, NumericalError, ResourceError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, Interrupted, Missing, Why, failed, found_of, known
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.conditioning import Conditioning
from fromage_cli.probes.hypergradients.continued import Continuations, standard_error
from fromage_cli.probes.hypergradients.delta_stn import DAMPING, DeltaFit, measure_conditioning
from fromage_cli.probes.hypergradients.differentiable_step import differentiable
from fromage_cli.probes.hypergradients.hyperparameters import (
    EVERYWHERE,
    Hyperparameter,
    hyperparameters,
    values_of,
)
from fromage_cli.probes.hypergradients.implicit import Implicit, ImplicitResponse
from fromage_cli.probes.hypergradients.response import Curvature
from fromage_cli.probes.hypergradients.step_batches import StepBatches, step_batches
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.unrolled import Unrolled, copies_that_fit, unroll
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.problem.evaluation.gradient_pullback import require_effect
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import leaves, training_loss

T = TypeVar("T")


def notes_of(
    training: Problem, optimizer: Optimizer, state: OptimizerState | None, request: Request
) -> tuple[str, ...]:
    """What the steps leave out of what was given, in sentences."""
    notes, batches = [], len([*training.batches, *training.spare])
    if request.steps and optimizer.remembers and not MatchedState(training, optimizer, state).holds_memory:
        notes.append("optimizer: its saved moments are not known, so the steps begin with moments of 0.")
    if request.steps and request.batch_size is not None and batches > 1:
        notes.append(f"steps: they take the batches as they come, not in {request.batch_size} rows.")
    return tuple(notes)


@dataclass
class _Search:
    """One measurement on its way."""

    training: Problem
    validation: Validation
    matched: MatchedState
    found: Found
    advance: Callable[[], None]
    batches: StepBatches = field(default_factory=lambda: StepBatches((), ""))
    conditioning: Conditioning | Missing = NOT_ASKED
    copies: str | None = None
    parts: int = 0
    """Of the validation rows, those that have targets."""
    train_loss: float = 0.0
    val_loss: float = 0.0
    end_loss: float | None = None
    """That after the steps, as a run that nothing was moved in found it."""
    error: FromageError | None = None

    @property
    def asked(self) -> list[Hyperparameter]:
        """The hyperparameters that there are."""
        return hyperparameters(self.matched, self.found.values)

    def look_ahead(self) -> None:
        """Takes the next steps, differentiates through them, and takes them with each hyperparameter moved."""
        found = self.found
        if found.optimizer.rule is None or found.optimizer.learning_rate is None:
            found.unrolled = LEARNING_RATE_UNKNOWN
            return
        self.batches = self._batches(0)
        steps = TrainingSteps(self.matched, self.batches.batches, found.values)
        evaluations = self.training.evaluations
        evaluations.doing = "training on, and back through the steps"
        found.unrolled = self._differentiated(steps)
        runs = Continuations(
            steps, self.validation, found.values, lambda draw: self._batches(draw).batches, self.advance
        )
        for one in self.asked:
            if found.request.moves(one) and found.request.only in (None, one.name):
                evaluations.doing = f"training on with {one.name} moved"
                try:
                    found.continued[one.name, one.scope] = runs.measure(one)
                    self.end_loss = runs.end_loss
                except NumericalError as diverged:
                    found.continued[one.name, one.scope], self.error = failed(diverged), diverged

    def _batches(self, draw: int) -> StepBatches:
        """The training batches of the steps in one draw."""
        available, asked = [*self.training.batches, *self.training.spare], self.found.request
        return step_batches(available, asked.steps, size=asked.batch_size, seed=self.training.seed, draw=draw)

    def _differentiated(self, steps: TrainingSteps) -> Unrolled | Missing:
        """The derivatives through the steps, or why there are none."""
        if not differentiable(steps.record):
            return Missing(Why.NOT_DEFINED, f"the step of {self.found.optimizer.name} is not differentiated here")
        copies = copies_that_fit(steps)
        self.copies = "all" if copies is None else "square root"
        try:
            return unroll(steps, self.validation, self.found.values, copies=copies, advance=self.advance)
        except MismatchError as refused:  # no second derivative; the steps themselves can be taken
            return failed(refused)

    def settle(self) -> None:
        """Solves for where training would settle; where that alone is known, also how sure it is."""
        evaluations, found, asked = self.training.evaluations, self.found, self.found.request
        evaluations.doing = "solving for where training would settle"
        curvature: Curvature = "hessian" if asked.settled == "hessian" else "gauss-newton"
        try:
            response = ImplicitResponse(
                self.matched,
                self.validation,
                found.values,
                curvature=curvature,
                steps=asked.horizon,
                advance=self.advance,
            )
            chosen = DAMPING if asked.settled == DELTA_STN and asked.damping is None else asked.damping
            implicit, error = found_of(response.measure(chosen))
        except MismatchError as refused:
            if not asked.steps:
                raise
            found.implicit = failed(refused)
            return
        found.implicit = implicit
        if asked.settled == DELTA_STN and error is None:
            error = self._fit_hypernetwork(response, implicit.answer.damping or 0.0)
        for one in self.asked if not asked.steps else ():
            if asked.moves(one) and error is None:
                parts, error = found_of(response.by_part(one, implicit.answer.damping or 0.0))
                method = "gauss-newton" if asked.settled == DELTA_STN else asked.settled
                found.settled_stderr[method, one.name, one.scope] = self._spread(one, implicit, parts)
        if error is not None:
            raise error

    def _fit_hypernetwork(self, solved: ImplicitResponse, damping: float) -> FromageError | None:
        """Runs Delta-STN, and gives the error that ended it early."""
        self.training.evaluations.doing = "fitting the hypernetwork of Delta-STN"
        moved = [one for one in self.asked if self.found.request.moves(one) and one.scope == EVERYWHERE]
        if not moved:
            return None
        fit = DeltaFit(solved.response, moved, damping=damping, seed=self.training.seed, advance=self.advance)
        fitted, error = found_of(fit.measure(self.validation))
        self.found.fitted = fitted
        for key, parts in fitted.by_part.items():
            stderr = standard_error([parts], self.validation.shares)
            self.found.settled_stderr[DELTA_STN, *key] = ONE_PART if stderr is None else stderr
        above = next((one for one in fit.hyperparameters if one.value > 0.0), None)
        layered = any(tensor.is_layer for tensor in solved.response.space.tensors)
        if above is not None and layered and error is None:
            self.conditioning = measure_conditioning(solved.response, above, damping=damping)
        return error

    def _spread(self, one: Hyperparameter, found: Implicit, parts: Sequence[float]) -> float | Missing:
        """The standard error over validation parts, and over draws of dropout masks."""
        over_parts = standard_error([parts], self.validation.shares)
        if over_parts is None:
            return ONE_PART
        draws = found.answer.dropout_stderr(one, self.found.values) if one.place == "dropout" else None
        return math.hypot(over_parts, draws or 0.0)

    def result(self) -> HypergradResult:
        """What has been found so far."""
        found = self.found
        after = found.unrolled if isinstance(found.unrolled, Missing) else found.unrolled.end_loss
        if isinstance(after, Missing) and self.end_loss is not None:
            after = self.end_loss
        listed = []
        for one in self.asked:
            answers = found.answers(one)
            if found.request.moves(one):
                answers = advised(answers, self.val_loss, known(after), self.parts)
            listed.append(answers)
        return HypergradResult(
            train_loss=self.train_loss,
            val_loss=self.val_loss,
            val_loss_after=after,
            gradient_norm=self._of_settled(lambda implicit: implicit.gradient_norm),
            optimizer=found.optimizer.name,
            learning_rate=found.optimizer.learning_rate or LEARNING_RATE_UNKNOWN,
            steps=found.request.steps or None,
            batches=self.batches.source,
            val_rows=self.validation.problem.rows,
            val_parts=self.parts,
            copies=self.copies,
            damping=self._of_settled(lambda implicit: implicit.answer.damping),
            invariant_layers=self._of_settled(lambda implicit: implicit.invariant_layers),
            conditioning=self.conditioning,
            hyperparameters=tuple(listed),
        )

    def _of_settled(self, number: Callable[[Implicit], T | None]) -> T | Missing:
        """One number of the implicit answer."""
        if isinstance(self.found.implicit, Missing):
            return self.found.implicit
        value = number(self.found.implicit)
        return NOT_OF_THIS_METHOD if value is None else value


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
    found = Found(request, optimizer, values)
    search = _Search(training, validation, matched, found, advance)
    # all that the result needs, for nothing can be evaluated where a limit interrupts the network
    search.parts = sum(share > 0.0 for share in validation.shares)
    search.train_loss, search.val_loss = training.base.loss, validation.problem.value()
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
                found.unrolled = failed(diverged) if isinstance(found.unrolled, Missing) else found.unrolled
        search.settle()
    except (ResourceError, NumericalError) as error:
        search.error = search.error or error
        if request.steps and isinstance(found.unrolled, Missing):
            found.unrolled = failed(error)
        if isinstance(found.implicit, Missing):
            found.implicit = failed(error)
    result = search.result()
    return result if search.error is None else Interrupted(result, search.error)
