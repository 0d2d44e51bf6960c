"""From a Problem and an optimizer to SuggestedRates."""

from collections.abc import Callable, Sequence

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.suggest_lr.alternatives import measure_alternatives
from fromage_cli.diagnostics.suggest_lr.notes import notes_on
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request, begin
from fromage_cli.diagnostics.suggest_lr.reading import (
    read_contradiction,
    read_layers,
    read_limit,
    read_noise_scale,
    read_points,
    read_settings,
    read_stability,
    read_zero_gradient,
)
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.diagnostics.suggest_lr.training import check, recommend, verification_notes
from fromage_cli.missing import OPTIMIZER_UNKNOWN, Interrupted, Missing, known
from fromage_cli.optimizers.rule import FROMAGE
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.probes.structure.sizes import layers_out_of_line
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

    Costs at most 50 gradients of all rows, 12 of them up to the measured limit. `sharpness` takes at most 20
    Hessian-vector products more; the short runs take as many minibatch gradients as the request allows. A limit
    interrupts it. `note` takes what the user should know. Raises MismatchError when the state does not fit or nothing
    moves. Raises UsageError when the short runs that are asked for cannot be made.
    """
    request = request or Request()
    evaluations = problem.evaluations
    evaluations.doing = "the next update"
    rule = optimizer if optimizer.name is not None else Optimizer(FROMAGE.name)
    measuring = begin(
        match_state(problem, rule, state), tensors, request=request, advance=advance, known=optimizer.name is not None
    )
    crossing, whole = crossings = measuring.certain()
    measuring.lemma2()
    rates: tuple[float | Missing, float | Missing] = (OPTIMIZER_UNKNOWN, OPTIMIZER_UNKNOWN)
    if measuring.known:
        start = measuring.start(crossings)
        rates = measuring.critical(start), measuring.critical_elsewhere(start)
        if request.sharpness:
            evaluations.doing = "curvature"
            measuring.sharpness()
    if request.probe != "none":
        evaluations.doing = "short runs"
    trained = recommend(measuring, request)
    limit = read_limit(measuring, crossings, known(rates[0]), known(rates[1]))
    present = request.rate or request.peak or optimizer.learning_rate
    rate = known(trained.recommended.learning_rate) or present or known(limit.learning_rate)
    if request.verify:
        evaluations.doing = "runs that verify"
    verified = check(measuring, rate, request, trained.again) if measuring.known and request.verify else ()
    alternatives = () if measuring.known else measure_alternatives(measuring, request)
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
        layers=read_layers(measuring, crossing, limit),
        points=read_points(whole or crossing),
        probe=trained.runs,
        probe_steps=trained.steps,
        verification=verified,
        alternatives=alternatives,
        uncertain=crossing.certificate.uncertain if crossing is not None else (),
        noise=tuple(sorted(crossing.certificate.noise)) if crossing is not None else (),
        zero_gradient=read_zero_gradient(measuring),
        schedule=request.schedule.name,
        stability=read_stability(measuring, optimizer.learning_rate, request.trained),
        contradiction=read_contradiction(crossing, problem.base.loss),
        draws=measuring.draws,
        without_size=measuring.update.line.direction.without_size,
        out_of_line=layers_out_of_line(tensors),
    )
    for words in notes_on(measuring, optimizer, crossing, request.batch_size):
        note(words)
    for words in (*trained.notes, *verification_notes(request, trained.again)):
        note(words)
    return result if measuring.error is None else Interrupted(result, measuring.error)
