"""The picture of a breakdown, Fig. 1 of the paper for one checkpoint: loss and gradient breakdown against eta."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_cli.diagnostics.breakdown.choice import TO
from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.errors import FromageError, UsageError
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.output import check_writable, write_file
from fromage_cli.terminal.words import middle, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {".svg": "svg", ".png": "png"}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#666666",
    "axes.formatter.useoffset": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "fromage-diag",
    "text.parse_math": False,
}
"""An opaque ground, so that it reads in dark viewers too; letters stay letters, and `$` is one of them."""


def check_plot(path: Path, force: bool, others: Sequence[str | Path | None] = ()) -> None:
    """Refuse, before anything is computed, a picture that could not be drawn or written.

    `others`: inputs and outputs of the same call. Raises UsageError for another extension than .svg and .png, for one
    of the others' files and where matplotlib is missing; InputError where the file cannot be written.
    """
    name = visible(str(path))
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--plot {name}: no picture goes with the extension {visible(path.suffix)!r}.",
            f"Extensions: {' '.join(FORMATS)}.",
        )
    if any(other is not None and os.path.realpath(path) == os.path.realpath(other) for other in others):
        raise UsageError(f"--plot {name} is an input or the other output of this call.", "Name another file.")
    check_writable(path, force)
    _require_matplotlib()


def _require_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--plot needs matplotlib, which cannot be imported: {visible(str(error))[:200]}.",
            "Install it: python -m pip install 'fromage-diag[plot]'",
        ) from error
    except ValueError as error:  # what MPLBACKEND holds is looked at on import
        raise UsageError(
            f"--plot: matplotlib does not start: {visible(str(error))[:200]}.",
            "Correct MPLBACKEND or the matplotlibrc.",
        ) from error


def with_plot(answer: Answer, result: BreakdownResult, path: Path, force: bool) -> Answer:
    """The answer once its picture is written, with a note saying where.

    Where it cannot be written the note says why, and the error is raised when the answer has been shown.
    """
    name = visible(str(path))
    try:
        write_file(path, draw(result, subject_of(answer), FORMATS[path.suffix.lower()]), force)
    except FromageError as error:
        note = f"the plot was not written: {error.message}"
        return replace(answer, notes=(*answer.notes, note), error=answer.error or error)
    return replace(answer, notes=(*answer.notes, f"the plot was written to {name}"))


def subject_of(answer: Answer) -> str:
    """What was measured, for the title: the last two names of the checkpoint's path and its step, or the model."""
    if not answer.checkpoints:
        return answer.problem.model if answer.problem is not None else "a model"
    checkpoint = answer.checkpoints[0]
    name = _last_two(checkpoint.path)
    return name if checkpoint.step is None else f"{name}, step {checkpoint.step}"


def _last_two(path: str) -> str:
    return "/".join(part for part in Path(path).parts[-2:] if part != "/")


def draw(result: BreakdownResult, subject: str, format: str) -> bytes:
    """The picture as `svg` or `png`, the same bytes for the same result; values that are not finite are left out.

    `subject`: what was measured, for the title. Raises UsageError where matplotlib is missing.
    """
    _require_matplotlib()
    buffer = io.BytesIO()
    metadata = {"Date": None, "Title": f"breakdown of {visible(subject)}"} if format == "svg" else {}
    with _style_of_our_own(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
        _figure(result, subject).savefig(buffer, format=format, dpi=150, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def _style_of_our_own() -> Iterator[None]:
    """Our settings alone, whatever the user's matplotlibrc says; theirs come back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _figure(result: BreakdownResult, subject: str) -> Figure:
    from matplotlib.figure import Figure

    from fromage_cli.diagnostics.breakdown.panels import breakdown_panel, eta_axis, loss_panel

    figure = Figure(figsize=(10.0, 7.2))
    grid = {"height_ratios": (1.0, 1.7), "left": 0.085, "right": 0.635, "top": 0.89, "bottom": 0.08, "hspace": 0.09}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw=grid)
    figure.text(0.02, 0.955, middle(visible(subject), 88), fontsize=11, weight="bold")
    figure.text(0.02, 0.922, _conditions(result), color="#444444")
    eta_axis(bottom, result)
    loss_panel(top, result)
    breakdown_panel(bottom, result)
    return figure


def _conditions(result: BreakdownResult) -> str:
    direction = result.direction
    if direction.startswith(TO):
        direction = TO + _last_two(direction.removeprefix(TO))
    measured = _counted(len(result.etas), "point") if result.etas else "no point was measured"
    return f"direction {middle(visible(direction), 60)}; {_counted(len(result.layers), 'layer')}; {measured}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
