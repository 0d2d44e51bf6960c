"""Whole measurements by many ranks, against those of one process: every number of every command."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from fromage_cli import ranks
from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.breakdown.direction_option import make_direction
from fromage_cli.diagnostics.breakdown.measure import measure as measure_breakdown
from fromage_cli.diagnostics.hypergrad.answers import Request as Hyperparameters
from fromage_cli.diagnostics.hypergrad.measure import measure as measure_hyperparameters
from fromage_cli.diagnostics.sharpness.cost import Request as Curvature
from fromage_cli.diagnostics.sharpness.measure import measure as measure_sharpness
from fromage_cli.diagnostics.suggest_lr.measure import measure as measure_rates
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request as Rates
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Given, Optimizer
from fromage_cli.probes.hypergradients import unrolled
from fromage_cli.probes.hypergradients.hyperparameters import values_of
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.probes.structure.depth import measure_depth
from fromage_cli.probes.structure.function_distance import function_distance
from fromage_cli.probes.structure.invariance import measure_invariance
from fromage_cli.probes.trial_runs.rate_probe import step_seconds
from fromage_cli.probes.trial_runs.training import Training, training_rows
from fromage_cli.problem.evaluation.problem import Problem
from tests.forked_ranks import LIMIT, run_ranks
from tests.problem.evaluation.rows_of_ranks import problem_of

ETAS = (1e-3, 1e-2, 1e-1)
ADAM = Optimizer("adamw", learning_rate=1e-2)
LEFT_OUT = ("floor", "stderr", "residual", "gradient_evaluations")
"""Ends of names: rounding errors themselves, what is left of an iteration, and a cost that counts a check of ranks."""
FOUND_BY_SEARCH = (".critical_sharpness", ".first_step_sharpness", ".quadratic", ".limit", ".estimates", ".layers")
"""Rates at which the loss or a layer comes to some point, and losses there: rounding grows in them."""
EXACT, SEARCHED = 1e-12, 1e-10


CASES = ("hundred", "ignored", "tied", "residual", "micro-batches", "two batches")


def breakdown(problem: Problem, etas: Sequence[float] = ETAS) -> Any:
    direction = make_direction("fromage", problem, problem.layers, None, Given())
    return measure_breakdown(problem, direction, etas, show_vectors=True)


def learning_rates(problem: Problem) -> Any:
    return measure_rates(problem, problem.receiving, ADAM, None, request=Rates(batch_size=5))


def sharpness(problem: Problem) -> Any:
    request = Curvature(batch_rows=problem.rows // 2, simulated_steps=2)
    return measure_sharpness(problem, problem.receiving, ADAM, None, request=request)


def rough_sharpness(problem: Problem) -> Any:
    request = Curvature(tolerance=0.3, batch_rows=problem.rows // 2)
    return measure_sharpness(problem, problem.receiving, Optimizer("sgd", learning_rate=1e-2), None, request=request)


def hyperparameters(problem: Problem) -> Any:
    held_out = problem.on(problem.batch.rows(problem.batch.size // 2, problem.batch.size))
    held_out.mode = "eval"
    validation = Validation(held_out, validation_parts([held_out.batch]))
    request = Hyperparameters(steps=3, batch_size=5, in_loss={"label-smoothing": 0.1})
    return measure_hyperparameters(problem, validation, ADAM, None, request=request)


COMMANDS: dict[str, Callable[[Problem], Any]] = {
    "breakdown": breakdown,
    "a step of breakdown": partial(breakdown, etas=(1e-2,)),
    "suggest-lr": learning_rates,
    "sharpness": sharpness,
    "a rough sharpness": rough_sharpness,
    "hypergrad": hyperparameters,
    "norms": measure_invariance,
}


def plain(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of a result by their places in it, without those that are rounding errors."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        for key, each in value.items():
            yield from () if str(key).endswith(LEFT_OUT) else plain(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from plain(each, f"{name}[{place}]")
    else:
        yield name, value


def measured(cases: Sequence[tuple[str, str]], sharded: bool = False) -> list[dict[str, Any]]:
    """What commands find on problems, in float64; `sharded`: with a part of every weight on each rank."""
    problems = ((command, problem_of(case, sharded=sharded)) for command, case in cases)
    return [dict(plain(found_of(COMMANDS[command](problem))[0])) for command, problem in problems]


def require_numbers_of_one_process(
    count: int,
    cases: Sequence[tuple[str, str]],
    *,
    sharded: bool = False,
    limit: float = LIMIT,
    through_memory: bool = False,
) -> None:
    in_one = measured(cases)  # before ranks begin, so that they find everything loaded
    first, *others = run_ranks(count, measured, cases, sharded, limit=limit, through_memory=through_memory)
    assert all(str(other) == str(first) for other in others), "every rank has the same bits"
    for case, alone, together in zip(cases, in_one, first, strict=True):
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            error = SEARCHED if name.startswith(FOUND_BY_SEARCH) else EXACT
            near = pytest.approx(expected, rel=error, abs=error, nan_ok=True) if type(expected) is float else expected
            assert together[name] == near, (case, name)


@pytest.mark.parametrize("command", [command for command in COMMANDS if " " not in command])
def test_every_number_is_that_of_one_process(command: str) -> None:
    require_numbers_of_one_process(3, [(command, case) for case in CASES])


@pytest.mark.parametrize("command", ["breakdown", "suggest-lr", "sharpness"])
def test_so_it_is_where_each_rank_holds_a_part_of_every_weight(command: str) -> None:
    cases = ("residual", "tied, one way", "micro-batches")[: 1 if command == "sharpness" else 2]
    require_numbers_of_one_process(2, [(command, case) for case in cases], sharded=True, limit=180.0)


@pytest.mark.parametrize(
    ("command", "cases"),
    [
        ("a step of breakdown", ("hundred", "tied")),
        ("suggest-lr", ("hundred", "ignored")),
        ("sharpness", ("hundred",)),
    ],
)
def test_so_it_is_on_sixty_four_ranks(command: str, cases: tuple[str, ...]) -> None:
    """Most of them have no row of ten. Sums go through shared memory: gloo's take a quarter of a second each."""
    require_numbers_of_one_process(64, [(command, case) for case in cases], limit=300.0, through_memory=True)


@pytest.mark.parametrize("command", ["a step of breakdown", "suggest-lr", "a rough sharpness"])
def test_so_it_is_on_sixty_four_that_hold_a_part_of_every_weight(command: str) -> None:
    """Most of them hold no row of any tensor."""
    require_numbers_of_one_process(64, [(command, "one layer")], sharded=True, limit=300.0, through_memory=True)


def test_twelve_ranks_by_gloo() -> None:
    require_numbers_of_one_process(12, [("suggest-lr", "ignored")])


@pytest.mark.parametrize("case", ["residual", "tied"])
def test_the_depth_of_ranks_without_rows_and_of_different_graphs(case: str) -> None:
    alone = measure_depth(problem_of(case))
    found = run_ranks(12, lambda: measure_depth(problem_of(case)))
    assert (alone.effective or 0.0) > 1.0
    assert [(each.count, each.path) for each in found] == [(alone.count, alone.path)] * 12
    assert [each.effective for each in found] == [pytest.approx(alone.effective, rel=EXACT)] * 12


def test_ranks_go_by_the_slowest_step() -> None:
    def slowest() -> float:
        problem, step = problem_of("hundred"), Training.step
        if ranks.current().index == 1:
            Training.step = lambda *given: (time.sleep(0.2), step(*given))[1]  # type: ignore[method-assign]
        return step_seconds(match_state(problem, ADAM, None), training_rows(problem))

    first, *others = run_ranks(3, slowest)
    assert first >= 0.2 and others == [first] * 2


def test_ranks_hold_as_many_states_as_fit_on_the_smallest_machine() -> None:
    """Ten steps hold 13 states where there is room, else 11; a state has the weights and two moments."""

    def copies(free: tuple[float | None, ...]) -> int | None:
        problem = replace(problem_of("hundred"), mode="train")
        matched = match_state(problem, ADAM, None)
        names = [tensor.name for tensor in problem.receiving]
        steps = TrainingSteps(matched, [problem.batch] * 10, values_of(matched, 1e-2, {}, names))
        size = 3 * sum(tensor.parameter.nbytes for tensor in steps.tensors)
        own = free[ranks.current().index]
        unrolled.free_memory = lambda *_: None if own is None else int(own * 2 * size / unrolled.SHARE)
        return unrolled.copies_that_fit(steps)

    assert run_ranks(2, copies, (13.5, 13.5)) == [None, None]
    assert run_ranks(2, copies, (13.5, 12.5)) == [8, 8]
    assert run_ranks(2, copies, (1.0, None)) == [None, None]


def test_outputs_are_as_far_apart_as_in_one_process(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({name: 1.5 * weight for name, weight in problem_of("uneven").model.state_dict().items()}, other)

    def distance() -> tuple[float | None, float | None]:
        found = function_distance(problem_of("uneven"), open_checkpoint(other))
        return found.whole, found.largest

    expected = pytest.approx(distance(), rel=EXACT)
    assert run_ranks(3, distance) == [expected] * 3
    assert run_ranks(12, distance) == [expected] * 12
