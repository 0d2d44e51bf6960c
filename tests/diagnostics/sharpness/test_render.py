import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fromage_cli.diagnostics.sharpness.render import render, summary
from fromage_cli.diagnostics.sharpness.result import Absent, HessianEigenvalue, SharpnessResult
from fromage_cli.terminal.answer import PageStyle

MakeResult = Callable[..., SharpnessResult]
GOLDEN = Path(__file__).parent / "golden"


def page(result: SharpnessResult, width: int = 80, show_all: bool = False, ascii_only: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(render(result, PageStyle(show_all, ascii_only, width)))
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def golden(name: str, text: str) -> None:
    """Compare with the page that was looked at and kept; FROMAGE_UPDATE_GOLDEN=1 keeps a new one."""
    path = GOLDEN / name
    if os.environ.get("FROMAGE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_many_eigenvalues_are_cut_short(make_result: MakeResult) -> None:
    result = make_result(eigenvalues=tuple(HessianEigenvalue(40.0 - rank, 0.01) for rank in range(12)))
    assert "4 of 12 rows hidden" in page(result)
    assert "hidden" not in page(result, show_all=True)


@pytest.mark.parametrize(
    ("regime", "words"),
    [
        ("lazy", "shrink (lazy)"),
        ("catapult", "comes back (catapult)"),
        ("architecture-dependent", "depends on the architecture"),
        ("divergent", "divergent"),
        ("edge-of-stability", "edge of stability"),
        (None, "above the threshold"),
    ],
)
def test_every_regime_has_its_words(make_result: MakeResult, regime: str | None, words: str) -> None:
    assert words in summary(make_result(regime=regime))


def test_what_is_missing_is_said(make_result: MakeResult) -> None:
    result = make_result()
    assert "No eigenvalue" in summary(replace(result, eigenvalues=()))
    unknown = replace(
        result,
        optimizer=None,
        threshold=None,
        ratio=None,
        regime=None,
        absent=(Absent("threshold", "the optimizer is not known"), Absent("ratio", "the optimizer is not known")),
    )
    assert "no threshold to hold it against: the optimizer is not known" in summary(unknown)
    assert "no ratio: the optimizer is not known" in page(unknown)
    adam = replace(result, optimizer="adam", momentum=None, ratio=None, regime=None)
    assert "is stable up to a preconditioned 38; there is nothing" in summary(adam)


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = page(make_result(), ascii_only=True)
    assert all(value in text for value in ("46.3", "44.1", "3.96", "41 +- 3.9", "38", "1.22"))
