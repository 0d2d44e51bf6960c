"""Tables and picture of the run study, from its results alone."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from run_study_measuring import QUANTITIES
from run_study_separation import (
    FACTS,
    SEVERITIES,
    TOO_LARGE,
    VERDICTS,
    Row,
    Separator,
    area,
    by_run,
    chances_of,
    choose,
    extremes,
    load,
    runs_of,
    severity,
)

HALVES = ("choosing", "testing")
GROUPS = ("healthy", "sick", "with too large steps")
LEVELS = (("info", "warn", "fail", "error"), ("warn", "fail"), ("fail",))
HEALTH = (False, True)
"""Whether a run is sick, in the order of every pair of counts."""
DRAWN = (
    "sharpness ratio",
    "quadratic peak",
    "rate/radius",
    "rate/critical",
    "rate/limit",
    "norm change",
    "norm jump",
    "relative step",
    "forgetting",
    "weights out of line",
    "trust eta",
    "loss",
)
GATES = ("breakdown", "suggest-lr", "sharpness", "norms", "intrinsic-lr")
"""Commands that a gate may run, as a user would; breakdown along Fromage's direction."""
SHOWN = (
    "sharpness ratio",
    "quadratic peak",
    "rate/radius",
    "relative step",
    "forgetting",
    "norm change",
    "norm jump",
    "weights out of line",
)
"""What each run is looked up for, one by one."""


ROUND = {
    "quadratic peak": 1.02,
    "sharpness ratio": 1.0,
    "forgetting": 1.0,
    "rate/radius": 3.0,
    "rate/critical": 1.0,
    "rate/limit": 20.0,
    "norm change": 6.0,
    "norm jump": 1.75,
    "weights out of line": 3.4,
    "gradients out of line": 30.0,
    "stability ratio": 1.0,
}
"""Thresholds of findings, or round ones near those that the halves choose; of several together, any may be passed."""
CODED = {
    "norm change": "norm-far-from-first",
    "norm jump": "norm-jumps",
    "weights out of line": "layer-out-of-line",
    "gradients out of line": "layer-out-of-line",
    "quadratic peak": "quadratic-model-…",
    "stability ratio": "rate-not-stable",
}
"""Verdicts whose thresholds stand in the tool, by their quantity."""
TOGETHER = (
    ("quadratic peak", "forgetting"),
    ("quadratic peak", "sharpness ratio"),
    ("quadratic peak", "sharpness ratio", "forgetting"),
)


def report(path: Path, plot: Path | None) -> None:
    """Print every table, and draw the picture where a file for it is named."""
    rows = load(path)
    print(f"{len(by_run(rows))} runs, {len(rows)} checkpoints\n")
    print_runs(rows)
    print_quantities(rows)
    print_coded(rows)
    print_rules(rows)
    print_gates(rows)
    print_findings(rows)
    print_each_run(rows)
    print_severities(rows)
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
    table(("quantity", "what it is"), QUANTITIES.items())


def quantity_cells(rows: Sequence[Row], name: str) -> list[str]:
    """Return a quantity's line: ranges over runs, and errors of the threshold of each half on the other."""
    ends = extremes(rows, name)
    cells = [name]
    cells += [f"{min(ends[bad]):.3g} to {max(ends[bad]):.3g} ({len(ends[bad])})" if ends[bad] else "" for bad in HEALTH]
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


def print_coded(rows: Sequence[Row]) -> None:
    """Thresholds of the tool beside those of each half, and the latter's errors on the other half."""
    parts = [[row for row in rows if row.half == half] for half in HALVES]
    lines = []
    for name, code in CODED.items():
        cells = [f"`{code}`", name, f"{ROUND[name]:g}"]
        for chosen, tested in (parts, parts[::-1]):
            groups, separator = list(by_run(tested).values()), choose(chosen, name)
            if separator is not None:
                counts, of = counts_of(groups, separator.flags), counts_of(groups, lambda row: True)
                cells.append(f"{separator.threshold:.3g}")
                cells.append(", ".join(f"{count} of {total}" for count, total in zip(counts, of, strict=True)))
                cells.append(", ".join(f"{chance:.2g}" for chance in chances_of(counts, of)))
        lines.append(cells)
    print("## Thresholds of verdicts\n")
    half = ("on the other half", "chance")
    table(("verdict", "quantity", "in the tool", "choosing half", *half, "testing half", *half), lines)


def print_rules(rows: Sequence[Row]) -> None:
    """Errors of round thresholds, alone and together."""
    groups = list(by_run(rows).values())
    of = counts_of(groups, lambda row: True)
    lines = []
    for names in (*((name,) for name in ROUND), *TOGETHER):
        separators = [Separator(name, ROUND[name]) for name in names]
        counts = counts_of(groups, lambda row, tests=separators: any(test.flags(row) for test in tests))
        title = " or ".join(f"{one.name} {one}" for one in separators)
        lines.append((title, *(f"{count} of {total}" for count, total in zip(counts, of, strict=True))))
    print("## Rules\n")
    table(("any checkpoint with", *GROUPS), lines)


def print_gates(rows: Sequence[Row]) -> None:
    """How many runs and checkpoints `--fail-on warn` stops, by command, and with all of them."""
    groups = list(by_run(rows).values())
    of = counts_of(groups, lambda row: True)
    lines = []
    for title, commands in (*((f"`{name}`", {name}) for name in GATES), ("any of these", set(GATES))):
        counts = counts_of(groups, lambda row, asked=commands: bool(row.stopped & asked))
        flags = [[bool(row.stopped & commands) for row in rows if row.sick is bad] for bad in HEALTH]
        points = [f"{sum(each)} of {len(each)}" for each in flags]
        lines.append((title, *(f"{count} of {total}" for count, total in zip(counts, of, strict=True)), *points))
    print("## Gates\n")
    table(("`--fail-on warn` of", *GROUPS, "healthy checkpoints", "sick checkpoints"), lines)


def print_findings(rows: Sequence[Row]) -> None:
    """How often each code fires in healthy and sick runs."""
    groups = list(by_run(rows).values())
    of = counts_of(groups, lambda row: True)
    seen = {code for row in rows for code in row.findings}
    print(f"## Findings\n\nRuns: {of[0]} healthy, {of[1]} sick, {of[2]} of these with too large steps.\n")
    for title, codes in (("verdict", VERDICTS), ("fact", {**dict.fromkeys(seen - {*VERDICTS}, ""), **FACTS})):
        lines = []
        for code, now in sorted(codes.items()):
            levels = [counts_of(groups, fires(code, severities)) for severities in LEVELS]
            points = [sum(code in row.findings for row in rows if row.sick is bad) for bad in HEALTH]
            cells = [" / ".join(map(str, counts)) if sum(counts) else "" for counts in (*levels, points)]
            chances = chances_of(levels[0], of)
            lines.append((f"`{code}`", now, *cells, ", ".join(f"{chance:.2g}" for chance in chances)))
        table((title, "severity", "runs", "warn or fail", "fail", "checkpoints", "chance"), lines)


def print_severities(rows: Sequence[Row]) -> None:
    """The severity that the evidence supports for every verdict; a code with several has each judged by itself."""
    groups = list(by_run(rows).values())
    of = counts_of(groups, lambda row: True)
    print("## Which severity the evidence supports\n")
    lines = []
    for code, now in sorted(VERDICTS.items()):
        for level in now.split(", "):
            fired = counts_of(groups, fires(code, SEVERITIES[SEVERITIES.index(level) :]))
            why = [f"{count} of {total} {name}" for count, total, name in zip(fired, of, GROUPS, strict=True)]
            lines.append(
                (f"`{code}`", level, severity(level, fired, of), ", ".join(why) if sum(fired) else "never fired")
            )
    table(("finding", "severity", "supported", "runs"), lines)


def fires(code: str, severities: Sequence[str]) -> Callable[[Row], bool]:
    """Return the test whether a checkpoint has a finding of this code and of one of these severities."""
    return lambda row: row.findings.get(code) in severities


def counts_of(groups: Sequence[Sequence[Row]], test: Callable[[Row], bool]) -> tuple[int, int, int]:
    """Return of how many healthy, sick and too-large-stepped runs any checkpoint passes a test."""
    passing = [group[0].kind for group in groups if any(map(test, group))]
    return passing.count(""), len(passing) - passing.count(""), sum(kind in TOO_LARGE for kind in passing)


def print_each_run(rows: Sequence[Row]) -> None:
    """At how many of its checkpoints each run is beyond the thresholds that all runs choose, and warned of."""
    separators = [separator for name in SHOWN if (separator := choose(rows, name)) is not None]
    names = [f"{one.name} {one}" for one in separators]
    lines = []
    for name, group in sorted(by_run(rows).items(), key=lambda one: not one[1][0].sick):
        marks = [f"{sum(map(one.flags, group))}" for one in separators]
        warned = sum(any(row.findings.get(code, "info") != "info" for code in VERDICTS) for row in group)
        lines.append((f"`{name}`", group[0].kind or "healthy", len(group), *marks, warned))
    print("## Run by run\n")
    table(("run", "what is wrong", "checkpoints", *names, "a verdict warned"), lines)


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
