import pytest

from fromage_cli.diagnostics.breakdown.grid import DEFAULT, eta_grid
from fromage_cli.errors import UsageError


def test_the_default_grid_is_log_spaced_with_both_ends() -> None:
    grid = eta_grid(DEFAULT)
    assert len(grid) == 17
    assert (grid[0], grid[-1]) == (1e-4, 1.0)
    assert grid[8] == pytest.approx(1e-2)


def test_a_list_is_taken_as_it_stands() -> None:
    assert eta_grid("1e-3, .01,1") == (1e-3, 0.01, 1.0)
    assert eta_grid(".5") == (0.5,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither"),
        ("a:b:c", "neither"),
        ("1e-3:1", "neither"),
        ("1e-3:1:2.5", "neither"),
        ("1:1e-3:5", "0 < MIN < MAX"),
        ("0:1:5", "0 < MIN < MAX"),
        ("1e-3:inf:5", "0 < MIN < MAX"),
        ("nan:1:5", "0 < MIN < MAX"),
        ("1e-3:1:1", "COUNT between"),
        ("1e-3:1:99999999", "COUNT between"),
        ("-1,1", "not positive"),
        ("1,inf", "not positive"),
        (".1,.1", "does not increase"),
        (".2,.1", "does not increase"),
    ],
)
def test_what_is_no_grid_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        eta_grid(text)
