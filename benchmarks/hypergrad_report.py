"""Table and picture of the study of advice acted upon, from its results alone.

python benchmarks/hypergrad_report.py [--plot FILE]
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

RESULTS = Path(__file__).parent / "results" / "hypergrad_study.jsonl"
MOVE, NEAR = 0.1, 0.25
COLOURS = {"weight-decay": "tab:blue", "label-smoothing": "tab:orange", "dropout": "tab:green"}


@dataclass(frozen=True)
class Outcome:
    """What was foretold of raising a hyperparameter by a tenth, and what it did to the validation loss."""

    sample: str
    moved: str
    direction: str
    told: float
    """By the continued runs."""
    told_stderr: float
    derivative: float | None
    """By the unrolled derivative; None of dropout, which has none."""
    same: float
    """On the batches of the advice."""
    others: tuple[float, ...]
    """On other orders of batches."""

    @property
    def measured(self) -> float:
        """The mean over other orders."""
        return fmean(self.others)

    @property
    def stderr(self) -> float:
        """Of that mean."""
        return stdev(self.others) / math.sqrt(len(self.others))

    @property
    def advised(self) -> bool:
        """Whether the tool said to raise or to lower it."""
        return self.direction in ("raise", "lower")

    @property
    def within(self) -> bool:
        """Whether both means agree to two standard errors."""
        return abs(self.measured - self.told) <= 2.0 * math.hypot(self.told_stderr, self.stderr)


def outcome(line: dict[str, Any]) -> Outcome:
    """One line of the results."""
    told = line["told"]
    moved, slope = told["continued"], told["unroll"]["log_gradient"]
    return Outcome(
        line["case"]["sample"],
        line["case"]["moved"],
        told["direction"],
        MOVE * moved["log_gradient"],
        MOVE * told["value"] * moved["stderr"],
        None if slope is None else MOVE * slope,
        _half(line["same"]),
        tuple(_half(pair) for pair in line["others"]),
    )


def _half(pair: Sequence[float]) -> float:
    """The rise for a tenth, from the losses at a tenth less and a tenth more."""
    return (pair[1] - pair[0]) / 2.0


def share(found: Sequence[bool]) -> str:
    """How many of how many."""
    return f"{sum(found)} of {len(found)}" if found else "–"


def table(outcomes: Sequence[Outcome]) -> None:
    """Print a line for each network and hyperparameter, in Markdown, and one for all."""
    head = ("network, hyperparameter", "cases", "advised", "sign, same batches", "sign, other orders", "median ratio")
    print(f"| {' | '.join((*head, 'within 25 %', 'within 2 errors'))} |\n|{'---|' * (len(head) + 2)}")
    groups = [(f"{key[0]}, {key[1]}", list(group)) for key, group in groupby(outcomes, _key)]
    for title, group in [*groups, ("all", list(outcomes))]:
        taken = [one for one in group if one.advised]
        ratios = [one.measured / one.told for one in taken]
        cells = [
            title,
            len(group),
            len(taken),
            share([one.same * one.told > 0.0 for one in taken]),
            share([other * one.told > 0.0 for one in taken for other in one.others]),
            f"{median(ratios):.2f}" if ratios else "–",
            share([abs(ratio - 1.0) <= NEAR for ratio in ratios]),
            share([one.within for one in taken]),
        ]
        print(f"| {' | '.join(map(str, cells))} |")


def derivatives(outcomes: Sequence[Outcome]) -> None:
    """Print the same of the unrolled derivative, advised on or not, where the effect itself is told from chance."""
    print("\n| network, hyperparameter | effect is clear | sign of the derivative | median ratio | within 25 % |")
    print(f"|{'---|' * 5}")
    for key, group in groupby(outcomes, _key):
        clear = [one for one in group if one.derivative is not None and abs(one.measured) > 3.0 * one.stderr]
        ratios = [one.measured / one.derivative for one in clear if one.derivative]
        near = share([abs(ratio - 1.0) <= NEAR for ratio in ratios])
        middle = f"{median(ratios):.2f}" if ratios else "–"
        print(f"| {key[0]}, {key[1]} | {len(clear)} | {share([r > 0.0 for r in ratios])} | {middle} | {near} |")


def _key(one: Outcome) -> tuple[str, str]:
    return one.sample, one.moved


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw what was measured over what was foretold, a panel for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (sample, group) in enumerate(groupby(outcomes, lambda one: one.sample)):
        axes, seen = figure.add_subplot(1, 2, place + 1), set[str]()
        for one in group:
            label = None if one.moved in seen or not one.advised else one.moved.replace("-", " ")
            seen |= {one.moved} if one.advised else set()
            axes.errorbar(
                1e3 * one.told,
                1e3 * one.measured,
                xerr=2e3 * one.told_stderr,
                yerr=2e3 * one.stderr,
                fmt="o",
                color=COLOURS[one.moved] if one.advised else "0.75",
                markersize=4,
                linewidth=0.7,
                label=label,
                zorder=2 if one.advised else 1,
            )
        axes.axline((0.0, 0.0), slope=1.0, color="0.4", linewidth=0.8, linestyle="--")
        axes.axhline(0.0, color="0.85", linewidth=0.8, zorder=0)
        axes.axvline(0.0, color="0.85", linewidth=0.8, zorder=0)
        axes.set_title(sample, fontsize=10)
        axes.set_xlabel("foretold rise of the validation loss for +10 %, in thousandths", fontsize=8)
        axes.set_ylabel("measured on other batches, in thousandths", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="upper left", title="advised on (grey: not)", title_fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the tables, and draw the picture where a file for it is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    lines = asked.results.read_text(encoding="utf-8").splitlines()
    outcomes = sorted(map(outcome, map(json.loads, lines)), key=_key, reverse=True)
    table(outcomes)
    derivatives(outcomes)
    if asked.plot is not None:
        draw(outcomes, asked.plot)


if __name__ == "__main__":
    main()
