"""Tables and picture of the run study, from its results alone."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from run_study_measuring import QUANTITIES
from run_study_separation import (
    FACTS,
    TOO_LARGE,
    VERDICTS,
    Row,
    area,
    by_run,
    choose,
    extremes,
    fisher,
    load,
    runs_of,
    severity,
)

HALVES = ("choosing", "testing")
HEALTH = (False, True)
"""Whether a run is sick, in the order of every pair of counts."""
DRAWN = (
    "sharpness ratio",
    "quadratic peak",
    "rate/radius",
    "rate/critical",
    "rate/limit",
    "critical sharpness",
    "batch sharpness",
    "relative step",
    "forgetting",
    "function distance",
    "trust eta",
    "loss",
)
SHOWN = ("sharpness ratio", "quadratic peak", "rate/radius", "relative step", "forgetting", "function distance")
"""What each run is looked up for, one by one."""


def report(path: Path, plot: Path | None) -> None:
    """Print every table, and draw the picture where a file for it is named."""
    rows = load(path)
    print(f"{len(by_run(rows))} runs, {len(rows)} checkpoints\n")
    print_runs(rows)
    print_quantities(rows)
    print_findings(rows)
    print_each_run(rows)
    if plot is not None:
        draw(rows, plot)


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for line in lines:
        print(f"| {' | '.join(str(cell) for cell in line)} |")
    print()


def print_runs(rows: Sequence[Row]) -> None:
    """The runs and their final losses, sick ones beside their healthy twins."""
    last = {name: group[-1].cells for name, group in by_run(rows).items()}

    def losses(name: str) -> tuple[str, str]:
        return (last[name]["train"], last[name]["held_out"]) if name in last else ("", "")

    print("## Runs\n")
    healthy = [(name, cells) for name, cells in last.items() if not cells["kind"]]
    sick = [(name, cells) for name, cells in last.items() if cells["kind"]]
    table(
        ("healthy run", "half", "what looks odd and is not", "trained", "held out"),
        ((f"`{name}`", cells["half"], cells["odd"], *losses(name)) for name, cells in healthy),
    )
    table(
        ("sick run", "half", "what is wrong", "trained", "held out", "healthy twin", "trained", "held out"),
        (
            (f"`{name}`", cells["half"], cells["kind"], *losses(name), f"`{cells['twin']}`", *losses(cells["twin"]))
            for name, cells in sick
        ),
    )


def print_quantities(rows: Sequence[Row]) -> None:
    """Ranges, thresholds and errors of every quantity, the one that separates best first."""
    lines = [(area(rows, name), quantity_cells(rows, name)) for name in QUANTITIES if choose(rows, name) is not None]
    choosing, testing = ([row for row in rows if row.half == half] for half in HALVES)
    print("## Quantities\n")
    print(f"Healthy and sick runs: {runs_of(choosing)} to choose thresholds, {runs_of(testing)} to test them.\n")
    head = ("quantity", "healthy runs", "sick runs", "area (too large steps)", "threshold", "false alarms", "hits")
    swapped = ("the other way round", "false alarms", "hits")
    table((*head, "of checkpoints", *swapped), (cells for _, cells in sorted(lines, key=lambda one: -one[0])))


def quantity_cells(rows: Sequence[Row], name: str) -> list[str]:
    """Return a quantity's line: ranges over runs, and errors of the threshold of each half on the other."""
    ends = extremes(rows, name)
    cells = [name]
    cells += [f"{min(ends[bad]):.2g} to {max(ends[bad]):.2g} ({len(ends[bad])})" if ends[bad] else "" for bad in HEALTH]
    large = [row for row in rows if not row.sick or row.kind in TOO_LARGE]
    cells.append(f"{area(rows, name):.2f} ({area(large, name):.2f})")
    parts = [[row for row in rows if row.half == half] for half in HALVES]
    for chosen, tested in (parts, parts[::-1]):
        separator = choose(chosen, name)
        if separator is None:
            cells += ["", "", ""]
            continue
        counts = separator.counts(tested)
        cells.append(str(separator))
        cells += [f"{count} of {total}" for count, total in zip(counts, runs_of(tested), strict=True)]
        if tested is parts[1]:
            flagged = [[separator.flags(row) for row in tested if row.sick is bad] for bad in HEALTH]
            cells.append(", ".join(f"{sum(flags)} of {len(flags)}" for flags in flagged))
    return cells


def print_findings(rows: Sequence[Row]) -> None:
    """How often each code fires in healthy and sick runs, and the severity that this supports."""
    groups = list(by_run(rows).values())
    of = counts_of(groups, lambda row: True)
    seen = {code for row in rows for code in row.findings}
    print(f"## Findings\n\nRuns: {of[0]} healthy, {of[1]} sick, {of[2]} of these with too large steps.\n")
    for title, codes in (("verdict", VERDICTS), ("fact", {**dict.fromkeys(seen - {*VERDICTS}, ""), **FACTS})):
        lines = []
        for code, now in sorted(codes.items()):
            fired = counts_of(groups, lambda row, code=code: code in row.findings)
            loud = counts_of(groups, lambda row, code=code: row.findings.get(code) in ("warn", "fail"))
            points = [sum(code in row.findings for row in rows if row.sick is bad) for bad in HEALTH]
            cells = [" / ".join(map(str, counts)) if sum(counts) else "" for counts in (fired, loud, points)]
            chance = [f"{fisher(fired[0], of[0], *pair):.2g}" for pair in zip(fired[1:], of[1:], strict=True)]
            supported = severity(code, fired, of) if title == "verdict" else ""
            lines.append((f"`{code}`", now, *cells, ", ".join(chance) if sum(fired) else "", supported))
        table((title, "now", "runs", "of these warn or fail", "checkpoints", "chance", "supported"), lines)


def counts_of(groups: Sequence[Sequence[Row]], test: Callable[[Row], bool]) -> tuple[int, int, int]:
    """Return of how many healthy, sick and too-large-stepped runs any checkpoint passes a test."""
    passing = [group[0].kind for group in groups if any(map(test, group))]
    return passing.count(""), len(passing) - passing.count(""), sum(kind in TOO_LARGE for kind in passing)


def print_each_run(rows: Sequence[Row]) -> None:
    """At how many of its checkpoints each run is beyond the thresholds that all runs choose, and warned of now."""
    separators = [separator for name in SHOWN if (separator := choose(rows, name)) is not None]
    names = [f"{one.name} {one}" for one in separators]
    lines = []
    for name, group in sorted(by_run(rows).items(), key=lambda one: not one[1][0].sick):
        marks = [f"{sum(map(one.flags, group))}" for one in separators]
        warned = sum(any(row.findings.get(code, "info") != "info" for code in VERDICTS) for row in group)
        lines.append((f"`{name}`", group[0].kind or "healthy", len(group), *marks, warned))
    print("## Run by run\n")
    table(("run", "what is wrong", "checkpoints", *names, "a verdict warns now"), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a strip for each main quantity: every dot the extreme of a run, healthy above, sick below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(DRAWN):
        axes = figure.add_subplot(4, 3, place + 1)
        separator = choose(rows, name)
        if separator is None:
            continue
        ends = extremes(rows, name)
        least = min((value for values in ends.values() for value in values if value > 0.0), default=1.0)
        for level, bad, color in ((1.0, False, "tab:blue"), (0.0, True, "tab:red")):
            heights = [level + 0.09 * (number % 5 - 2) for number in range(len(ends[bad]))]
            places = [max(value, 0.5 * least) for value in sorted(ends[bad])]
            axes.plot(places, heights, "o", color=color, alpha=0.6, markersize=4)
        axes.axvline(separator.threshold, color="0.4", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_yticks([0.0, 1.0], ["sick", "healthy"])
        axes.set_ylim(-0.5, 1.5)
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize=9)
    figure.savefig(path, dpi=100)
