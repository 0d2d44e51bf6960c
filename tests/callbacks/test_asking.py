import sys
import warnings
from pathlib import Path

import pytest

from fromage_cli.callbacks.asking import ask_about


def test_an_answer_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ask_about(Path("b"), lambda place: f"all is well in {place}")
    ask_about(None, lambda place: "never")
    ask_about(Path("b"), None)
    assert capsys.readouterr() == ("", "all is well in b\n")


def test_what_fails_is_said_and_training_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(place: Path) -> object:
        raise ValueError("no such\x1b thing")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask_about(Path("b"), fails)
        ask_about(Path("b"), lambda place: sys.exit(3))
    start = "warning: The question about b was not answered: "
    said = [f"{start}ValueError: no such\\x1b thing", f"{start}SystemExit: 3"]
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in said))


def test_a_user_who_interrupts_is_heard() -> None:
    def interrupted(place: Path) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_about(Path("b"), interrupted)
