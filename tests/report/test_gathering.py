from fromage_cli.diagnostics.check.asking import Inputs
from fromage_cli.report.gathering import MOST_ALONG, estimate_run
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer


def test_the_estimate_is_that_of_check_and_of_each_earlier_checkpoint() -> None:
    class Priced(Inputs):
        def ask(self, name: str, **instead: object) -> Answer:
            assert (name, instead["estimate"], instead["ckpt"]) == ("check", True, ["run"])
            return estimate_answer(Estimate(50.0, 100, 7.0))

        def price(self, name: str) -> Estimate | None:
            return Estimate(19.0, 300, 2.0) if name == "breakdown" else None

    assert estimate_run(Priced({}, ["run"], ["1", "2", "3"])) == Estimate(50.0 + 2 * 19.0, 300, 7.0 + 2 * 2.0)
    assert estimate_run(Priced({}, ["run"], ["3"])) == Estimate(50.0, 100, 7.0)
    many = estimate_run(Priced({}, ["run"], [str(step) for step in range(50)]))
    assert many.gradients == 50.0 + (MOST_ALONG - 1) * 19.0
