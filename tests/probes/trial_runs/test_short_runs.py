"""Which runs are made and where they end, against closed forms of descent and training by hand with torch.optim."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import nn

from fromage_cli.errors import ResourceError
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.short_runs import (
    BEYOND,
    CLOSE_APART,
    CLOSE_RATES,
    FIRST_APART,
    FIRST_RATES,
    FIRST_STEPS,
    LEAST_BUDGET,
    SEEDS,
    Course,
    ShortRuns,
    longest_steps,
    make_runs,
    planned,
)
from fromage_cli.probes.trial_runs.training import TrainingRows, training_rows
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.rate_curve import best_rate
from fromage_cli.theory.schedules import Schedule
from tests.probes.trial_runs.bowls import bowl, descended

Maker = Callable[..., Problem]
SGD = Optimizer(name="sgd")
START, CURVATURES = [1.0, 2.0], [2.0, 0.5]
COSINE = Course(Schedule("cosine", 10, 100))


def runs_of(
    problem: Problem, course: Course = COSINE, guess: float = 1.0, budget: int = 400, rows: TrainingRows | None = None
) -> ShortRuns:
    matched = MatchedState(problem, SGD)
    return found_of(make_runs(lambda _: matched, rows or training_rows(problem), course, guess=guess, budget=budget))[0]


def rates_of(found: ShortRuns, steps: int, seed: int = 0) -> list[float]:
    return [run.learning_rate for run in found.runs if (run.steps, run.seed) == (steps, seed)]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("first", [0.0, 250.0])
def test_a_compressed_schedule_has_the_factors_at_the_middles_and_the_mean_of_the_real_one(
    shape: str, first: float
) -> None:
    schedule = Schedule(shape, total=1000, floor=0.1)
    course = Course(schedule, first)
    for steps in (12, 24, 48):
        factors = course.factors(steps)
        width = (1000.0 - first) / steps
        middles = [schedule.rate_factor(first + width * (k + 0.5) - 0.5) for k in range(steps)]
        assert factors == pytest.approx(middles, abs=1e-12)
        assert factors == [factor for *_, factor in schedule.pieces(first, 1000.0, steps)]
        real = [schedule.rate_factor(step) for step in range(int(first), 1000)]
        assert math.fsum(factors) / steps == pytest.approx(math.fsum(real) / len(real), abs=1e-3)


@pytest.mark.parametrize(("warmup", "within"), [(500, 1e-3), (250, 1e-3), (100, 2e-3), (60, 1e-2), (125, 1e-2)])
def test_a_warm_up_is_compressed_too(warmup: int, within: float) -> None:
    """Exactly where it ends between two of the parts; its bend inside of one is met at that part's middle."""
    schedule = Schedule("cosine", warmup, 1000)
    factors = Course(schedule).factors(12)
    assert len(factors) == 12 and factors[0] < factors[1]
    real = math.fsum(schedule.rate_factor(step) for step in range(1000)) / 1000
    assert math.fsum(factors) / 12 == pytest.approx(real, abs=within)


def test_a_table_of_rates_is_followed() -> None:
    table = Schedule("table", points=((0.0, 0.0), (40.0, 1.0), (80.0, 0.5), (120.0, 0.5)))
    assert Course(table).factors(3) == pytest.approx([19.5 / 40, 1.0 - 19.5 / 80, 0.5])


def test_without_an_end_runs_go_along_the_first_steps_as_they_are() -> None:
    course = Course(Schedule(warmup=8), first=4.0)
    assert course.factors(6) == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]


def test_a_run_has_no_more_steps_than_are_left() -> None:
    course = Course(Schedule("linear", total=100), first=95.0)
    assert course.factors(12) == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])


@pytest.mark.parametrize(
    ("course", "ended"),
    [
        (Course(Schedule("linear", total=100), 88.0), False),
        (Course(Schedule("linear", total=100), 89.0), True),  # fewer steps than the shortest run has
        (Course(Schedule("cosine", total=100), 80.0), False),
        (Course(Schedule("cosine", total=100), 87.0), True),  # at most 4 % of the peak
        (Course(Schedule("linear", total=8)), False),  # a short run, but a whole one
        (Course(Schedule("constant", total=100), 95.0), False),
        (Course(Schedule("table", points=((0.0, 1.0), (100.0, 0.0))), 100.0), True),
        (Course(Schedule("table", points=((0.0, 1.0), (100.0, 0.5))), 120.0), False),  # goes on at half of the peak
    ],
)
def test_a_schedule_of_which_little_is_left_has_ended(course: Course, ended: bool) -> None:
    assert course.ended is ended
    assert (planned(400, course, 24) == (0, 0)) is ended


@pytest.mark.parametrize("first", [100.0, 130.0])
def test_behind_its_end_a_constant_rate_goes_on_and_a_changing_one_has_ended(first: float) -> None:
    constant, linear = (Course(Schedule(shape, total=100), first) for shape in ("constant", "linear"))
    assert constant.factors(12) == [1.0] * 12 and not constant.ended and linear.ended


@pytest.mark.parametrize("course", [Course(), COSINE, Course(Schedule("linear", 0, 300), 120.0)])
def test_losses_of_plain_descent_on_a_quadratic_are_those_of_the_formula(make_problem: Maker, course: Course) -> None:
    found = runs_of(bowl(make_problem, START, CURVATURES), course)
    assert found.start_losses == pytest.approx([descended([], START, CURVATURES)] * SEEDS)
    for run in found.runs:
        rates = [run.learning_rate * factor for factor in course.factors(run.steps)]
        assert run.loss == pytest.approx(descended(rates, START, CURVATURES), rel=1e-9, abs=1e-200)


def test_runs_come_far_apart_first_then_close_together_around_the_best_from_both_seeds(make_problem: Maker) -> None:
    found = runs_of(bowl(make_problem, START, CURVATURES))
    first = rates_of(found, FIRST_STEPS)
    assert first == pytest.approx([FIRST_APART**k for k in range(-3, 4)])
    centre = best_rate(found.runs[:FIRST_RATES], found.start_losses[:1])
    close = rates_of(found, 2 * FIRST_STEPS)
    assert len(close) == CLOSE_RATES and centre is not None
    assert math.sqrt(close[0] * close[-1]) == pytest.approx(centre)
    assert [second / first for first, second in pairwise(close)] == pytest.approx([CLOSE_APART] * (CLOSE_RATES - 1))
    assert rates_of(found, 2 * FIRST_STEPS, 1) == close and rates_of(found, FIRST_STEPS, 1) == first
    assert found.gradients == 360 == sum(run.steps for run in found.runs)


def test_more_budget_makes_longer_runs(make_problem: Maker) -> None:
    problem, long = bowl(make_problem, START, CURVATURES), Course(Schedule("cosine", 10, 1000))
    rows = training_rows(problem, problem.rows // 10)
    assert len(rows.batches) == 8
    found = runs_of(problem, long, budget=552, rows=rows)
    lengths = [FIRST_STEPS, 2 * FIRST_STEPS, 4 * FIRST_STEPS]
    assert sorted({run.steps for run in found.runs}) == lengths
    few = runs_of(problem, Course(Schedule("cosine", 10, 40)), budget=552, rows=rows)
    assert max(run.steps for run in few.runs) == 2 * FIRST_STEPS, "no longer than the run that they stand for"
    few = runs_of(problem, long, budget=552, rows=training_rows(problem))
    assert max(run.steps for run in few.runs) == 2 * FIRST_STEPS, "no batch is taken more than six times"


@pytest.mark.parametrize("budget", [1, 83, 84, 168, 180, 263, 264, 359, 360, 551, 552])
def test_the_budget_is_never_exceeded_and_is_told_beforehand(make_problem: Maker, budget: int) -> None:
    problem = bowl(make_problem, START, CURVATURES)
    rows = training_rows(problem)
    course = Course(Schedule("cosine", 0, 1000))
    found = runs_of(problem, course, budget=budget, rows=rows)
    assert found.gradients <= budget
    assert found.gradients == sum(run.steps for run in found.runs)
    assert (len(found.runs), found.gradients) == planned(budget, course, longest_steps(rows))
    assert (found.gradients == 0) == (budget < LEAST_BUDGET)
    steps = problem.evaluations.gradients * problem.rows / rows.batches[0].size
    assert steps == pytest.approx(found.gradients + (5 if found.gradients else 0)), "base: all rows, 5 minibatches"


@pytest.mark.parametrize(("best", "beyond"), [(1.0, 0), (4.0**4, 2), (4.0**-4, 2), (4.0**12, BEYOND), (4.0**-12, 3)])
def test_where_the_least_loss_lies_at_an_end_runs_go_on_beyond_it(
    make_problem: Maker, best: float, beyond: int
) -> None:
    """Of one coordinate of curvature h the first step at 1 / h reaches the minimum."""
    problem = bowl(make_problem, [1.0], [1.0 / best])
    found = runs_of(problem, Course())
    tried = rates_of(found, FIRST_STEPS)
    assert len(tried) == FIRST_RATES + beyond
    outermost = FIRST_APART ** (FIRST_RATES // 2 + beyond)
    if beyond:
        assert (max(tried) if best > 1.0 else min(tried)) == pytest.approx(outermost if best > 1.0 else 1 / outermost)
    assert found.gradients <= 400


def test_runs_that_leave_the_numbers_end_early_and_count_as_infinite(make_problem: Maker) -> None:
    problem = bowl(make_problem, [1e-150], [1e200])
    found = runs_of(problem, Course(), guess=1.0, budget=84)
    assert [run.loss for run in found.runs] == [math.inf] * FIRST_RATES
    assert problem.model.weight.item() == 1e-150  # type: ignore[operator, union-attr]
    assert problem.evaluations.gradients * 5 < 84


def regression(rows: int = 40) -> dict[str, torch.Tensor]:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0)).double()
    return {"x": x, "y": torch.randn(rows, 2, generator=torch.Generator().manual_seed(1)).double()}


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2).double()


def by_hand(seed: int, rate: float, factors: Sequence[float], order: Sequence[slice]) -> tuple[float, float]:
    """Ordinary training with momentum: the loss of the rows kept apart, before and after."""
    model, data = linear(seed), regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)

    def loss(rows: slice) -> torch.Tensor:
        return nn.functional.mse_loss(model(data["x"][rows]), data["y"][rows])

    before = loss(slice(32, 40)).item()
    for step, factor in enumerate(factors):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.zero_grad()
        loss(order[step % len(order)]).backward()
        optimizer.step()
    return before, loss(slice(32, 40)).item()


def test_each_seed_has_weights_and_an_order_of_batches_of_its_own(make_problem: Maker) -> None:
    asked: list[int] = []

    def start(seed: int) -> MatchedState:
        asked.append(seed)
        return MatchedState(make_problem(linear(seed), regression(), loss="mse"), Optimizer("sgd", momentum=0.9))

    rows = training_rows(start(0).problem)
    asked.clear()
    made = make_runs(start, rows, COSINE, guess=0.01, budget=400)
    assert isinstance(made, ShortRuns) and asked == [0, 1]
    assert {(run.steps, run.seed) for run in made.runs} == {(12, 0), (24, 0), (24, 1), (12, 1)}
    order = [slice(start, start + 8) for start in (0, 8, 16, 24)]
    for run in made.runs:
        if math.isfinite(run.loss) and run.loss < 1e3:
            turned = order[::-1] if run.seed else order
            before, after = by_hand(run.seed, run.learning_rate, COSINE.factors(run.steps), turned)
            assert made.start_losses[run.seed] == pytest.approx(before)
            assert run.loss == pytest.approx(after, rel=1e-9)
    assert made.start_losses[0] != made.start_losses[1]


@pytest.mark.parametrize("after", [2, FIRST_RATES + 2])
def test_a_limit_leaves_what_was_measured_and_the_weights(make_problem: Maker, after: int) -> None:
    problem = bowl(make_problem, START, CURVATURES, budget=Budget())
    finished = 0

    def advance() -> None:
        nonlocal finished
        finished += 1
        if finished == after:
            problem.budget.seconds, problem.budget.started = 1.0, time.monotonic() - 2.0

    matched = MatchedState(problem, SGD)
    rows = training_rows(problem)
    made, error = found_of(make_runs(lambda _: matched, rows, COSINE, guess=1.0, budget=400, advance=advance))
    assert len(made.runs) == after and isinstance(error, ResourceError)
    assert made.gradients == sum(run.steps for run in made.runs)
    assert problem.model.weight.tolist() == START  # type: ignore[operator, union-attr]
