"""Commands are asked by their names, with those of the user's options that they have."""

from pathlib import Path

from fromage_cli.diagnostics.check.asking import Inputs
from fromage_cli.terminal.answer import Answer

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
PLACES = [str(SAMPLES / "char-gpt" / f"step-000{step}.pt") for step in (100, 400, 860)]
INPUTS = Inputs({"exclude": ["token*"], "seed": 0}, [str(SAMPLES / "char-gpt")], PLACES)


def answer(name: str) -> Answer:
    told = INPUTS.ask(name)
    return told if isinstance(told, Answer) else told[-1]  # type: ignore[return-value]


def test_some_are_asked_about_the_run_some_about_two_files_and_some_about_the_last() -> None:
    asked = {name: [one.step for one in answer(name).checkpoints] for name in ("inspect", "norms", "distance")}
    assert asked == {"inspect": [860], "norms": [100, 400, 860], "distance": [400, 860]}


def test_options_reach_the_commands_that_have_them() -> None:
    assert not any(one.name.startswith("token") for one in answer("norms").result.layers)  # type: ignore[attr-defined]
    assert any(one.name.startswith("token") for one in answer("inspect").result.tensors)  # type: ignore[attr-defined]


def test_a_command_tells_its_price() -> None:
    price = INPUTS.price("norms")
    assert price is not None and price.seconds is not None and price.seconds > 0.0
    assert INPUTS.price("sharpness") is None  # as it has no network
