"""What is found beside the advice."""

import math
from collections.abc import Callable
from dataclasses import replace

from fromage_cli.diagnostics.hypergrad.advice import advised
from fromage_cli.diagnostics.hypergrad.findings import judge
from fromage_cli.diagnostics.hypergrad.result import HypergradResult, HyperparameterAnswers

MakeResult = Callable[..., HypergradResult]
MakeAnswers = Callable[..., HyperparameterAnswers]


def test_each_hyperparameter_that_is_better_moved(make_result: MakeResult) -> None:
    found = judge(make_result())
    assert [one.code for one in found] == ["raise-hyperparameter", "raise-hyperparameter"]
    assert all(one.severity == "info" and not one.message.endswith(".") for one in found)
    assert found[0].message.startswith("raise weight decay: +10 % should lower the validation loss by 0.0040")
    assert found[1].message.startswith("add label smoothing")
    assert found[0].value is not None and found[0].value < 0.0


def test_a_derivative_that_does_not_reach(make_result: MakeResult, make_answers: MakeAnswers) -> None:
    one = advised(make_answers("l1", stderr=0.01), 2.0)
    slope, moved, settled = one.answers
    for gradient, said in ((-0.4, False), (-0.31, False), (-0.29, True), (0.4, True), (math.nan, False)):
        apart = replace(one, answers=(replace(slope, gradient=gradient), moved, settled), direction="keep")
        codes = [found.code for found in judge(make_result(hyperparameters=(apart,)))]
        assert codes == (["derivative-does-not-reach"] if said else [])


def test_a_gap_within_the_noise_is_not_said(make_result: MakeResult, make_answers: MakeAnswers) -> None:
    one = advised(make_answers("l1", stderr=0.3), 2.0)
    apart = replace(one, answers=(replace(one.answers[0], gradient=0.1), *one.answers[1:]))
    assert judge(make_result(hyperparameters=(apart,))) == ()


def test_nothing_is_found_where_nothing_is_known(make_result: MakeResult) -> None:
    assert judge(make_result(hyperparameters=())) == ()
