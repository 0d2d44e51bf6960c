import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fromage_cli.errors import ResourceError, UsageError
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.optimizers.typical_rates import calibration
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.rate_probe import ABOVE, conclude, measure_rate
from fromage_cli.probes.trial_runs.short_runs import APART, STEPS, ShortRuns
from fromage_cli.probes.trial_runs.training import TrainingRows
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms
from fromage_cli.theory.rate_calibration import (
    ADAMW,
    FROMAGE,
    INTERVAL,
    LEAST_GAIN,
    SGD,
    valley_of_least,
)

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
BATCH = as_batch({"x": torch.zeros(64, 1)}, "rows")
ROWS = TrainingRows((BATCH,), (), "somewhere")
WELL = {0.01: 0.9, 0.04: 0.5, 0.16: 0.7, 0.64: math.inf}


def runs(losses: dict[float, float], start: float = 1.0, **settings: object) -> ShortRuns:
    found = ShortRuns(losses=dict(losses), start_loss=start, end_losses=dict(losses), gradients=60.0)
    return replace(found, **settings)


def learnable(rows: int = 320) -> Data:
    """Rows whose class is their largest of three features."""
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(3))
    return {"x": x, "y": x[:, :3].argmax(1)}


def test_a_well_gives_the_rate_its_interval_and_the_gain() -> None:
    found = conclude(runs(WELL), FROMAGE, "probe-init", ROWS)
    valley = valley_of_least(list(WELL), list(WELL.values()))
    assert (found.centre, found.spread) == (valley.centre, valley.spread)
    assert found.learning_rate == found.measured == pytest.approx(FROMAGE.from_initialisation(valley.centre))
    assert found.low == pytest.approx(found.learning_rate * 2.0**-INTERVAL)
    assert found.high == pytest.approx(found.learning_rate * 2.0**INTERVAL)
    assert found.gain == pytest.approx(0.5)
    assert found.reliable
    assert found.reason == "the best of 4 short runs from new weights took 50% of the loss away"
    assert found.rates == tuple(WELL)
    assert found.losses == tuple(WELL.values())
    assert (found.start_loss, found.steps, found.gradient_evaluations) == (1.0, STEPS, 60.0)
    assert found.rows == "somewhere; steps on quarters of them, 16 rows"


@pytest.mark.parametrize(
    ("size", "words"), [(64, "quarters of them, 16 rows"), (9, "quarters of them, 2 rows"), (7, "1 row")]
)
def test_what_a_step_sees_is_said(size: int, words: str) -> None:
    rows = TrainingRows((BATCH.rows(0, size),), (), "somewhere")
    assert conclude(runs(WELL), FROMAGE, "probe-init", rows).rows == f"somewhere; steps on {words}"


def test_each_start_has_its_own_constants() -> None:
    initial, trained = (conclude(runs(WELL), ADAMW, start, ROWS) for start in ("probe-init", "probe"))
    assert initial.centre is not None
    assert initial.measured == pytest.approx(ADAMW.from_initialisation(initial.centre))
    assert trained.measured == pytest.approx(ADAMW.from_checkpoint(initial.centre))
    assert initial.reliable
    assert not trained.reliable
    assert trained.learning_rate == ADAMW.typical
    assert "they start from new ones where --model names a factory that draws them" in trained.reason


FLAT = {0.001 * APART**k: loss for k, loss in enumerate((0.5, 0.41, 0.41, 0.4, 0.41, 0.5))}
"""A great part of the loss taken away at every rate."""
SMALL = {rate: 1.0 - 0.9 * LEAST_GAIN * (1.0 - loss) if math.isfinite(loss) else loss for rate, loss in WELL.items()}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (runs(SMALL), "no short run took more than"),
        (runs(FLAT), "the losses of the short runs are alike over a factor of 34, where at most 16 tells a rate"),
        (runs({0.01: 0.5, 0.04: 0.6, 0.16: 0.7}), "no rate shows a least loss between others"),
        (runs({0.01: 0.7, 0.04: 0.6, 0.16: 0.5}), "no rate shows a least loss between others"),
        (runs({0.01: math.inf, 0.04: math.inf, 0.16: math.inf}), "no rate shows a least loss between others"),
        (runs(WELL, start_loss=-1.0), "the loss is -1 before the first step"),
        (runs(WELL, steps=15), "training batches that cannot be cut into quarters leave 15 steps a run"),
    ],
)
def test_where_the_rate_cannot_be_measured_the_typical_one_is_given_with_the_reason(
    found: ShortRuns, reason: str
) -> None:
    probe = conclude(found, SGD, "probe-init", ROWS)
    assert not probe.reliable
    assert probe.reason.startswith(reason)
    assert probe.learning_rate == probe.typical == SGD.typical
    assert probe.low is None
    assert probe.high is None


@pytest.mark.parametrize("found", [ShortRuns(), runs(WELL)])
def test_runs_that_a_limit_interrupted_tell_no_rate(found: ShortRuns) -> None:
    probe = conclude(found, SGD, "probe-init", ROWS, complete=False)
    assert not probe.reliable and probe.reason.startswith("a limit was reached")
    assert probe.learning_rate == SGD.typical and probe.low is probe.high is None


def test_without_constants_there_is_a_centre_and_no_rate() -> None:
    probe = conclude(runs(WELL), None, "probe", ROWS)
    assert probe.centre is not None
    assert probe.learning_rate is probe.measured is probe.typical is None
    assert not probe.reliable
    assert probe.reason.startswith("no study says")


def test_a_network_that_learns_gets_a_rate_between_those_tried(make_problem: Maker, perceptron: nn.Module) -> None:
    problem = make_problem(perceptron, learnable())
    before = [parameter.detach().clone() for parameter in perceptron.parameters()]
    counted = 0

    def advance() -> None:
        nonlocal counted
        counted += 1

    probe = measure_rate(MatchedState(problem, Optimizer(name="adamw")), fresh=problem, advance=advance)
    assert probe.reliable
    assert probe.estimator == "probe-init"
    assert probe.learning_rate is not None
    assert probe.rates[0] < probe.learning_rate < probe.rates[-1]
    assert probe.gradient_evaluations <= 100.0
    assert problem.evaluations.gradients <= 100.0 / 4 + 20.0
    assert counted == 6
    assert all(torch.equal(a, b) for a, b in zip(before, perceptron.parameters(), strict=True))


@pytest.mark.parametrize("start", ["probe-init", "probe"])
@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [
        (Optimizer("sgd"), 1.0),
        (Optimizer("sgd"), 1e-6),
        (Optimizer("sgd"), 1e6),
        (Optimizer("sgd", momentum=0.9), 1e3),
        (Optimizer("adamw"), 1.0),
        (Optimizer("fromage"), 1.0),
    ],
    ids=lambda given: given.name if isinstance(given, Optimizer) else None,
)
def test_the_cost_stays_below_its_caps(
    make_problem: Maker, perceptron: nn.Module, optimizer: Optimizer, scale: float, start: str
) -> None:
    """At most 100 gradients of training batches, and 20 of all rows, a forward pass counted as a third."""
    problem = make_problem(perceptron, learnable())
    plain, rows = problem.loss, [0.0]

    def counted(model: nn.Module, batch: Batch) -> LossTerms:
        rows[0] += batch.size
        terms = plain(model, batch)
        return replace(terms, total=terms.total * scale)

    problem.loss = counted  # type: ignore[assignment]
    probe = measure_rate(
        MatchedState(problem, optimizer), fresh=problem if start == "probe-init" else None, batch_size=64
    )
    assert 0.0 < probe.gradient_evaluations <= 100.0
    steps = probe.gradient_evaluations * 64 / 320
    taken = problem.evaluations
    assert taken.gradients - steps + taken.forwards / 3.0 <= 20.0
    assert rows[0] == pytest.approx(320 * (taken.gradients + taken.forwards)), "what is counted is what was evaluated"


def test_the_rates_follow_the_unit_of_the_loss_under_plain_descent(make_problem: Maker) -> None:
    data = learnable()
    found = []
    for scale in (1.0, 8.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        problem = make_problem(model, data)
        plain = problem.loss

        def scaled(model: nn.Module, batch: object, plain: object = plain, scale: float = scale) -> object:
            terms = plain(model, batch)  # type: ignore[operator]
            return replace(terms, total=terms.total * scale)

        problem.loss = scaled  # type: ignore[assignment]
        found.append(measure_rate(MatchedState(problem, Optimizer(name="sgd"))))
    assert found[0].centre is not None
    assert found[1].centre == pytest.approx(found[0].centre / 8.0, rel=0.1)


def test_from_a_checkpoint_the_rates_reach_higher(make_problem: Maker, perceptron: nn.Module) -> None:
    problem = make_problem(perceptron, learnable())
    initial = measure_rate(MatchedState(problem, Optimizer(name="sgd")), fresh=problem)
    trained = measure_rate(MatchedState(problem, Optimizer(name="sgd")))
    assert trained.estimator == "probe"
    ratio = ABOVE["probe"] / ABOVE["probe-init"]
    assert trained.rates[-1] / initial.rates[-1] == pytest.approx(ratio)
    assert trained.rates[-1] / trained.rates[-2] == pytest.approx(APART)


def test_adam_counts_as_adamw_and_lion_as_unknown(make_problem: Maker, perceptron: nn.Module) -> None:
    problem = make_problem(perceptron, learnable())
    assert measure_rate(MatchedState(problem, Optimizer(name="adam"))).typical == ADAMW.typical
    lion = measure_rate(MatchedState(problem, Optimizer(name="lion", betas=(0.9, 0.99))))
    assert lion.centre is not None
    assert not lion.reliable
    assert calibration(Optimizer("lion")) is None


def test_a_time_limit_leaves_a_partial_answer(make_problem: Maker, perceptron: nn.Module) -> None:
    problem = make_problem(perceptron, learnable())
    finished = 0

    def advance() -> None:
        nonlocal finished
        finished += 1
        if finished == 3:
            problem.budget.seconds, problem.budget.started = 1.0, time.monotonic() - 2.0

    problem.budget = Budget()
    probe, error = found_of(measure_rate(MatchedState(problem, Optimizer(name="sgd")), advance=advance))
    assert len(probe.rates) == len(probe.losses) == 3
    assert isinstance(error, ResourceError)
    assert not probe.reliable
    assert probe.learning_rate == pytest.approx(SGD.typical)


def test_an_optimizer_without_steps_is_refused(make_problem: Maker, perceptron: nn.Module) -> None:
    with pytest.raises(UsageError, match="No steps can be taken"):
        measure_rate(MatchedState(make_problem(perceptron, learnable()), Optimizer()))
