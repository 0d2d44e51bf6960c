from dataclasses import replace

import pytest
import torch

from fromage_cli.doctor import self_test as module
from fromage_cli.doctor.self_test import self_test
from fromage_cli.errors import ResourceError
from fromage_cli.missing import Missing, Why
from fromage_cli.problem.conditions.budget import Budget

CPU = torch.device("cpu")


def test_the_closed_form_comes_out_to_rounding_within_seconds() -> None:
    found = self_test(CPU, Budget())
    assert found.passed and found.largest_gap < 1e-14 and found.layers == 6 and found.seconds < 10.0


@pytest.mark.parametrize("part", ["losses", "breakdown", "linear_trust_eta"])
def test_a_millionth_off_is_found(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.measure

    def off(*arguments, **settings):
        result = right(*arguments, **settings)
        if part == "losses":
            return replace(result, losses=(*result.losses[:-1], result.losses[-1] * (1.0 + 1e-6)))
        if part == "linear_trust_eta":
            return replace(result, linear_trust_eta=result.linear_trust_eta * (1.0 + 1e-6))
        last = result.layers[-1]
        wrong = replace(last, breakdown=(*last.breakdown[:-1], last.breakdown[-1] + 1e-6))
        return replace(result, layers=(*result.layers[:-1], wrong))

    monkeypatch.setattr(module, "measure", off)
    found = self_test(CPU, Budget())
    assert not found.passed and found.largest_gap == pytest.approx(1e-6, rel=1e-3)


def test_a_number_that_is_missing_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.measure
    nothing = Missing(Why.NO_SECOND_DERIVATIVE, "there is none")
    monkeypatch.setattr(
        module, "measure", lambda *given, **more: replace(right(*given, **more), linear_trust_eta=nothing)
    )
    assert not self_test(CPU, Budget()).passed


def test_a_limit_of_time_ends_it() -> None:
    with pytest.raises(ResourceError, match="time limit"):
        self_test(CPU, Budget(seconds=1e-9))
