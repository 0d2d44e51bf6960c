"""The help of a command."""

import re

import pytest

from fromage_cli.cli import build_program
from fromage_cli.diagnostics import COMMANDS
from fromage_cli.terminal import session
from fromage_cli.terminal.help_page import RARE

LINES = {"suggest-lr": 100, "intrinsic-lr": 100, "watch": 95}


@pytest.fixture
def help_of(capsys, monkeypatch):
    """The lines of a command's help at a width."""

    def lines(name, *flags, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        with session.scope(), pytest.raises(SystemExit) as exit:
            build_program().main([name, *flags], prog_name="fromage-diag")
        assert exit.value.code == 0
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.parametrize("name", [*COMMANDS, "watch", "trust"])
@pytest.mark.parametrize("flags", [("--help",), ("-h", "-v"), ("-vh",)])
@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_every_option_is_named_in_whole_words(help_of, name, flags, columns):
    lines = help_of(name, *flags, columns=columns)
    text = "\n".join(lines)
    for parameter in build_program().command(name).params:
        for flag in (*parameter.opts, *parameter.secondary_opts):
            assert parameter.param_type_name == "argument" or re.search(rf"(?<![\w-]){flag}(?![\w-])", text), flag
    options = lines[lines.index("Arguments:") : lines.index("Examples:")]
    assert all(len(line) <= min(columns, 120) for line in options)
    assert not [line for line in options if re.search(r"\w[-|]$", line)]
    assert "x>=" not in text and "<str>" not in text and "[required]" not in text


@pytest.mark.parametrize("name", [*COMMANDS, "watch", "trust"])
def test_it_is_short_and_tells_how_to_see_all(help_of, name):
    short, long = help_of(name, "--help"), help_of(name, "--help", "--verbose")
    assert len(short) <= LINES.get(name, 90)
    assert len(long) > len(short)
    assert "More options (--help -v explains them):" in short
    assert not any(line.startswith("More options") for line in long)


def test_what_few_need_is_named_and_what_many_need_is_explained(help_of):
    short = "\n".join(help_of("suggest-lr", "--help"))
    more = short[short.index("More options") : short.index("Examples:")]
    assert "--optimizer-key PATH" in more and "--no-sharpness" in more
    assert "--optimizer NAME" not in more and "fromage, lars, lamb" in short
    assert short.index("\nModel:") < short.index("\nBatch:") < short.index("\nOutput:") < short.index("\nMore options")


def test_parameters_that_few_need_are_there():
    commands = [build_program().command(name) for name in COMMANDS]
    assert {parameter.name for command in commands for parameter in command.params} >= RARE


def test_arguments_are_shown_as_they_are_typed(help_of):
    assert help_of("inspect", "--help")[0] == "Usage: fromage-diag inspect [OPTIONS] CKPT…"
    assert help_of("distance", "--help")[0] == "Usage: fromage-diag distance [OPTIONS] A B"
    assert help_of("trust", "--help")[0] == "Usage: fromage-diag trust [OPTIONS] [DIR]"
