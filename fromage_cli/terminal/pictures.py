"""A picture behind `--plot`: what is refused before any work, our own style, and the file beside the answer."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fromage_cli.errors import FromageError, UsageError
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.output import check_writable, write_file
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")
FORMATS = {".svg": "svg", ".png": "png"}
BLACK, BLUE, ORANGE, RED, GREEN, VERMILION = "#222222", "#0072b2", "#e08e00", "#c1272d", "#009e73", "#d55e00"
"""What curves are drawn in; most are told apart by people who are blind to red or green too."""
DASHED = (0, (5, 2.5))
LARGEST = 1e250
"""Beyond, a number cannot be drawn: what the axes compute from it would overflow."""
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


def check_plot(path: Path | None, force: bool, others: Sequence[str | Path | None] = ()) -> None:
    """Refuse, before anything is computed, a picture that could not be drawn or written; None: none is wanted.

    `others`: inputs and outputs of the same call. Raises UsageError for another extension than .svg and .png, for one
    of the others' files and where matplotlib is missing; InputError where the file cannot be written.
    """
    if path is None:
        return
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
        with chdir(Path(__file__).parent):  # on import it evaluates the matplotlibrc of the working directory
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


def with_plot(
    answer: Answer, draw: Callable[[str, str], bytes], path: Path | None, force: bool, *, last: bool = False
) -> Answer:
    """The answer once its picture is written, with a note saying where; as it is where `path` is None.

    `draw`: from what was measured, for the title, and `svg` or `png` to the picture; `last`: of several checkpoints
    it is about the last. Where it cannot be written the note says why, and the error is raised when the answer has
    been shown.
    """
    if path is None:
        return answer
    name = visible(str(path))
    try:
        write_file(path, draw(subject_of(answer, last), FORMATS[path.suffix.lower()]), force)
    except FromageError as error:
        note = f"the plot was not written: {error.message}"
        return replace(answer, notes=(*answer.notes, note), error=answer.error or error)
    return replace(answer, notes=(*answer.notes, f"the plot was written to {name}"))


def subject_of(answer: Answer, last: bool = False) -> str:
    """What was measured, for the title: the checkpoint, the first and the last of several, or the model.

    Of a checkpoint it has the last two names of its path and its step. `last`: only the last of several.
    """
    if not answer.checkpoints:
        return answer.problem.model if answer.problem is not None else "a model"
    several = len(answer.checkpoints) > 1 and not last
    first, end = answer.checkpoints[0 if several else -1], answer.checkpoints[-1]
    named = last_two(first.path) + ("" if first.step is None else f", step {first.step}")
    if not several:
        return named
    beside = Path(first.path).parent == Path(end.path).parent  # their directory is said once
    place = Path(end.path).name if beside else last_two(end.path)
    return f"{named} → {place}{'' if end.step is None else f', step {end.step}'}"


def last_two(path: str) -> str:
    """The last two names of a path."""
    return "/".join(part for part in Path(path).parts[-2:] if part != "/")


def picture(title: str) -> Callable[[Callable[[Result, str], Figure]], Callable[[Result, str, str], bytes]]:
    """A function that draws a result becomes one that returns the file, in our style.

    It takes the result, what was measured, and `svg` or `png`, and gives the same bytes for the same result. `title`:
    of the file, with a `{}` for what was measured. Raises UsageError where matplotlib is missing.
    """

    def decorated(make: Callable[[Result, str], Figure]) -> Callable[[Result, str, str], bytes]:
        @wraps(make)
        def draw(result: Result, subject: str, format: str) -> bytes:
            _require_matplotlib()
            import matplotlib

            buffer = io.BytesIO()
            metadata = {"Date": None, "Title": title.format(visible(subject))} if format == "svg" else {}
            with matplotlib.rc_context(), warnings.catch_warnings():
                matplotlib.rcdefaults()  # whatever the user's matplotlibrc says; theirs comes back afterwards
                matplotlib.rcParams.update(STYLE)
                warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
                make(result, subject).savefig(buffer, format=format, dpi=150, metadata=metadata)
            return buffer.getvalue()

        return draw

    return decorated


def loss_window(start: float, losses: Sequence[float]) -> tuple[float, float]:
    """What a panel shows of a loss: all that lies below its start, and so much above it that a dip is still seen.

    Losses that cannot be drawn are left out. Where all of them lie higher, it reaches up to the least.
    """
    drawn = [loss for loss in losses if abs(loss) < LARGEST]
    low, high = min((start, *drawn)), max((start, *drawn))
    reach = max(1.5 * (start - low), 0.25 * abs(start)) or 1.0
    high = max(min(high, start + reach), min(drawn, default=start))
    margin = 0.06 * (high - low) or reach
    return low - margin, high + margin


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Powers of ten; within two decades also 2 and 5 times them, within a factor of three evenly spaced numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    if high < 3.0 * low:
        axis.set_major_locator(MaxNLocator(6))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        return
    multiples = (1.0, 2.0, 5.0) if high < 100.0 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=multiples, numticks=10))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_formatter(NullFormatter())


def tick(value: float) -> str:
    """A number on a logarithmic axis: `10⁻⁴`, `0.002`, `0.1`, `5`, `10⁶`."""
    if not 0.0 < value < math.inf:
        return ""
    if 1e-3 <= value < 1e4:
        return f"{value:.6g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"
