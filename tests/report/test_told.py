import math

import pytest

from fromage_cli.report.told import as_number, at, entries_at, known, number_at, numbers_at, text_at

TOLD = {"a": {"b": 2, "c": "word", "d": [1, None, "x", 2.5], "e": [{"f": 1}, 3]}, "long": "x" * 5000}


def test_what_is_there_is_found() -> None:
    assert number_at(TOLD, "a", "b") == 2.0 and text_at(TOLD, "a", "c") == "word"
    assert numbers_at(TOLD, "a", "d") == [1.0, None, None, 2.5]
    assert entries_at(TOLD, "a", "e") == [{"f": 1}]
    assert known([None, 1.0]) == [1.0]


@pytest.mark.parametrize("path", [("x",), ("a", "x"), ("a", "b", "c"), ("a", "c", "d")])
def test_what_is_not_there_or_of_another_kind_is_nothing(path: tuple[str, ...]) -> None:
    assert at(TOLD, *path) is None and number_at(TOLD, *path) is None and text_at(TOLD, *path) == ""
    assert numbers_at(TOLD, *path) == [] and entries_at(TOLD, *path) == []
    assert entries_at(None, *path) == []


@pytest.mark.parametrize("value", [True, "1", None, math.inf, math.nan, 10**400, [1]])
def test_only_finite_numbers_are_numbers(value: object) -> None:
    assert as_number(value) is None


def test_long_texts_are_cut() -> None:
    assert len(text_at(TOLD, "long")) == 1000
