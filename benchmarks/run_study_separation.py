"""Which quantity tells healthy from sick: the rows of the results, thresholds, and the severity that counts support."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from run_study_measuring import QUANTITIES
from run_study_recipes import RECIPES

FACTS = {
    "tensor-not-finite": "fail",
    "norm-not-finite": "fail",
    "distance-not-finite": "fail",
    "log-not-finite": "warn",
    "pickle-runs-code": "warn",
    "not-all-read": "warn",
    "tensors-unpaired": "warn",
    "one-hot-targets": "warn",
    "noisy-gradient": "warn",
    "grid-starts-late": "warn",
    "gradient-is-rounding": "info",
    "grid-too-coarse": "info",
    "grid-wide": "info",
    "loss-overflows": "info",
    "no-second-derivative": "info",
    "ties-differ": "info",
    "dtypes-differ": "info",
    "tensors-equal": "info",
    "layer-unmoved": "info",
    "bands-of-plain-descent": "info",
    "not-scale-invariant": "info",
    "invariant-with-bias": "info",
    "relaxation-too-short": "info",
    "rate-not-measured": "info",
    "bias-dead": "info",
}
"""Codes that state a fact about files, numerics or the reach of a number, and the severity they have."""
VERDICTS = {
    "breakdown-early": "warn, fail",
    "step-ascends": "warn",
    "tensor-still": "info",
    "curvature-breaks-earlier": "info",
    "layer-turned": "info",
    "tensor-all-zero": "info",
    "no-equilibrium": "warn",
    "far-from-equilibrium": "info",
    "rotation-off": "info",
    "norm-overflows": "warn",
    "norm-follows-law": "warn",
    "invariant-layer-grows": "warn",
    "rows-dead": "info",
    "above-threshold": "warn",
    "catapult": "info",
    "rate-depends-on-architecture": "warn",
    "rate-diverges": "fail",
    "edge-of-stability": "info",
    "quadratic-model-spikes": "info",
    "quadratic-model-diverges": "warn",
    "batch-sharpness-high": "info",
    "no-positive-curvature": "info",
    "rate-above-limit": "info, warn",
    "verification-rises": "warn",
    "no-certain-step": "warn",
    "descends-on-own-rows-only": "info",
    "noise-dominates": "info",
    "certain-together-only": "info",
    "recommended-above-critical": "info",
}
"""Codes that can be read as a verdict on the training, and the severity they have."""
SEVERITIES = ("info", "warn", "fail")
CHANCE = 0.05
"""One-sided probability of Fisher's exact test below which a finding is more frequent in sick runs."""
FALSE_ALARMS = 0.1
"""Share of healthy runs in which a warning may appear."""


@dataclass(frozen=True)
class Row:
    """One checkpoint of the results."""

    run: str
    half: str
    kind: str
    sick: bool
    numbers: dict[str, float]
    findings: dict[str, str]
    """The gravest severity of each code."""
    cells: dict[str, str]


def load(path: Path) -> list[Row]:
    """Return the checkpoints that count: all of healthy runs, of sick ones those from where they are sick."""
    with path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    order = [recipe.name for recipe in RECIPES]
    cells.sort(key=lambda each: (order.index(each["run"]), int(each["step"])))
    return [_row(each) for each in cells if not each["kind"] or each["sick"] == "1"]


def _row(cells: dict[str, str]) -> Row:
    found: dict[str, str] = {}
    for word in cells["findings"].split():
        name, severity = word.split(":")[:2]
        code = name.split("/")[1]
        found[code] = max(found.get(code, severity), severity, key=("info", "warn", "fail", "error").index)
    numbers = {name: float(cells[name]) for name in QUANTITIES if cells.get(name)}
    return Row(cells["run"], cells["half"], cells["kind"], bool(cells["kind"]), numbers, found, cells)


def by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group the checkpoints by run."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.run].append(row)
    return groups


def runs_of(rows: Iterable[Row]) -> tuple[int, int]:
    """Return how many healthy and how many sick runs these checkpoints are of."""
    sick = [group[0].sick for group in by_run(rows).values()]
    return sick.count(False), sick.count(True)


def fisher(healthy: int, of_healthy: int, sick: int, of_sick: int) -> float:
    """Return how probable it is, by chance, that at least `sick` of all marked runs are sick ones."""
    marked, total = healthy + sick, of_healthy + of_sick
    ways = [math.comb(of_sick, k) * math.comb(of_healthy, marked - k) for k in range(sick, min(marked, of_sick) + 1)]
    return sum(ways) / math.comb(total, marked)


@dataclass(frozen=True)
class Separator:
    """A quantity with a threshold: a run is called sick where any of its checkpoints is beyond it."""

    name: str
    threshold: float
    high: bool
    """Whether numbers above the threshold are the sick ones."""

    def flags(self, row: Row) -> bool:
        """Whether this checkpoint is beyond the threshold; one without the number is not."""
        number = row.numbers.get(self.name)
        return number is not None and (number > self.threshold if self.high else number < self.threshold)

    def counts(self, rows: Sequence[Row]) -> tuple[int, int]:
        """How many healthy and how many sick runs are flagged."""
        flagged = [group[0].sick for group in by_run(rows).values() if any(map(self.flags, group))]
        return flagged.count(False), flagged.count(True)


def extremes(rows: Sequence[Row], name: str, high: bool) -> dict[bool, list[float]]:
    """Return the largest (or smallest) number of each run that has one, by whether the run is sick."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for group in by_run(rows).values():
        numbers = [row.numbers[name] for row in group if name in row.numbers]
        if numbers:
            found[group[0].sick].append(max(numbers) if high else min(numbers))
    return found


def choose(rows: Sequence[Row], name: str) -> Separator | None:
    """Return the threshold with the best share of hits less share of false alarms among these runs."""
    healthy, sick = runs_of(rows)
    best: tuple[tuple[float, float, float], Separator] | None = None
    for high in (True, False):
        ends = extremes(rows, name, high)
        for low, next_one in pairwise(sorted({*ends[False], *ends[True]})):
            middle = math.sqrt(low * next_one) if low > 0.0 else 0.5 * (low + next_one)
            separator = Separator(name, middle, high)
            wrong, right = separator.counts(rows)
            gap = math.log(next_one / low) if low > 0.0 else 0.0
            score = (right / max(1, sick) - wrong / max(1, healthy), -wrong, gap)
            if best is None or score > best[0]:
                best = score, separator
    return best[1] if best else None


def area(rows: Sequence[Row], name: str) -> float:
    """Return how often a sick run's extreme is beyond a healthy one's, in the better direction; .5 says nothing."""
    best = 0.0
    for high in (True, False):
        ends = extremes(rows, name, high)
        pairs = [(a, b) for a in ends[False] for b in ends[True]]
        wins = sum(0.5 if a == b else float((b > a) == high) for a, b in pairs)
        best = max(best, wins / len(pairs) if pairs else 0.0)
    return best


def severity(code: str, fired: Sequence[int], of: Sequence[int]) -> str:
    """Return the severity that counts of healthy and sick runs support: `info` unless the sick have it more often."""
    if not sum(fired):
        return "info (never fired)"
    if fisher(fired[0], of[0], fired[1], of[1]) >= CHANCE or fired[0] > FALSE_ALARMS * of[0]:
        return "info"
    return "fail" if not fired[0] and "fail" in VERDICTS[code] else "warn"
