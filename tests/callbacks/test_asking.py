from pathlib import Path

import pytest

from fromage_cli.callbacks.asking import ask_about


def test_an_answer_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ask_about(Path("b"), lambda place: f"all is well in {place}")
    ask_about(None, lambda place: "never")
    ask_about(Path("b"), None)
    assert capsys.readouterr() == ("", "all is well in b\n")


def test_what_fails_is_a_warning() -> None:
    def fails(place: Path) -> object:
        raise ValueError("no such thing")

    with pytest.warns(UserWarning, match="The question about b was not answered: no such thing"):
        ask_about(Path("b"), fails)
