import math
import time

import pytest

from fromage_cli.errors import InputError
from fromage_cli.theory.schedules import MOST_PIECES, Schedule, fit_schedule, parse_table


def test_shapes_after_a_warm_up():
    linear, cosine = Schedule("linear", 10, 110), Schedule("cosine", 10, 110)
    assert [linear.rate_factor(step) for step in (0, 5, 10, 60, 110, 500)] == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    assert cosine.rate_factor(35) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert Schedule("constant", 10).rate_factor(4) == 0.4 and Schedule("constant", 10).rate_factor(1e9) == 1.0
    assert Schedule("cosine", 0, 100, floor=0.1).rate_factor(50) == pytest.approx(0.55)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_shapes_are_those_of_torch(shape):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    if shape == "linear":
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 30)
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for step in range(31):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            2.0 * Schedule(shape, 0, 30).rate_factor(step), abs=1e-12
        )
        optimizer.step()
        scheduler.step()


def test_a_table_has_straight_lines_between_its_points():
    schedule, peak = parse_table("step,learning_rate\n10,0.1\n20,0.4\n\n40,0\n", "rates.csv")
    assert peak == 0.4 and schedule.end == 40
    assert [schedule.rate_factor(step) for step in (0, 10, 15, 20, 30, 99)] == pytest.approx(
        [0.25, 0.25, 0.625, 1.0, 0.5, 0.0]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no lines below the header"),
        ("step,learning_rate\n", "no lines below the header"),
        ("step,rate\n1,2\n", "its first line is 'step,rate'; expected the header step,learning_rate"),
        ("step,learning_rate\n1,2,3\n", "line 2 is '1,2,3'; expected a step and a rate"),
        ("step,learning_rate\n1,nan\n", "line 2"),
        ("step,learning_rate\n1,inf\n", "line 2"),
        ("step,learning_rate\n1,-1\n", "both 0 or above"),
        ("step,learning_rate\n-1,1\n", "both 0 or above"),
        ("step,learning_rate\na,b\n", "line 2 is 'a,b'"),
        ("step,learning_rate\n5,1\n5,2\n", "step 5 in line 3 follows 5; expected steps in rising order"),
        ("step,learning_rate\n1,0\n2,0\n", "every rate in it is 0"),
        ("step,learning_rate\n" + "x" * 200_000 + "\n", "not a CSV"),
        ("step,learning_rate\n" + "".join(f"{step},1\n" for step in range(200_001)), "more than 200000 lines"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(text, words):
    with pytest.raises(InputError, match=words) as refused:
        parse_table(text, "rates.csv")
    assert "--schedule rates.csv" in refused.value.message and len(refused.value.message) < 300


def test_from_when_on_the_rate_is_constant():
    assert Schedule().constant_from(0) and Schedule("constant", 10).constant_from(10)
    assert not Schedule("constant", 10).constant_from(9) and not Schedule("cosine", 0, 10).constant_from(3)
    table = Schedule("table", points=((0, 1.0), (10, 0.5), (20, 0.5)))
    assert table.constant_from(10) and not table.constant_from(9)


def test_a_rate_that_changes_once_an_epoch():
    schedule = Schedule("linear", 0, 10, every=5)
    assert [schedule.rate_factor(step) for step in (0, 4, 5, 49, 50)] == pytest.approx([1.0, 1.0, 0.9, 0.1, 0.0])
    assert schedule.end == 50


def test_a_run_in_pieces():
    schedule = Schedule("linear", 0, 100)
    assert [steps for _, steps, _ in schedule.pieces(97, 100)] == [1, 1, 1]
    assert [factor for *_, factor in schedule.pieces(97, 100)] == pytest.approx([0.03, 0.02, 0.01])
    few = schedule.pieces(0, 100, most=10)
    assert [piece[:2] for piece in few] == [(10 * (index + 1), 10) for index in range(10)]
    assert sum(steps * factor for _, steps, factor in few) == pytest.approx(
        sum(schedule.rate_factor(step) for step in range(100))
    )
    start = time.perf_counter()
    assert len(Schedule("cosine", 1000, 1e6).pieces(0, 1e6)) == MOST_PIECES
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize(
    "truth", [Schedule("linear", 40, 400), Schedule("cosine", 25, 400), Schedule("constant", 0, 400)]
)
def test_logged_rates_tell_the_schedule(truth):
    seen = [(step, truth.rate_factor(step)) for step in range(10, 210, 10)]
    found = fit_schedule(seen, 400)
    assert found is not None and found.shape == truth.shape
    assert all(found.rate_factor(step) == pytest.approx(truth.rate_factor(step), abs=0.01) for step in range(10, 401))


def test_rates_that_fit_two_shapes_or_none_tell_nothing():
    assert fit_schedule([(10, 0.5), (20, 1.0)], 400) is None
    assert fit_schedule([(10, 1.0), (200, 0.3), (300, 0.9)], 400) is None


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 10.0])
def test_before_the_first_update_the_rate_is_that_of_the_first(shape, warmup):
    schedule = Schedule(shape, warmup=warmup, total=100.0)
    assert schedule.rate_factor(-1.0) == schedule.rate_factor(0.0) == (0.0 if warmup else 1.0)
