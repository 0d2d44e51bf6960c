import pytest

from fromage_cli.missing import OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.optimizers.typical_rates import (
    LARGER,
    STUDIED_PARAMETERS,
    TRAINED,
    calibration,
    typical_rate,
    typical_rate_of,
)
from fromage_cli.theory.rate_calibration import ADAMW, FROMAGE, MOMENTUM


def test_each_optimizer_has_its_own_constants() -> None:
    assert calibration(Optimizer("fromage")) is FROMAGE
    assert calibration(Optimizer("adamw")) is calibration(Optimizer("adam")) is ADAMW
    assert calibration(Optimizer("lion")) is calibration(Optimizer()) is None


def test_those_of_the_study_are_its_own() -> None:
    assert typical_rate(Optimizer("fromage"))[0] == FROMAGE.typical
    assert typical_rate(Optimizer("sgd", momentum=0.9))[0] == pytest.approx(MOMENTUM.typical)
    assert typical_rate(Optimizer("adamw"))[0] == typical_rate(Optimizer("adam"))[0] == ADAMW.typical


def test_others_follow_from_an_equal_step() -> None:
    assert typical_rate(Optimizer("lamb"))[0] == FROMAGE.typical
    lars = Optimizer("lars", momentum=0.9, trust_coefficient=0.001)
    assert typical_rate(lars)[0] == pytest.approx(FROMAGE.typical * 0.1 / 1e-3)
    assert typical_rate(Optimizer("lion"))[0] == pytest.approx(ADAMW.typical / 5)
    assert typical_rate(Optimizer("muon", own={"adjust_lr_fn": "match_rms_adamw"}))[0] == ADAMW.typical


def test_where_none_is_known_the_reason_is_said() -> None:
    words = "none known; for Muon's original scaling"
    assert typical_rate(Optimizer("muon")) == (Missing(Why.NO_FORMULA, words), words)
    assert typical_rate(Optimizer()) == (OPTIMIZER_UNKNOWN, "the optimizer is not known: name it with --optimizer NAME")


def test_none_is_typical_of_trained_weights_nor_of_larger_networks_than_were_studied() -> None:
    sgd = Optimizer("sgd", momentum=0.9)
    assert typical_rate_of(sgd, new=True, parameters=STUDIED_PARAMETERS) == typical_rate(sgd)
    assert typical_rate_of(sgd, new=False, parameters=10)[0] == TRAINED
    assert typical_rate_of(sgd, new=True, parameters=STUDIED_PARAMETERS + 1)[0] == LARGER
