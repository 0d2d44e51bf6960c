from pathlib import Path

import pytest
import typer

from fromage_cli.terminal import parsing


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("1.5h", 5400), (" 2 min ", 120)]
)
def test_duration(text, seconds):
    assert parsing.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("123", 123), ("8GB", 8 * 10**9), ("500MiB", 500 * 2**20), ("1.5 gib", 3 * 2**29), ("2k", 2000), ("7b", 7)],
)
def test_memory(text, size):
    assert parsing.memory(text) == size


@pytest.mark.parametrize("text", ["", "x", "-3", "0", "3x", "1e3s", "nan", "inf", "1" * 400])
@pytest.mark.parametrize("parse", [parsing.duration, parsing.memory])
def test_what_is_no_quantity_is_refused(parse, text):
    with pytest.raises(typer.BadParameter, match="is not a"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a=3", ("a", 3)),
        ("a=x", ("a", "x")),
        ('a="3"', ("a", "3")),
        ("a=[1,2]", ("a", [1, 2])),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_model_arguments_are_json_or_text(text, pair):
    assert parsing.assigned(parsing.assignment(text)) == pair


@pytest.mark.parametrize("text", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(text):
    assert parsing.device(text) == text


@pytest.mark.parametrize("text", ["0", "7", str(2**63 - 1)])
def test_seeds(text):
    assert parsing.seed(text) == int(text)


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (parsing.device, "gpu", "'gpu' is not one of auto, cpu, cuda, cuda:N"),
        (parsing.device, "cuda:", "'cuda:' is not one of"),
        (parsing.seed, "-1", "not a whole number from 0"),
        (parsing.seed, str(2**63), "not a whole number from 0"),
        (parsing.assignment, "a", "'a' is not of the form NAME=VALUE"),
        (parsing.assignment, " =1", "not of the form NAME=VALUE"),
        (parsing.output_file, " ", "the file name is empty"),
    ],
)
def test_what_does_not_fit_is_refused(parse, text, words):
    with pytest.raises(typer.BadParameter, match=words):
        parse(text)


def test_a_file_below_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert parsing.output_file("~/a.json") == Path("/somewhere/a.json")
