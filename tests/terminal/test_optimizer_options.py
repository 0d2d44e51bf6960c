from typing import Any

import pytest

from fromage_cli.errors import UsageError
from fromage_cli.terminal.optimizer_options import OptimizerOptions, spelled


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
