"""Commands in turn: what each answers, and what ends the round."""

from fromage_cli.diagnostics.check.findings import judge
from fromage_cli.diagnostics.check.measure import OUT_OF_TIME, Examination
from fromage_cli.diagnostics.check.result import Skipped
from fromage_cli.errors import InputError, MismatchError, ResourceError
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


def test_a_misfit_is_an_error_where_the_network_was_named() -> None:
    misfit = MismatchError("does not fit.")
    assert asked({"a": misfit}).error is None
    assert asked({"a": misfit, "b": answer()}, named=True).error is misfit


def test_a_limit_ends_the_round() -> None:
    limit = ResourceError("too long.")
    for first in (limit, answer(error=limit)):
        found = asked({"a": first, "b": answer()})
        assert found.error is limit
        assert found.skipped[-1] == Skipped("b", OUT_OF_TIME)


def test_costs_add_up() -> None:
    costs = [EstimateResult(Estimate(3.0, 10, 2.0)), EstimateResult(Estimate(1.0, None, None))]
    assert asked(dict(zip("ab", (answer(result=one) for one in costs), strict=True))).cost == Estimate(4.0, 10, 2.0)
