from pathlib import Path
from typing import Any

import pytest

from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal.optimizer_options import OptimizerOptions, ScheduleOptions, spelled
from fromage_cli.theory.schedules import Schedule


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": 0.0}, "--lr 0.0: expected a number above 0"),
        ({"lr": -1.0}, "above 0"),
        ({"lr": float("nan")}, "above 0"),
        ({"lr": float("inf")}, "above 0"),
        ({"momentum": 1.0}, "--momentum 1.0"),
        ({"momentum": -0.1}, "--momentum"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"optimizer": "adam", "momentum": 0.9}, "--momentum is no setting of adam"),
        ({"optimizer": "adamw", "nesterov": True}, "--nesterov is no setting of adamw"),
        ({"optimizer": "fromage", "momentum": 0.9}, "--momentum is no setting of fromage"),
        ({"optimizer": "fromage", "weight_decay": 0.1}, "--weight-decay 0.1: Fromage has no weight decay"),
        ({"optimizer": "muon", "betas": ".9,.99"}, "--betas is no setting of muon"),
        ({"nesterov": True, "momentum": 0.0}, "without momentum"),
        ({"betas": "0.9"}, "--betas"),
        ({"betas": "a,b"}, "--betas"),
        ({"betas": ".9,1"}, "--betas"),
        ({"betas": ".9,.95,.99"}, "--betas"),
    ],
)
def test_a_setting_that_no_optimizer_takes_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        OptimizerOptions(**given).check()


def test_ordinary_settings_pass() -> None:
    OptimizerOptions().check()
    OptimizerOptions("sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0).check()
    OptimizerOptions("lion", betas=".9,.99").check()
    assert OptimizerOptions(betas=".9,.95").beta_pair == (0.9, 0.95)
    assert OptimizerOptions().beta_pair is None
    assert (spelled((0.9, 0.95)), spelled(None)) == ("0.9,0.95", None)


def test_settings_are_held_against_the_optimizer_that_was_found_too() -> None:
    options = OptimizerOptions(momentum=0.9, weight_decay=0.1)
    options.check_for("sgd")
    options.check_for("rmsprop")
    options.check_for(None)
    with pytest.raises(UsageError, match="--momentum is no setting of adamw"):
        options.check_for("adamw")
    with pytest.raises(UsageError, match="Fromage has no weight decay"):
        OptimizerOptions(weight_decay=0.1).check_for("fromage")
    OptimizerOptions("fromage", weight_decay=0.0).check()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"warmup_steps": 100, "total_steps": 100}, "--warmup-steps 100: expected fewer than the run's 100 steps"),
        ({"schedule": "rates.csv", "warmup_steps": 5}, "a table holds its own warm-up"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ScheduleOptions(**given).check()


def test_schedules_as_they_are_given(tmp_path: Path) -> None:
    assert ScheduleOptions().given() == (None, None) == ScheduleOptions(total_steps=9).given()
    assert ScheduleOptions("Cosine", 5, 50).given() == (Schedule("cosine", 5, 50), None)
    assert ScheduleOptions(warmup_steps=5).given() == (Schedule("constant", 5), None)
    table = tmp_path / "rates.csv"
    table.write_text("step,learning_rate\n0,0.1\n10,0.2\n")
    found, peak = ScheduleOptions(str(table), total_steps=50).given()
    assert peak == 0.2 and found is not None and found.points == ((0.0, 0.5), (10.0, 1.0)) and found.end == 50


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe\x00", "it is no text"), (b"PK\x03\x04", "first line")])
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    table = tmp_path / "rates.csv"
    table.write_bytes(content)
    with pytest.raises(InputError, match=words):
        ScheduleOptions(str(table)).given()
    with pytest.raises(UsageError, match="no such file; expected constant, linear, cosine, or a table"):
        ScheduleOptions(str(tmp_path / "cosin")).given()
