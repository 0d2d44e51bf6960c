import pytest

from fromage_cli.theory.rate_calibration import ADAMW, FROMAGE, MOMENTUM
from fromage_cli.theory.typical_rates import typical_rate


def test_those_of_the_study_are_its_own() -> None:
    assert typical_rate("fromage")[0] == FROMAGE.typical
    assert typical_rate("sgd", momentum=0.9)[0] == pytest.approx(MOMENTUM.typical)
    assert typical_rate("adamw")[0] == typical_rate("adam")[0] == ADAMW.typical


def test_others_follow_from_an_equal_step() -> None:
    assert typical_rate("lamb")[0] == FROMAGE.typical
    assert typical_rate("lars", momentum=0.9, trust_coefficient=0.001)[0] == pytest.approx(FROMAGE.typical * 0.1 / 1e-3)
    assert typical_rate("lion")[0] == pytest.approx(ADAMW.typical / 5)
    assert typical_rate("muon", adjust_lr_fn="match_rms_adamw")[0] == ADAMW.typical


def test_where_none_is_known_the_reason_is_said() -> None:
    assert typical_rate("muon") == (None, "none known; for Muon's original scaling")
    assert typical_rate(None) == (None, "the optimizer is not known")
