from typing import Any

import pytest

from fromage_cli.diagnostics.sharpness.numbers import check_numbers, pair_of_betas
from fromage_cli.errors import UsageError

NOTHING: dict[str, Any] = {
    "optimizer": None,
    "lr": None,
    "momentum": None,
    "nesterov": False,
    "betas": None,
    "weight_decay": None,
    "tolerance": 1e-3,
}


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
        ({"tolerance": 0.0}, "--tolerance"),
        ({"tolerance": 1.0}, "between 0 and 1"),
        ({"optimizer": "adam", "momentum": 0.9}, "--momentum is no setting of adam"),
        ({"optimizer": "adamw", "nesterov": True}, "--nesterov is no setting of adamw"),
        ({"optimizer": "sgd", "betas": ".9,.99"}, "--betas is no setting of sgd"),
        ({"nesterov": True, "momentum": 0.0}, "without momentum"),
    ],
)
def test_a_setting_that_no_optimizer_takes_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        check_numbers(**{**NOTHING, **given})


def test_ordinary_settings_pass() -> None:
    check_numbers(**NOTHING)
    check_numbers(**{**NOTHING, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0})


def test_betas_are_two_numbers_below_one() -> None:
    assert pair_of_betas(None) is None
    assert pair_of_betas(".9,.95") == (0.9, 0.95)
    for text in ("0.9", "a,b", ".9,1", "-.1,.9", ".9,.95,.99", ""):
        with pytest.raises(UsageError, match="--betas"):
            pair_of_betas(text)
