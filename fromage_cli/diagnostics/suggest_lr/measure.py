"""From a Problem and an optimizer to SuggestedRates."""

from collections.abc import Callable, Sequence

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.alternatives import measure_alternatives
from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch, Request, begin
from fromage_cli.diagnostics.suggest_lr.reading import (
    read_layers,
    read_limit,
    read_noise_scale,
    read_points,
    read_settings,
)
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.diagnostics.suggest_lr.training import NOT_TRAINED, Trained, check, recommend
from fromage_cli.missing import OPTIMIZER_UNKNOWN, Interrupted, Missing, known
from fromage_cli.optimizers.rule import ADAFACTOR, FROMAGE, LARS
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.lines.crossing import Crossing
from fromage_cli.probes.lines.direction import Still
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

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


def measure(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    request: Request | None = None,
    advance: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda words: None,
) -> SuggestedRates | Interrupted[SuggestedRates]:
    """How far the next update may go, by every estimate, and at which rate to train.

    Costs at most 40 gradients of all rows, 12 of them up to the measured limit, and at most 20 Hessian-vector products
    more with `sharpness`; the probe at most 100 minibatch gradients and 20 of all rows. A limit interrupts it. `note`
    takes what the user should know. Raises MismatchError when the state does not fit or nothing moves, UsageError when
    short runs are asked for that cannot be made.
    """
    request = request or Request()
    rule = optimizer if optimizer.name is not None else Optimizer(FROMAGE.name)
    measuring = begin(
        match_state(problem, rule, state), tensors, request=request, advance=advance, known=optimizer.name is not None
    )
    crossing = measuring.measured()
    whole = measuring.measured_together(crossing) if crossing is not None else None
    measuring.lemma2()
    rates: tuple[float | Missing, float | Missing] = (OPTIMIZER_UNKNOWN, OPTIMIZER_UNKNOWN)
    trained = NOT_TRAINED
    if optimizer.name is not None:
        start = measuring.update.line.learning_rate * 1e-2
        if crossing is not None and crossing.eta is not None:
            start = known(measuring.rate(crossing.eta)) or start
        rates = measuring.critical(start), measuring.critical_elsewhere(start)
        if request.sharpness:
            measuring.sharpness()
        trained = recommend(measuring, request.probe, request.fresh, request.batch_size)
    limit = read_limit(measuring, (crossing, whole), known(rates[0]), known(rates[1]))
    rate = known(trained.recommended.learning_rate) or known(limit.learning_rate)
    verifies = optimizer.name is not None and request.verify
    noise, (noise_scale, low, high) = measuring.update.noise, read_noise_scale(measuring.update)
    result = SuggestedRates(
        loss=problem.base.loss,
        limit=limit,
        recommended=trained.recommended,
        estimates=tuple(sorted(measuring.estimates, key=lambda each: ORDER.index(each.name))),
        optimizer=read_settings(measuring, optimizer, limit, request.batch_size),
        noise_scale=noise_scale,
        noise_scale_low=low,
        noise_scale_high=high,
        noise_rows=noise if isinstance(noise, Missing) else noise.rows,
        layers=read_layers(measuring, crossing, limit.eta),
        points=read_points(crossing),
        probe=trained.runs,
        probe_steps=trained.steps,
        verification=check(measuring, rate, request.verify, request.batch_size) if verifies else (),
        alternatives=measure_alternatives(measuring, limit.eta) if optimizer.name is None else (),
        uncertain=crossing.certificate.uncertain if crossing is not None else (),
        noise=tuple(sorted(crossing.certificate.noise)) if crossing is not None else (),
    )
    for words in _notes(measuring, optimizer, crossing, trained, request):
        note(words)
    return result if measuring.error is None else Interrupted(result, measuring.error)


def _notes(
    measuring: RateSearch, optimizer: Optimizer, crossing: Crossing | None, trained: Trained, request: Request
) -> tuple[str, ...]:
    notes = [
        *optimizer.notes,
        *optimizer.common_notes,
        measuring.update.step.note if optimizer.name is not None else "",
    ]
    if request.batch_size is None:
        size = measuring.problem.batch.size
        rows = counted(size, "row")
        notes.append(f"training batch: taken to have {rows}, as the batch here; --train-batch-size gives another.")
    if measuring.update.sampled:
        size = request.batch_size or measuring.problem.batch.size
        rows = counted(size, "row")
        notes.append(f"measured: certain is the mean step of batches of {rows}; one of them may raise the loss.")
    if measuring.update.filled:
        notes.append(f"{optimizer.name}: momentum taken as built up; a first step, without a buffer, is shorter.")
    noise = measuring.update.noise
    if isinstance(noise, Missing):
        notes.append(f"noise: not measured ({noise.words}); cosines are those of the batch as it is.")
    elif noise.count < 8:
        notes.append(f"noise: from {noise.count} parts of the rows only; cosines tend to be too low.")
    if optimizer.rule is LARS:
        notes.append("lars: taken to scale every tensor, vectors too; some implementations leave vectors unscaled.")
    if optimizer.rule is ADAFACTOR:
        notes.append("adafactor: takes no rate above 1/√t after t steps; a higher one moves no further.")
    if optimizer.trust_clip:
        notes.append(f"{optimizer.name}: its clipping of the trust ratio shortens some steps and is left out.")
    if crossing is not None and crossing.products is None and crossing.stopped is None:
        notes.append("measured: the loss has no second derivative, so the search began without a slope.")
    still = [skipped for skipped in measuring.update.line.direction.skipped if skipped.reason not in set(Still)]
    if still:
        notes.append(f"{optimizer.name}: covers matrices only; {counted(len(still), 'tensor')} left out here.")
    notes.append(trained.note)
    return tuple(note for note in notes if note)
