"""The page of a state."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.state.findings import judge
from fromage_cli.diagnostics.state.render import advise, header, headline, outstanding_first, render
from fromage_cli.diagnostics.state.result import Broken, Continuation, Lost, StateResult, Violations
from fromage_cli.missing import Missing, Why
from tests.diagnostics.pages import compare, drawn

Make = Callable[..., StateResult]
NONE = Missing(Why.NOT_DEFINED, "the optimizer keeps no second moments")
golden = partial(compare, Path(__file__).parent / "golden")


def page(result: StateResult, width: int = 80, **style: bool) -> str:
    return drawn(lambda found, how: render(found, how, judge(found)), result, width, **style)


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_state: Make, width: int) -> None:
    result = make_state(violations=Violations(3, 0, 0, False))
    result = replace(result, totals=replace(result.totals, lost=Lost(0.258, 0.13, 0.00127, 1.0)))
    golden(f"page-{width}.txt", page(result, width))


def test_the_page_under_verbose_with_every_row(make_state: Make) -> None:
    golden("verbose-100.txt", page(make_state(), 100, show_all=True, verbose=True))


def test_the_header_names_the_rates_of_all_groups(make_state: Make) -> None:
    (group,) = make_state().groups
    groups = tuple(replace(group, learning_rate=rate) for rate in (0.05, 1.5, 0.1))
    assert header(replace(make_state(), groups=groups))[0].endswith(" at 0.05 to 1.5")
    assert header(replace(make_state(), groups=groups[:1] * 2))[0].endswith(" at 0.05")


def test_the_verdict(make_state: Make) -> None:
    assert page(make_state()).startswith("No problem found: the optimizer's moments")
    untested = tuple(replace(one, violations=NONE) for one in make_state().layers)
    assert page(replace(make_state(), layers=untested)).startswith("No problem found. Whether the momentum is sound")
    none = tuple(replace(one, violations=NONE, moments_dtype=None) for one in make_state().layers)
    assert page(replace(make_state(), layers=none)).startswith("No problem found: the optimizer keeps no moments")
    unknown = Missing(Why.NO_STATE, "the optimizer's state holds no moments of it")
    layers = tuple(replace(one, update_rms=unknown, relative_update=unknown) for one in make_state().layers)
    assert "No update is known: the optimizer's state holds no moments of it." in page(
        replace(make_state(), layers=layers)
    )


def test_whether_checkpoints_follow(make_state: Make) -> None:
    forgotten = Missing(Why.NO_FORMULA, "too many steps lie between the files")
    right = Continuation(
        *("a/step-10.pt", "a/step-40.pt", 30, 30.0),
        **{"restarted": False, "counts_differ": False, "remembered": 0.97, "rates_told": True},
        **{"second_moments": Broken(0, ()), "first_moments": Broken(0, ()), "weights": Broken(0, ())},
        **{"weights_far": Broken(0, ()), "emptied": ()},
        **{"unchanged": (), "frozen": (), "stale": ()},
    )
    wrong = replace(right, first_moments=Broken(12, ("block.1.weight",)))
    untested = replace(right, first_moments=forgotten, second_moments=forgotten)
    for continuity, words in (
        ((right, right), "2 of 2 files follow from the file before"),
        ((right, wrong), "1 of 2 files follow from the file before"),
        ((right, untested), "1 of 2 files follow from the file before; of the rest, too many steps"),
        ((untested,), "cannot be tested: too many steps lie between the files"),
    ):
        assert words in " ".join(page(replace(make_state(), continuity=continuity), 160).split())
    broken = page(replace(make_state(), continuity=(right, wrong)), 160)
    assert broken.startswith("Warning: 12 entries of the first moments cannot follow from those in step-10.pt")


def test_offenders_come_first_and_matrices_before_vectors(make_state: Make) -> None:
    result = make_state(violations=Violations(0, 1, 0, False))
    assert next(one.name for one in outstanding_first(result)) == "block.1.weight"
    assert [one.name for one in outstanding_first(make_state())][-1] == "block.2.bias"


def test_what_to_do_and_the_summary(make_state: Make) -> None:
    assert advise(judge(make_state()), over=False).startswith("Train on.")
    unmoved = replace(make_state(), never_updated=("a.weight",))
    assert advise(judge(unmoved), over=False).startswith("Train on if these layers are frozen on purpose.")
    assert "damaged" in advise(judge(make_state(violations=Violations(1, 0, 0, False))), over=False)
    assert header(make_state()) == ("AdamW at 0.001", "40 updates")
    assert [row[0] for row in headline(make_state()).rows][:3] == ["tensors", "relative_update", "update_rms"]
