"""What short runs start from, and what every word on the page says of it."""

import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli import stopping
from fromage_cli.checkpoints import TensorEntry
from fromage_cli.diagnostics.suggest_lr.findings import judge
from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request, begin
from fromage_cli.diagnostics.suggest_lr.training import INTERRUPTED, LEFT, check, course_of
from fromage_cli.errors import NumericalError, ResourceError, UsageError
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.optimizers.typical_rates import calibration
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.rate_probe import TOO_FEW
from fromage_cli.probes.trial_runs.short_runs import Course
from fromage_cli.probes.trial_runs.training import training, training_rows
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.models import fresh_model
from fromage_cli.problem.networks.perceptron import build_perceptron
from fromage_cli.problem.user_code.declared import Declared
from fromage_cli.theory.rate_calibration import ADAMW, WholeRun, conclude
from fromage_cli.theory.rate_curve import ShortRun
from fromage_cli.theory.schedules import Schedule
from tests.diagnostics.measured import Measured, run_measurement

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
SHAPES: Mapping[str, tuple[int, ...]] = {"0.weight": (16, 8), "0.bias": (16,), "1.weight": (3, 16), "1.bias": (3,)}


def learnable() -> Data:
    """Rows whose class is their largest of three features."""
    x = torch.randn(320, 8, generator=torch.Generator().manual_seed(3))
    return {"x": x, "y": x[:, :3].argmax(1)}


def made(seed: int) -> nn.Module:
    """The factory."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def rebuilt(seed: int) -> nn.Module:
    """The same network from the names and shapes of its tensors."""
    entries = {name: TensorEntry(name, "float32", shape) for name, shape in SHAPES.items()}
    model = fresh_model(lambda _: build_perceptron(entries, Declared(activation="tanh"))[0], seed)
    assert model is not None
    return model


def suggest(problem: Problem, probe: str, fresh: Callable[[int], Problem | None], **asked: Any) -> Measured:
    request = Request(probe=probe, fresh=fresh, **{"budget": 180, **asked})
    return run_measurement(measure, problem, problem.receiving, Optimizer("adamw", 0.01), None, request=request)


def estimate(found: Measured) -> Any:
    (named,) = [each for each in found.result.estimates if each.name.startswith("probe")]
    return named


@pytest.mark.parametrize("probe", ["auto", "init"])
@pytest.mark.parametrize(
    ("factory", "start"), [(made, "from new weights"), (rebuilt, "from new weights as torch draws them")]
)
def test_where_new_weights_can_be_had_every_seed_starts_from_its_own(
    make_problem: Maker, factory: Callable[[int], nn.Module], start: str, probe: str
) -> None:
    drawn: list[int] = []

    def fresh(seed: int) -> Problem:
        drawn.append(seed)
        return make_problem(factory(seed), learnable())

    found = suggest(make_problem(made(5), learnable()), probe, fresh, budget=276)
    result = found.result
    assert (result.recommended.estimator, estimate(found).name) == ("probe-init", "probe-init")
    assert drawn == [0, 1] and {run.seed for run in result.probe} == {0, 1}
    at = [
        {run.seed: run.loss for run in result.probe if run.learning_rate == rate and run.steps == 24}
        for rate in {run.learning_rate for run in result.probe if run.steps == 24}
    ]
    assert all(len(losses) == 2 and losses[0] != losses[1] for losses in at)
    assert estimate(found).assumption == f"{len(result.probe)} short runs; 276 steps in all {start}"
    assert f"short runs: {len(result.probe)} {start}, 276 of 276 steps allowed; 4 batches of 64 rows" in found.notes[-4]
    assert found.notes[-3:-1] == (
        "short runs: --probe-budget 360 tells more.",
        "short runs: the rate is for a training of 200 steps; --total-steps N gives yours.",
    )


@pytest.mark.parametrize("probe", ["auto", "checkpoint"])
def test_elsewhere_they_start_from_the_checkpoint(make_problem: Maker, probe: str) -> None:
    found = suggest(make_problem(made(5), learnable()), probe, lambda _: None)
    assert found.result.recommended.estimator == estimate(found).name == "probe"
    assert estimate(found).assumption == "11 short runs; 180 steps in all from these weights"
    assert len(found.result.probe) == 11 and found.result.probe_steps == 24


def test_the_checkpoint_is_asked_for_although_new_weights_could_be_had(make_problem: Maker) -> None:
    def fresh(seed: int) -> Problem:
        raise AssertionError("new weights were drawn")

    assert suggest(make_problem(made(5), learnable()), "checkpoint", fresh).result.recommended.estimator == "probe"


def test_from_new_weights_only_is_refused_where_there_are_none(make_problem: Maker) -> None:
    with pytest.raises(UsageError, match="draws new weights; this one comes with its own"):
        suggest(make_problem(made(5), learnable()), "init", lambda _: None)


def test_the_answer_is_that_of_the_runs(make_problem: Maker) -> None:
    """The rate and its relative step, the range, what is lost, and the share of the loss that was taken away."""
    found = suggest(make_problem(made(5), learnable()), "checkpoint", lambda _: None, budget=360)
    told, losses = found.result.recommended, [run.loss for run in found.result.probe]
    concluded = conclude(
        [ShortRun(run.learning_rate, run.steps, run.seed, run.loss) for run in found.result.probe],
        [start_loss(make_problem)] * 2,
        calibration(Optimizer("adamw")),
        WholeRun(peak=0.01, new=False, parts=True),
    )
    assert (told.learning_rate, told.low, told.high) == pytest.approx(
        (concluded.learning_rate, concluded.low, concluded.high), rel=1e-6
    )
    assert told.regret == pytest.approx(concluded.regret, rel=1e-4) and told.reason == concluded.reason
    assert told.reliable == concluded.reliable
    assert told.gain == pytest.approx(1.0 - min(losses) / start_loss(make_problem), rel=1e-6)
    assert told.eta == pytest.approx(estimate(found).eta) and estimate(found).learning_rate == told.learning_rate


def start_loss(make_problem: Maker) -> float:
    """Of the last fifth of the rows, before any step."""
    data = learnable()
    return make_problem(made(5), {name: rows[256:] for name, rows in data.items()}).value()


def test_without_runs_there_is_no_rate_to_train_at_and_the_usual_one_stays_an_estimate(make_problem: Maker) -> None:
    found = suggest(make_problem(made(5), learnable()), "none", lambda _: None).result
    told = found.recommended
    for value in (told.learning_rate, told.eta, told.low, told.high, told.regret, told.gain):
        assert isinstance(value, Missing) and value.code == Why.NOT_ASKED
    assert told.estimator is None and not told.reliable and found.probe == ()
    assert [each.learning_rate for each in found.estimates if each.name == "typical"] == [ADAMW.typical]


def test_below_the_least_budget_the_range_is_what_is_usual(make_problem: Maker) -> None:
    found = suggest(make_problem(made(5), learnable()), "checkpoint", lambda _: None, budget=83, peak=0.02).result
    told = found.recommended
    assert isinstance(told.learning_rate, Missing) and told.learning_rate.code == Why.INDISTINCT
    assert told.reason == TOO_FEW and found.probe == ()
    assert isinstance(found.probe_steps, Missing) and told.estimator is None and not told.reliable
    assert known(told.low) is not None and known(told.high) is not None
    assert told.low < 0.02 < told.high
    used = suggest(make_problem(made(5), learnable()), "checkpoint", lambda _: None, budget=83).result.recommended
    assert used.low < 0.01 < used.high and used.high < 0.1, "the rate in use; of trained weights none is typical"


def test_one_row_allows_no_runs(make_problem: Maker) -> None:
    one = {name: rows[:1] for name, rows in learnable().items()}
    told = suggest(make_problem(made(5), one), "auto", lambda _: None).result.recommended
    assert isinstance(told.learning_rate, Missing) and "two rows" in told.reason
    with pytest.raises(UsageError, match="two rows"):
        suggest(make_problem(made(5), one), "checkpoint", lambda _: None)


@pytest.mark.parametrize(("size", "said"), [(None, True), (64, False), (200, True)])
def test_batches_that_are_smaller_than_in_training_are_noted(make_problem: Maker, size: int | None, said: bool) -> None:
    found = suggest(make_problem(made(5), learnable()), "checkpoint", lambda _: None, budget=84, batch_size=size)
    words = f"short runs: batches of 64 rows where training has {size or 320}, "
    assert any(note.startswith(words) for note in found.notes) == said


def test_runs_follow_the_schedule_all_of_it_from_new_weights_and_what_is_left_from_here() -> None:
    request = Request(schedule=Schedule("cosine", 10, 100), made=40)
    assert course_of(request, new=True) == Course(request.schedule, 0.0)
    assert course_of(request, new=False) == Course(request.schedule, 40.0)


def test_the_first_rates_lie_around_the_peak_that_the_run_has_had(make_problem: Maker) -> None:
    """Where nothing is usual; the rate in the checkpoint may stand far down its schedule."""
    problem = make_problem(made(5), learnable())
    for peak, centre in ((0.02, 0.02), (None, 1e-4)):
        request = Request(probe="checkpoint", budget=84, peak=peak)
        lion = Optimizer("lion", 1e-4, betas=(0.9, 0.99))
        found = run_measurement(measure, problem, problem.receiving, lion, None, request=request).result
        rates = sorted({run.learning_rate for run in found.probe})
        assert centre in [pytest.approx(rate) for rate in rates] and rates[3] == pytest.approx(centre)


@pytest.mark.parametrize("rate", [0.003, None])
def test_verifying_takes_the_rate_to_train_at_or_none(make_problem: Maker, rate: float | None) -> None:
    problem = make_problem(made(5), learnable())
    request = Request(verify=6, schedule=Schedule("cosine", 2, 100), made=40)
    measuring = begin(
        MatchedState(problem, Optimizer("adamw")), problem.receiving, request=request, advance=lambda: None
    )
    runs = check(measuring, rate, request, None)
    if rate is None:
        assert runs == ()
        return
    assert [run.learning_rate for run in runs] == pytest.approx([0.001, 0.003, 0.009])
    with training(measuring.matched) as run:
        rows, ends = training_rows(problem), []
        for order in (0, 1):
            run.start(rate)
            for step, factor in enumerate(course_of(request, new=False).factors(6)):
                run.step(rows.in_order(order)[step % 4], factor)
            ends.append(run.loss(rows.independent))
    assert runs[1].end_loss == pytest.approx(sum(ends) / 2) and runs[1].spread == pytest.approx(abs(ends[0] - ends[1]))
    assert sum(run.best for run in runs) <= 1


def test_verifying_starts_where_the_short_runs_did_and_goes_along_the_whole_schedule(make_problem: Maker) -> None:
    problem, again = make_problem(made(5), learnable()), make_problem(made(9), learnable())
    request = Request(verify=4, schedule=Schedule("linear", total=100), made=40)
    measuring = begin(MatchedState(problem, Optimizer("sgd")), problem.receiving, request=request, advance=lambda: None)
    before = [parameter.detach().clone() for parameter in again.model.parameters()]
    runs = check(measuring, 0.1, request, again)
    rows = training_rows(problem)
    with training(MatchedState(again, Optimizer("sgd"))) as run:
        start = run.loss(rows.independent)
        run.start(0.1)
        losses = [run.step(rows.batches[step], factor) for step, factor in enumerate((0.88, 0.63, 0.38, 0.13))]
    assert runs[1].start_loss == pytest.approx(start) and runs[1].losses == pytest.approx(losses, rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, again.model.parameters(), strict=True))


@pytest.mark.parametrize(("shape", "ends"), [("cosine", True), ("constant", False)])
def test_a_schedule_that_ended_leaves_nothing_to_imitate(make_problem: Maker, shape: str, ends: bool) -> None:
    schedule = {"schedule": Schedule(shape, total=100), "made": 100}
    found = suggest(make_problem(made(5), learnable()), "checkpoint", lambda _: None, budget=84, verify=2, **schedule)
    assert (found.result.probe == ()) == (found.result.verification == ()) == ends
    assert ("the schedule is at its end at this checkpoint" in found.result.recommended.reason) == ends


def test_curvature_that_did_not_settle_takes_nothing_from_the_short_runs(
    make_problem: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> object:
        raise NumericalError("The eigenvalue did not settle.", "Take more products.")

    monkeypatch.setattr("fromage_cli.diagnostics.suggest_lr.partial_measurement.stable_rate", failing)
    plain, doubted = (
        suggest(make_problem(made(5), learnable()), "init", lambda _: make_problem(made(9), learnable()), **asked)
        for asked in ({"budget": 84}, {"budget": 84, "sharpness": True})
    )
    assert plain.result.recommended == doubted.result.recommended


def test_a_rate_that_leaves_the_numbers_has_no_end(make_problem: Maker) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))  # unlike tanh it bounds nothing
    problem = make_problem(model, learnable(), budget=Budget())
    request = Request(verify=5)
    measuring = begin(MatchedState(problem, Optimizer("sgd")), problem.receiving, request=request, advance=lambda: None)
    runs = check(measuring, 1e30, request, None)
    assert all(run.end_loss == run.spread == LEFT and not run.best for run in runs)
    problem.budget.seconds = 0.0
    assert check(measuring, 0.1, request, None) == () and isinstance(measuring.error, ResourceError)


@pytest.mark.parametrize(("share", "hint"), [(0.1, "without Ctrl-C"), (0.9, "Try ")])
def test_whoever_interrupts_is_told_so_and_not_sent_for_a_larger_budget(
    make_problem: Maker, share: float, hint: str
) -> None:
    """Before the short runs, where nothing is known, and between them."""

    def calls(last: float) -> tuple[int, Measured]:
        count = 0

        def advance() -> None:
            nonlocal count
            count += 1
            if count == last:
                signal.raise_signal(signal.SIGINT)

        problem, request = make_problem(made(5), learnable(), budget=Budget()), Request(probe="checkpoint", budget=84)
        with stopping.stoppable(lambda said: None, lambda reason: None):
            found = run_measurement(
                measure, problem, problem.receiving, Optimizer("adamw", 0.01), None, request=request, advance=advance
            )
        return count, found

    whole, uncut = calls(0)
    found = calls(int(share * whole))[1]
    assert isinstance(found.error, stopping.Interruption) and uncut.error is None
    assert found.result.recommended.reason == INTERRUPTED
    (finding,) = [each for each in judge(found.result) if each.code == "rate-not-measured"]
    assert finding.message.endswith("you interrupted the short runs")
    assert "--probe-budget" not in finding.hint and hint in finding.hint
