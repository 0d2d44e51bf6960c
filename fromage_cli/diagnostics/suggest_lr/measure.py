"""From a Problem and an optimizer to SuggestedRates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.suggest_lr.alternatives import measure_alternatives
from fromage_cli.diagnostics.suggest_lr.course import Course, Wish, begin
from fromage_cli.diagnostics.suggest_lr.reading import read_groups, read_layers, read_limit, read_points
from fromage_cli.diagnostics.suggest_lr.result import (
    Alternative,
    Limit,
    OptimizerSettings,
    Recommended,
    SuggestedRates,
    VerifiedRun,
)
from fromage_cli.diagnostics.suggest_lr.training import Trained, check, recommend
from fromage_cli.errors import FromageError
from fromage_cli.optimizers.rule import FROMAGE, LARS
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.lines.crossing import Crossing
from fromage_cli.probes.optimizer_step.gradient_noise import GradientNoise
from fromage_cli.probes.optimizer_step.matched_state import state_of
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.terminal.words import counted
from fromage_cli.theory.gradient_noise import noise_scale_range

ORDER = (
    "lemma2-count",
    "lemma2-path",
    "lemma2-effective",
    "measured",
    "measured-sum",
    "critical",
    "critical-independent",
    "sharpness",
    "probe",
    "probe-init",
    "typical",
)
"""Of the estimates: from assumption to measurement, first for the next update, then for training."""


@dataclass(frozen=True)
class Measurement:
    """The result, what was cut short, and what the user should know."""

    result: SuggestedRates
    error: FromageError | None
    notes: tuple[str, ...]


def measure(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    wish: Wish | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Measurement:
    """How far the next update may go, by every estimate, and at which rate to train.

    Costs at most 40 gradients of all rows, 12 of them up to the measured limit, and at most 20 Hessian-vector products
    more with `sharpness`; the probe at most 100 minibatch gradients and 20 of all rows. A limit that is reached leaves
    what was found. Raises MismatchError when the state does not fit or nothing moves, UsageError when short runs are
    asked for that cannot be made.
    """
    wish, state = wish or Wish(), state_of(optimizer, state)
    known = optimizer if optimizer.name is not None else Optimizer(FROMAGE.name)
    course = begin(problem, tensors, known, state, wish=wish, advance=advance, known=optimizer.name is not None)
    crossing = course.measured()
    whole = course.measured_together(crossing) if crossing is not None else None
    course.lemma2()
    trained = Trained(_nothing())
    verified: tuple[VerifiedRun, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    rates: tuple[float | None, float | None] = (None, None)
    if optimizer.name is not None:
        start = course.rate(crossing.eta if crossing is not None else None) or course.update.line.learning_rate * 1e-2
        rates = course.critical(start), course.critical_elsewhere(start)
        if wish.sharpness:
            course.sharpness()
        trained = recommend(course, wish.probe, wish.fresh, state, wish.batch_size)
    limit = read_limit(course, (crossing, whole), *rates)
    if optimizer.name is not None and wish.verify:
        rate = trained.recommended.learning_rate or limit.learning_rate
        verified = check(course, rate, wish.verify, state, wish.batch_size)
    if optimizer.name is None:
        alternatives = measure_alternatives(course, limit.eta)
    noise = course.update.noise
    low, high = _noise_range(noise)
    result = SuggestedRates(
        loss=problem.base.loss,
        limit=limit,
        recommended=trained.recommended,
        estimates=tuple(sorted(course.estimates, key=lambda each: ORDER.index(each.name))),
        optimizer=_settings(course, optimizer, state, limit, wish),
        noise_scale=noise.noise_scale if noise is not None else None,
        noise_scale_low=low,
        noise_scale_high=high,
        noise_rows=noise.rows if noise is not None else None,
        layers=read_layers(course, crossing, limit.eta),
        points=read_points(crossing),
        probe=trained.runs,
        probe_steps=trained.steps,
        verification=verified,
        alternatives=alternatives,
        uncertain=crossing.certificate.uncertain if crossing is not None else (),
        noise=tuple(sorted(crossing.certificate.noise)) if crossing is not None else (),
    )
    return Measurement(result, course.error, _notes(course, optimizer, crossing, trained, wish))


def _noise_range(noise: GradientNoise | None) -> tuple[float | None, float | None]:
    """One standard error below the noise scale, and above."""
    if noise is None or noise.noise_scale is None:
        return None, None
    return noise_scale_range(list(noise.chunks.values())) or (None, None)


def _nothing() -> Recommended:
    return Recommended(None, None, None, None, None, "the optimizer is not known", False, None)


def _settings(
    course: Course,
    optimizer: Optimizer,
    state: OptimizerState | None,
    limit: Limit,
    wish: Wish,
) -> OptimizerSettings:
    rate = optimizer.learning_rate if optimizer.name is not None else None
    return OptimizerSettings(
        name=optimizer.name,
        current_learning_rate=rate,
        current_ratio=rate / limit.learning_rate if rate is not None and limit.learning_rate else None,
        momentum=optimizer.momentum if optimizer.has("momentum") else None,
        betas=optimizer.betas if optimizer.has("betas") else None,
        weight_decay=optimizer.weight_decay if optimizer.name is not None else None,
        filled=course.update.filled,
        train_batch_size=wish.batch_size or course.problem.batch.size,
        groups=read_groups(course, state, limit.eta),
    )


def _notes(
    course: Course, optimizer: Optimizer, crossing: Crossing | None, trained: Trained, wish: Wish
) -> tuple[str, ...]:
    notes = [*optimizer.notes, *optimizer.group_notes, course.update.step.note if optimizer.name is not None else ""]
    if wish.batch_size is None:
        size = course.problem.batch.size
        rows = counted(size, "row")
        notes.append(f"training batch: taken to have {rows}, as the batch here; --train-batch-size gives another.")
    if course.update.sampled:
        size = wish.batch_size or course.problem.batch.size
        rows = counted(size, "row")
        notes.append(f"measured: certain is the mean step of batches of {rows}; one of them may raise the loss.")
    if course.update.filled:
        notes.append(f"{optimizer.name}: momentum taken as built up; a first step, without a buffer, is shorter.")
    if course.update.noise is not None and course.update.noise.count < 8:
        notes.append(f"noise: from {course.update.noise.count} parts of the rows only; cosines tend to be too low.")
    if course.update.no_noise is not None:
        notes.append(f"noise: not measured ({course.update.no_noise}); cosines are those of the batch as it is.")
    if optimizer.rule is LARS:
        notes.append("lars: taken to scale every tensor, vectors too; some implementations leave vectors unscaled.")
    if optimizer.trust_clip:
        notes.append(f"{optimizer.name}: its clipping of the trust ratio shortens some steps and is left out.")
    if crossing is not None and crossing.products is None and crossing.stopped is None:
        notes.append("measured: the loss has no second derivative, so the search began without a slope.")
    still = [skipped for skipped in course.update.line.direction.skipped if "not covered" in skipped.reason]
    if still:
        notes.append(f"{optimizer.name}: covers matrices only; {counted(len(still), 'tensor')} left out here.")
    notes.append(trained.note)
    return tuple(note for note in notes if note)
