"""Commands in turn: what each answers, and what ends the round."""

from types import SimpleNamespace

import pytest

from fromage_cli.diagnostics.check.findings import judge
from fromage_cli.diagnostics.check.measure import OUT_OF_TIME, Examination
from fromage_cli.diagnostics.check.result import Skipped
from fromage_cli.errors import InputError, MismatchError, NumericalError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, Answers, Estimate, EstimateResult

WARN, INFO, FAIL = (Finding(code, code, "it is so") for code in ("warn", "info", "fail"))  # type: ignore[arg-type]


def answer(*findings: Finding, error: ResourceError | None = None, result: object = 1) -> Answer:
    return Answer(result=result, page=lambda style: "", findings=findings, error=error)


def asked(answers: dict[str, Answers | Exception], *, named: bool = False) -> Examination:
    def run(command: str) -> Answers:
        found = answers[command]
        if isinstance(found, Exception):
            raise found
        return found

    examination = Examination()
    examination.look(tuple(answers), run, named=named)
    return examination


def test_findings_of_all_commands_the_gravest_first_and_each_once() -> None:
    found = asked({"a": answer(INFO, WARN), "b": [answer(INFO), answer(WARN, FAIL)]})
    assert judge((), found.findings) == (FAIL, WARN, INFO)
    assert set(found.results) == {"a", "b"} and found.error is None


def test_what_cannot_look_is_told_with_its_reason() -> None:
    found = asked({"a": InputError("no state."), "b": answer(), "c": [InputError("damaged.")]})
    assert found.skipped == [Skipped("a", "no state."), Skipped("c", "damaged.")]
    assert found.error is None and list(found.answers) == ["b"]


def test_a_network_that_was_named_has_to_be_usable() -> None:
    for error in (MismatchError("does not fit."), InputError("there is no such file.")):
        assert asked({"a": error}).error is None
        assert asked({"a": error, "b": answer()}, named=True).error is error


def test_a_loss_that_is_not_finite_is_a_failure() -> None:
    found = asked({"a": answer(INFO), "b": NumericalError("The loss at these weights is nan.", "Look.")})
    (failure,) = [one for one in judge((), found.findings) if one.severity == "fail"]
    assert (failure.code, failure.message, failure.hint) == (
        "loss-not-finite",
        "The loss at these weights is nan",
        "Look.",
    )
    assert [one.command for one in found.skipped] == ["b"] and found.error is None


def test_a_matrix_out_of_line_with_those_of_other_blocks() -> None:
    sizes = {f"blocks.{block}.up.weight": 10.0 if block == 2 else 1.0 + 0.01 * block for block in range(6)}
    tensors = [SimpleNamespace(name=name, shape=(8, 4), rms=size) for name, size in sizes.items()]
    tensors += [SimpleNamespace(name=f"blocks.{block}.bias", shape=(8,), rms=10.0**block) for block in range(6)]
    (odd,) = asked({"inspect": answer(result=SimpleNamespace(tensors=tensors))}).out_of_line
    assert odd.name == "blocks.2.up.weight" and odd.factor == pytest.approx(10.0, rel=0.05)
    assert asked({"state": answer()}).out_of_line == ()


def test_a_limit_ends_the_round() -> None:
    limit = ResourceError("too long.")
    for first in (limit, answer(error=limit)):
        found = asked({"a": first, "b": answer()})
        assert found.error is limit
        assert found.skipped[-1] == Skipped("b", OUT_OF_TIME)


def test_costs_add_up() -> None:
    costs = [EstimateResult(Estimate(3.0, 10, 2.0)), EstimateResult(Estimate(1.0, None, None))]
    assert asked(dict(zip("ab", (answer(result=one) for one in costs), strict=True))).cost == Estimate(4.0, 10, 2.0)
