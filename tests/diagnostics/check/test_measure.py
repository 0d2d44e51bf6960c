"""Commands in turn: what each answers, and what ends the round."""

from collections.abc import Callable

from fromage_cli.diagnostics.check.comparisons import Answered
from fromage_cli.diagnostics.check.findings import judge
from fromage_cli.diagnostics.check.measure import OUT_OF_TIME, Examination
from fromage_cli.diagnostics.check.result import Number, Skipped
from fromage_cli.errors import InputError, MismatchError, NotFiniteError, NumericalError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, Answers, Estimate, EstimateResult, summary

WARN, INFO, FAIL = (Finding(code, code, "it is so") for code in ("warn", "info", "fail"))  # type: ignore[arg-type]


def answer(*findings: Finding, error: ResourceError | None = None, result: object = 1) -> Answer:
    return Answer(result=result, page=lambda style: "", findings=findings, error=error)


def asked(
    answers: dict[str, Answers | Exception],
    *,
    left: Callable[[], float | None] = lambda: None,
    price: Callable[[str], Estimate | None] = lambda command: None,
) -> Examination:
    def run(command: str) -> Answers:
        found = answers[command]
        if isinstance(found, Exception):
            raise found
        return found

    examination = Examination(left)
    examination.look(tuple(answers), run, price)
    return examination


def test_findings_of_all_commands_the_gravest_first_and_each_once() -> None:
    found = asked({"a": answer(INFO, WARN), "b": [answer(INFO), answer(WARN, FAIL)]})
    assert judge(Answered(), (), found.findings) == (FAIL, WARN, INFO)
    assert set(found.results) == {"a", "b"} and found.error is None


def test_what_cannot_look_is_told_with_its_reason() -> None:
    found = asked({"a": InputError("no state."), "b": answer(), "c": [InputError("damaged.")]})
    assert found.skipped == [Skipped("a", "no state."), Skipped("c", "damaged.")]
    assert found.error is None and list(found.answers) == ["b"]


def test_a_network_that_was_named_has_to_be_usable() -> None:
    for error in (MismatchError("does not fit."), InputError("there is no such file.")):
        assert asked({"a": error}).error is None
        for named in (False, True):
            examination = Examination()
            examination.miss(("a", "b"), error, named)
            assert examination.error is (error if named else None)
            assert examination.skipped == [Skipped("a", error.message), Skipped("b", error.message)]


def test_a_loss_that_is_not_finite_is_a_failure() -> None:
    found = asked({"a": answer(INFO), "b": NotFiniteError("The loss at these weights is nan.", "Look.")})
    (failure,) = [one for one in judge(Answered(), (), found.findings) if one.severity == "fail"]
    assert (failure.code, failure.message, failure.hint) == (
        "loss-not-finite",
        "The loss at these weights is nan",
        "Look.",
    )
    assert [one.command for one in found.skipped] == ["b"] and found.error is None
    other = asked({"a": NumericalError("The curvature is not finite.")})
    assert other.findings == () and other.skipped == [Skipped("a", "The curvature is not finite.")]


def test_a_limit_ends_the_round() -> None:
    limit = ResourceError("too long.")
    for first in (limit, answer(error=limit)):
        found = asked({"a": first, "b": answer()})
        assert found.error is limit
        assert found.skipped[-1] == Skipped("b", OUT_OF_TIME, limited=True)


def test_costs_add_up() -> None:
    costs = [EstimateResult(Estimate(3.0, 10, 2.0)), EstimateResult(Estimate(1.0, None, None))]
    assert asked(dict(zip("ab", (answer(result=one) for one in costs), strict=True))).cost == Estimate(4.0, 10, 2.0)


def test_a_command_that_takes_longer_than_is_left_does_not_look() -> None:
    prices = {"a": Estimate(1.0, None, 5.0), "b": Estimate(1.0, None, 50.0), "c": None, "d": Estimate(1.0, None, None)}
    found = asked(dict.fromkeys(prices, answer()), left=lambda: 12.0, price=prices.get)
    assert list(found.answers) == ["a", "c", "d"] and found.error is None
    (skipped,) = found.skipped
    assert skipped.command == "b" and "50 s" in skipped.reason and "12 s" in skipped.reason and skipped.limited
    assert list(asked(dict.fromkeys(prices, answer()), price=prices.get).answers) == list(prices)  # without a limit
    late = asked({"a": answer()}, left=lambda: 0.0)
    assert (late.skipped, late.error) == ([Skipped("a", OUT_OF_TIME, limited=True)], None)


def test_the_numbers_of_all_summaries() -> None:
    one = Answer(
        1,
        lambda style: "",
        {"summary": lambda: summary([("ratio", 2.0, "×"), ("verdict", "lazy", ""), ("gap", None, "s")])},
    )
    nothing_finite = Answer(1, lambda style: "", {"summary": lambda: summary([("loss", float("nan"), "")])})
    assert list(asked({"a": one, "b": nothing_finite, "c": answer()}).numbers) == [Number("a", "ratio", 2.0, "×")]
